//! Looks allowed names up: fixed answers first, then a cache, then the DNS servers.
//!
//! hickory asks and parses; this module decides what is asked. A name is asked as an absolute one,
//! so that no search list is followed; the hosts file is not consulted, since it would be a second,
//! silent `[dns.hosts]`. Answers live no longer than their TTL, since ACR moves names on fail-over.
//! Sessions that want the same name at the same time wait for one look-up.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use crate::policy::{Allowed, Cause, Failure, Name, PolicySet, Side};

/// Of an answer, so many addresses are looked at. ACR answers with a handful.
pub const MOST_ADDRESSES: usize = 64;

/// A name that has no address is not asked for again for so long at least, and at most.
const NEGATIVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// After a server's failure so long a pause, so that a storm of sessions asks once.
const PAUSE: Duration = Duration::from_secs(1);

/// No answer is kept longer, whatever its TTL says.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// So many names are kept. Allowed names are few; report mode lets any through.
const MOST_NAMES: usize = 10_000;

/// How long one attempt at one server takes, and how many there are.
const ATTEMPT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// `[dns.hosts]`.
    Pinned,
    /// An answer that still lives.
    Cache,
    /// A DNS server, just now.
    Server,
}

/// Where an allowed name resolves to.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The addresses with the port to dial; not vetted.
    pub addresses: Vec<SocketAddr>,
    /// Where they came from.
    pub origin: Origin,
}

/// Looks names up.
#[derive(Debug)]
pub struct Resolver {
    servers: Mutex<Servers>,
    names: DashMap<Name, Arc<Slot>>,
}

#[derive(Debug)]
struct Servers {
    configured: Vec<SocketAddr>,
    /// None while the system names no server, as before its network is up.
    client: Option<Arc<TokioResolver>>,
}

/// What is known of a name. Who looks it up holds the lock; the others wait.
type Slot = tokio::sync::Mutex<Option<Known>>;

#[derive(Debug, Clone)]
struct Known {
    until: Instant,
    found: Result<Arc<[IpAddr]>, Cause>,
}

impl Resolver {
    /// A resolver that asks these servers, or the system's where there are none.
    #[must_use]
    pub fn new(servers: &[SocketAddr]) -> Self {
        let servers = Servers { configured: servers.to_vec(), client: client(servers) };
        Self { servers: Mutex::new(servers), names: DashMap::new() }
    }

    /// Looks an allowed name up, by the servers of the policy that allowed it.
    ///
    /// # Errors
    /// `name-not-found`, `lookup-failed`, and `lookup-timeout` when the deadline comes first.
    pub async fn resolve(
        &self,
        set: &PolicySet,
        allowed: &Allowed,
        by: Instant,
    ) -> Result<Answer, Failure> {
        let target = allowed.target();
        if let Some(pins) = set.pins(allowed) {
            let pinned = pins.iter().map(|pin| (pin.address, pin.port.unwrap_or(target.port)));
            let addresses = pinned.map(SocketAddr::from).collect();
            return Ok(Answer { addresses, origin: Origin::Pinned });
        }
        let client = self.client(&set.rules().dns_servers).ok_or(failure(Cause::LookupFailed))?;
        let slot = self.slot(&target.name);
        let looked_up = timeout_at(by, look_up(&slot, &client, &target.name)).await;
        let (found, origin) = looked_up.map_err(|_| failure(Cause::LookupTimeout))?;
        let found = found.map_err(failure)?;
        let addresses = found.iter().map(|ip| SocketAddr::new(*ip, target.port)).collect();
        Ok(Answer { addresses, origin })
    }

    /// The client of these servers, made anew when a reload has changed them.
    fn client(&self, servers: &[SocketAddr]) -> Option<Arc<TokioResolver>> {
        let mut known = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = known.configured != servers;
        if changed {
            known.configured = servers.to_vec();
            self.names.clear();
        }
        if changed || known.client.is_none() {
            known.client = client(servers);
        }
        known.client.clone()
    }

    fn slot(&self, name: &Name) -> Arc<Slot> {
        if let Some(slot) = self.names.get(name) {
            return slot.clone();
        }
        if self.names.len() >= MOST_NAMES {
            self.names.clear();
        }
        self.names.entry(name.clone()).or_default().clone()
    }
}

async fn look_up(
    slot: &Slot,
    client: &TokioResolver,
    name: &Name,
) -> (Result<Arc<[IpAddr]>, Cause>, Origin) {
    let mut known = slot.lock().await;
    if let Some(known) = known.as_ref().filter(|known| known.until > Instant::now()) {
        return (known.found.clone(), Origin::Cache);
    }
    let fresh = ask(client, name).await;
    let found = fresh.found.clone();
    *known = Some(fresh);
    (found, Origin::Server)
}

async fn ask(client: &TokioResolver, name: &Name) -> Known {
    let absolute = rr::Name::from_ascii(name.as_str()).map(|mut name| {
        name.set_fqdn(true);
        name
    });
    let now = Instant::now();
    let Ok(absolute) = absolute else {
        return Known { until: now, found: Err(Cause::NameNotFound) };
    };
    match client.lookup_ip(absolute).await {
        Ok(answer) => {
            let ttl = answer.valid_until().saturating_duration_since(now.into_std()).min(LONGEST);
            let found: Arc<[IpAddr]> = answer.iter().take(MOST_ADDRESSES).collect();
            let found = if found.is_empty() { Err(Cause::NameNotFound) } else { Ok(found) };
            Known { until: now + ttl, found }
        }
        Err(error) => refused(&error, Instant::now()),
    }
}

fn refused(error: &NetError, now: Instant) -> Known {
    use hickory_resolver::proto::op::ResponseCode;
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none))
            if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError) =>
        {
            let ttl = none.negative_ttl.map_or(NEGATIVE.0, |ttl| Duration::from_secs(ttl.into()));
            let until = now + ttl.clamp(NEGATIVE.0, NEGATIVE.1);
            Known { until, found: Err(Cause::NameNotFound) }
        }
        NetError::Timeout => Known { until: now + PAUSE, found: Err(Cause::LookupTimeout) },
        _ => Known { until: now + PAUSE, found: Err(Cause::LookupFailed) },
    }
}

fn failure(cause: Cause) -> Failure {
    Failure { side: Side::Upstream, cause }
}

fn client(servers: &[SocketAddr]) -> Option<Arc<TokioResolver>> {
    let provider = TokioRuntimeProvider::default();
    let mut builder = if servers.is_empty() {
        match TokioResolver::builder(provider) {
            Ok(builder) => builder,
            Err(error) => {
                warn!(%error, "no DNS server: name some in [dns] servers");
                return None;
            }
        }
    } else {
        // By address, since each of an address's ports is one connection of one server.
        let mut by_address: HashMap<IpAddr, Vec<ConnectionConfig>> = HashMap::new();
        for server in servers {
            let connections = by_address.entry(server.ip()).or_default();
            for mut connection in [ConnectionConfig::udp(), ConnectionConfig::tcp()] {
                connection.port = server.port();
                connections.push(connection);
            }
        }
        let servers = by_address
            .into_iter()
            .map(|(address, connections)| NameServerConfig::new(address, true, connections));
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        TokioResolver::builder_with_config(config, provider)
    };
    let options = builder.options_mut();
    options.ndots = 0;
    options.timeout = ATTEMPT;
    options.attempts = ATTEMPTS;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.use_hosts_file = ResolveHosts::Never;
    // What is kept is kept here, under one rule.
    options.cache_size = 0;
    options.case_randomization = false;
    builder.build().inspect_err(|error| warn!(%error, "DNS cannot be set up")).ok().map(Arc::new)
}
