//! The DNS servers, asked in order; hickory writes and reads the messages.
//!
//! In order, and never two of them at once: where the first alone knows a private zone, the second
//! must not win by being faster. The next is asked when one fails or keeps silent. Names are asked
//! as absolute ones, so that no search list is followed, and of an answer only what belongs to the
//! name is taken. What is found is not vetted here.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{self, RData, RecordType};
use tokio::time::timeout;
use tracing::warn;

use super::{is_shortage, upstream};
use crate::policy::{Cause, Failure, Name, Side};

/// Of an answer, so many addresses are looked at, half of them of each family. ACR answers with a
/// handful.
pub const MOST_ADDRESSES: usize = 64;

/// A chain of aliases is followed so far. ACR's have four or five.
const LONGEST_CHAIN: usize = 16;

/// How long one server has; within it hickory repeats a question that may have been lost.
const ATTEMPT: Duration = Duration::from_secs(2);

/// How often the list of servers is gone through, where all keep silent.
const ROUNDS: usize = 2;

/// How long one family waits for the other once it has addresses. RFC 8305 §3 takes 50 ms; what is
/// found serves many sessions, so there is time for a slower server.
const GRACE: Duration = Duration::from_millis(300);

/// No answer is kept longer, whatever its TTL says: ACR moves names on fail-over.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// A name that has no address is not asked for again for so long at least, and at most.
const NEGATIVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// After a failure so long a pause, so that a storm of sessions asks once.
const PAUSE: Duration = Duration::from_secs(1);

/// Where the system's servers are named.
pub(super) const RESOLV_CONF: &str = "/etc/resolv.conf";

/// As many of the system's servers are asked as resolv.conf(5) says.
const SYSTEM_SERVERS: usize = 3;

/// What looking a name up came to, and how long that holds.
#[derive(Debug, Clone)]
pub(super) struct Fresh {
    pub(super) found: Result<Arc<[IpAddr]>, Failure>,
    pub(super) lives: Duration,
}

/// The servers of a policy, or of the system where it names none.
#[derive(Debug)]
pub(super) struct Servers {
    configured: Vec<SocketAddr>,
    system: Option<Stamp>,
    clients: Vec<TokioResolver>,
}

/// What tells one state of resolv.conf from the next.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        let changed = (found.ctime(), found.ctime_nsec());
        Some(Self { inode: found.ino(), size: found.len(), changed })
    }
}

/// What one family of addresses came to.
enum Family {
    Found(Vec<IpAddr>, Duration),
    Empty(Duration),
    Failed(Failure),
}

impl Servers {
    /// The servers of a policy, or the system's where there are none. There may be none at all, as
    /// before the network is up: then every look-up fails until resolv.conf changes.
    pub(super) fn new(configured: &[SocketAddr], resolv_conf: &Path) -> Self {
        let (asked, system) = if configured.is_empty() {
            let stamp = Stamp::of(resolv_conf);
            (name_servers(resolv_conf), stamp)
        } else {
            (configured.to_vec(), None)
        };
        let clients: Vec<_> = asked.into_iter().filter_map(client).collect();
        if clients.is_empty() {
            warn!("no DNS server: name some in [dns] servers");
        }
        Self { configured: configured.to_vec(), system, clients }
    }

    /// What the policy says of them: none for the system's.
    pub(super) fn configured(&self) -> &[SocketAddr] {
        &self.configured
    }

    /// Whether they are the servers of this policy.
    pub(super) fn are(&self, configured: &[SocketAddr]) -> bool {
        self.configured == configured
    }

    /// Whether they are still what the policy, or the system, says.
    pub(super) fn are_current(&self, configured: &[SocketAddr], resolv_conf: &Path) -> bool {
        self.are(configured) && (!configured.is_empty() || self.system == Stamp::of(resolv_conf))
    }

    /// Looks a name up, both families at once.
    pub(super) async fn ask(&self, name: &Name) -> Fresh {
        let Ok(mut absolute) = rr::Name::from_ascii(name.as_str()) else {
            return Fresh { found: Err(upstream(Cause::NameNotFound)), lives: NEGATIVE.1 };
        };
        absolute.set_fqdn(true);
        let mut v4 = pin!(self.ask_family(&absolute, RecordType::A));
        let mut v6 = pin!(self.ask_family(&absolute, RecordType::AAAA));
        let (v4, v6) = tokio::select! {
            v4 = &mut v4 => {
                let v6 = beside(&v4, v6).await;
                (v4, v6)
            }
            v6 = &mut v6 => (beside(&v6, v4).await, v6),
        };
        both(v4, v6)
    }

    async fn ask_family(&self, name: &rr::Name, family: RecordType) -> Family {
        if self.clients.is_empty() {
            return Family::Failed(upstream(Cause::LookupFailed));
        }
        let mut failure = upstream(Cause::LookupTimeout);
        for _ in 0..ROUNDS {
            for client in &self.clients {
                let asked = timeout(ATTEMPT, client.lookup(name.clone(), family)).await;
                match asked.unwrap_or(Err(NetError::Timeout)) {
                    Ok(answer) => return taken(&answer, name, family),
                    Err(NetError::Dns(DnsError::NoRecordsFound(none)))
                        if matches!(
                            none.response_code,
                            ResponseCode::NXDomain | ResponseCode::NoError
                        ) =>
                    {
                        return empty(none.negative_ttl);
                    }
                    Err(NetError::Timeout) => {}
                    Err(error) => failure = failure_of(&error),
                }
            }
            if failure.cause != Cause::LookupTimeout {
                break;
            }
        }
        Family::Failed(failure)
    }
}

/// The second family: waited for as long as it takes, but where the first has addresses.
async fn beside(first: &Family, second: impl Future<Output = Family>) -> Family {
    if !matches!(first, Family::Found(..)) {
        return second.await;
    }
    let late = |_| Family::Failed(upstream(Cause::LookupTimeout));
    timeout(GRACE, second).await.unwrap_or_else(late)
}

/// One family that answers is enough; that there is nothing is believed only of both.
fn both(v4: Family, v6: Family) -> Fresh {
    use Family::{Empty, Failed, Found};
    let found = |addresses: Vec<IpAddr>, lives| Fresh { found: Ok(addresses.into()), lives };
    match (v4, v6) {
        (Found(v4, lives), Found(v6, others)) => found([v4, v6].concat(), lives.min(others)),
        (Found(addresses, lives), Empty(_)) | (Empty(_), Found(addresses, lives)) => {
            found(addresses, lives)
        }
        // Half an answer is asked for again soon.
        (Found(addresses, lives), Failed(_)) | (Failed(_), Found(addresses, lives)) => {
            found(addresses, lives.min(NEGATIVE.1))
        }
        (Empty(lives), Empty(others)) => {
            Fresh { found: Err(upstream(Cause::NameNotFound)), lives: lives.min(others) }
        }
        (Failed(failure), _) | (_, Failed(failure)) => Fresh { found: Err(failure), lives: PAUSE },
    }
}

/// The addresses of an answer that belong to the name, by way of its aliases.
fn taken(answer: &Lookup, name: &rr::Name, family: RecordType) -> Family {
    let mut lives = LONGEST;
    let mut owners = vec![name];
    while owners.len() <= LONGEST_CHAIN {
        let alias = answer.answers().iter().find_map(|record| match &record.data {
            RData::CNAME(alias) if owners.last() == Some(&&record.name) => {
                Some((alias, record.ttl))
            }
            _ => None,
        });
        let Some((alias, ttl)) = alias else { break };
        owners.push(&alias.0);
        lives = lives.min(seconds(ttl));
    }
    let mut found = Vec::new();
    let ours = answer
        .answers()
        .iter()
        .filter(|record| record.record_type() == family && owners.contains(&&record.name));
    for record in ours {
        lives = lives.min(seconds(record.ttl));
        found.extend(record.data.ip_addr().filter(|_| found.len() < MOST_ADDRESSES / 2));
    }
    if found.is_empty() { empty(None) } else { Family::Found(found, lives) }
}

fn empty(ttl: Option<u32>) -> Family {
    let lives = ttl.map_or(NEGATIVE.0, |ttl| seconds(ttl).clamp(NEGATIVE.0, NEGATIVE.1));
    Family::Empty(lives)
}

fn seconds(ttl: u32) -> Duration {
    Duration::from_secs(ttl.into())
}

fn failure_of(error: &NetError) -> Failure {
    match error {
        NetError::Io(error) if is_shortage(error) => {
            Failure { side: Side::Gate, cause: Cause::Internal }
        }
        _ => upstream(Cause::LookupFailed),
    }
}

fn client(server: SocketAddr) -> Option<TokioResolver> {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = server.port();
        connection
    });
    let server = NameServerConfig::new(server.ip(), true, connections.into());
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.ndots = 0;
    options.timeout = ATTEMPT;
    options.attempts = 0;
    // The hosts file would be a second, silent `[dns.hosts]`.
    options.use_hosts_file = ResolveHosts::Never;
    // What is kept is kept by the resolver, under one rule.
    options.cache_size = 0;
    builder.build().inspect_err(|error| warn!(%error, "DNS cannot be set up")).ok()
}

/// The system's DNS servers, which its programs ask.
#[must_use]
pub fn system_servers() -> Vec<SocketAddr> {
    name_servers(Path::new(RESOLV_CONF))
}

/// The servers that resolv.conf(5) names; its search lists and options are not for us.
fn name_servers(resolv_conf: &Path) -> Vec<SocketAddr> {
    let text = fs::read_to_string(resolv_conf)
        .inspect_err(|error| warn!(%error, path = %resolv_conf.display(), "no name servers read"))
        .unwrap_or_default();
    let named = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        words.next().filter(|word| *word == "nameserver")?;
        words.next()?.parse::<IpAddr>().ok()
    });
    named.take(SYSTEM_SERVERS).map(|ip| SocketAddr::new(ip, 53)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_servers_are_those_that_the_library_would_ask() {
        let cases: &[(&str, &[&str])] = &[
            ("nameserver 10.0.0.53\n", &["10.0.0.53:53"]),
            (
                "search a.example\nnameserver\t10.0.0.53 # first\nnameserver fd00::53\n",
                &["10.0.0.53:53", "[fd00::53]:53"],
            ),
            ("# nameserver 10.0.0.1\n;nameserver 10.0.0.2\noptions ndots:5\n", &[]),
            (
                "nameserver 10.0.0.1\nnameserver nonsense\nnameserver 10.0.0.3\n",
                &["10.0.0.1:53", "10.0.0.3:53"],
            ),
            (
                "nameserver 1.1.1.1\nnameserver 1.1.1.2\nnameserver 1.1.1.3\nnameserver 1.1.1.4\n",
                &["1.1.1.1:53", "1.1.1.2:53", "1.1.1.3:53"],
            ),
            ("", &[]),
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        for (text, expected) in cases {
            fs::write(&path, text).unwrap();
            let found: Vec<String> = name_servers(&path).iter().map(ToString::to_string).collect();
            assert_eq!(&found, expected, "{text:?}");
        }
        assert!(name_servers(&folder.path().join("absent")).is_empty());
        assert!(name_servers(folder.path()).is_empty());
    }
}
