//! Queries the DNS servers in order.
//!
//! Two servers are never queried at once: if only the first knows a private zone, the second must
//! not win by being faster. The next server is queried if one fails or times out. A server that
//! timed out is queried last for a while. Names are absolute, so search lists are not used.
//! Addresses are not vetted here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::{self, RecordType};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::exchange::{self, NoAnswer, QueryParameters};
use super::reply::{self, Content, Extension, LONGEST_CHAIN, MOST_OF_FAMILY};
use super::system::{Stamp, name_servers, socket_address};
use crate::policy::{Cause, Failure, Name, NameServer, Side};

/// Maximum number of addresses of an answer, half of them of each family.
pub const MOST_ADDRESSES: usize = 2 * MOST_OF_FAMILY;

/// Maximum number of queries for one name if a server returns one alias at a time.
const MOST_QUESTIONS: usize = 8;

/// Timeout of a server before the next one is queried. It is shorter if the deadline leaves less
/// for each.
const STEP: Duration = Duration::from_secs(2);

/// Minimum timeout of a server.
const SHORTEST_STEP: Duration = Duration::from_millis(200);

/// Number of passes over the list of servers if all time out.
const ROUNDS: usize = 2;

/// How long a server that timed out is queried last.
const SILENT: Duration = Duration::from_secs(30);

/// How long a server without EDNS is queried without it.
const PLAIN: Duration = Duration::from_secs(60 * 60);

/// How long one family waits for the other once it has addresses. RFC 8305 §3 recommends 50 ms; the
/// result serves many sessions, so slower servers get more time.
const GRACE: Duration = Duration::from_millis(300);

/// How long a session with a stale answer waits for a server: the client response timer of RFC 8767
/// §5.
const CLIENT_RESPONSE: Duration = Duration::from_millis(1800);

/// Maximum lifetime of an answer, whatever its TTL, because ACR moves names on fail-over.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// Minimum and maximum lifetime of a negative answer.
const NEGATIVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Lifetime of a failure, so that concurrent sessions query once.
const PAUSE: Duration = Duration::from_secs(1);

/// The result of a query and its lifetime.
#[derive(Debug, Clone)]
pub(super) struct Fresh {
    pub(super) found: Result<Arc<[IpAddr]>, Failure>,
    pub(super) lives: Duration,
}

impl Fresh {
    /// Creates a failure of the upstream or the gate.
    pub(super) fn failed(side: Side, cause: Cause) -> Self {
        Self { found: Err(Failure { side, cause }), lives: PAUSE }
    }
}

/// The servers of a policy, or of the system if it names none.
#[derive(Debug)]
pub(super) struct Servers {
    configured: Vec<NameServer>,
    system: Option<Stamp>,
    servers: Vec<Server>,
}

/// A server and its state.
#[derive(Debug)]
struct Server {
    address: NameServer,
    learnt: Mutex<Learnt>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Learnt {
    /// It timed out, and is queried last until then.
    silent_until: Option<Instant>,
    /// It does not support EDNS, and is queried without it until then.
    plain_until: Option<Instant>,
}

/// The result for one address family.
#[derive(Debug)]
enum FamilyResult {
    Found(Vec<IpAddr>, Duration),
    Empty(Duration),
    Failed(Failure),
}

impl Servers {
    /// Creates the servers of a policy, or the system's if there are none. The list can be empty,
    /// for example before the network is up: all queries fail until resolv.conf changes.
    pub(super) fn new(configured: &[NameServer], resolv_conf: &Path) -> Self {
        let (asked, system) = if configured.is_empty() {
            let stamp = Stamp::of(resolv_conf);
            (name_servers(resolv_conf), stamp)
        } else {
            (configured.to_vec(), None)
        };
        if asked.is_empty() {
            warn!("no DNS server: name some in [dns] servers");
        }
        let servers = asked.into_iter().map(|address| Server { address, learnt: Mutex::default() });
        Self { configured: configured.to_vec(), system, servers: servers.collect() }
    }

    /// Returns the servers of the policy; an empty list for the system's.
    pub(super) fn configured(&self) -> &[NameServer] {
        &self.configured
    }

    /// Returns whether these are the servers of this policy.
    pub(super) fn are(&self, configured: &[NameServer]) -> bool {
        self.configured == configured
    }

    /// Returns whether the policy, or the system, still names these servers.
    pub(super) fn are_current(&self, configured: &[NameServer], resolv_conf: &Path) -> bool {
        self.are(configured) && (!configured.is_empty() || self.system == Stamp::of(resolv_conf))
    }

    /// Returns how long a session with a stale answer waits, of its `budget`: until the last
    /// responsive server was queried and had time to answer. Zero if all of them are known to time
    /// out.
    pub(super) fn stale_wait(&self, budget: Duration) -> Duration {
        let now = Instant::now();
        let count = self.servers.iter().filter(|server| !server.is_silent(now)).count();
        match u32::try_from(count).unwrap_or(u32::MAX).checked_sub(1) {
            None => Duration::ZERO,
            Some(others) => (step(budget, count) * others + CLIENT_RESPONSE).min(budget),
        }
    }

    /// Resolves a name, both families at once. The servers share the remaining time.
    pub(super) async fn ask(&self, name: &Name, by: Instant) -> Fresh {
        let Ok(mut absolute) = rr::Name::from_ascii(name.as_str()) else {
            return nothing(NEGATIVE.1);
        };
        absolute.set_fqdn(true);
        if let Some(fresh) = special(name) {
            return fresh;
        }
        let mut v4 = pin!(self.ask_family(&absolute, RecordType::A, by));
        let mut v6 = pin!(self.ask_family(&absolute, RecordType::AAAA, by));
        let (v4, v6) = tokio::select! {
            v4 = &mut v4 => {
                let v6 = beside(&v4, v6).await;
                (v4, v6)
            }
            v6 = &mut v6 => (beside(&v6, v4).await, v6),
        };
        both(v4, v6)
    }

    async fn ask_family(&self, name: &rr::Name, family: RecordType, by: Instant) -> FamilyResult {
        let mut failure = match self.servers.is_empty() {
            true => Cause::LookupFailed,
            false => Cause::LookupTimeout,
        };
        for _ in 0..ROUNDS {
            let servers = self.in_order();
            for (position, server) in servers.iter().enumerate() {
                let left = by.saturating_duration_since(Instant::now());
                let step = step(left, servers.len() - position);
                match server.look_up(name, family, step).await {
                    Ok(found) => return found,
                    Err(NoAnswer::Silent) => {}
                    Err(NoAnswer::Unreachable | NoAnswer::Failed) => failure = Cause::LookupFailed,
                    Err(NoAnswer::Shortage) => {
                        return FamilyResult::Failed(Failure {
                            side: Side::Gate,
                            cause: Cause::Internal,
                        });
                    }
                }
            }
            if failure != Cause::LookupTimeout {
                break;
            }
        }
        FamilyResult::Failed(Failure { side: Side::Upstream, cause: failure })
    }

    /// Returns the responsive servers in order, then those that timed out.
    fn in_order(&self) -> Vec<&Server> {
        let now = Instant::now();
        let (silent, others): (Vec<_>, Vec<_>) =
            self.servers.iter().partition(|server| server.is_silent(now));
        [others, silent].concat()
    }
}

/// Returns the timeout of each of the remaining servers.
fn step(left: Duration, servers: usize) -> Duration {
    let share = left / u32::try_from(servers.max(1)).unwrap_or(u32::MAX);
    share.clamp(SHORTEST_STEP, STEP)
}

impl Server {
    fn learnt(&self) -> Learnt {
        *self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_silent(&self, now: Instant) -> bool {
        self.learnt().silent_until.is_some_and(|until| now < until)
    }

    /// Queries a name, and the target of its alias if the answer lacks it.
    async fn look_up(
        &self,
        name: &rr::Name,
        family: RecordType,
        step: Duration,
    ) -> Result<FamilyResult, NoAnswer> {
        let mut name = name.clone();
        let mut lives = LONGEST;
        let mut names = LONGEST_CHAIN;
        for _ in 0..MOST_QUESTIONS {
            let answer = self.exchange(&name, family, step).await?;
            match reply::content(&answer, &name, family, names) {
                Content::Addresses(addresses, ttl) => {
                    return Ok(FamilyResult::Found(addresses, lives.min(seconds(ttl))));
                }
                Content::Nothing(ttl) => return Ok(empty(ttl)),
                Content::Alias { end, names: followed, ttl } => {
                    // The end of the chain is counted again in its own query.
                    names = names.saturating_sub(followed.saturating_sub(1));
                    lives = lives.min(seconds(ttl));
                    name = end;
                }
            }
        }
        Ok(empty(None))
    }

    async fn exchange(
        &self,
        name: &rr::Name,
        family: RecordType,
        step: Duration,
    ) -> Result<Message, NoAnswer> {
        let Learnt { plain_until, .. } = self.learnt();
        let is_plain = plain_until.is_some_and(|until| Instant::now() < until);
        let extension = if is_plain { Extension::Plain } else { Extension::Edns };
        let ended = match socket_address(&self.address) {
            Ok(address) => {
                exchange::ask(address, QueryParameters { name, family, extension }, step).await
            }
            Err(_) => Err(NoAnswer::Unreachable),
        };
        self.learn(
            extension,
            ended.as_ref().map(|(answer, extension)| {
                // A server that ignores the record supports it no more than one that rejects it.
                if answer.edns.is_some() { Extension::Edns } else { *extension }
            }),
        );
        ended.map(|(answer, _)| answer)
    }

    fn learn(&self, asked: Extension, ended: Result<Extension, &NoAnswer>) {
        let mut learnt = self.learnt.lock().unwrap_or_else(PoisonError::into_inner);
        let was_silent = learnt.silent_until.is_some();
        let now = Instant::now();
        match ended {
            Err(NoAnswer::Silent | NoAnswer::Unreachable) => {
                learnt.silent_until = Some(now + SILENT);
                if !was_silent {
                    warn!(server = %self.address, "DNS server does not answer; it is asked last");
                }
            }
            Err(NoAnswer::Failed) => learnt.silent_until = None,
            Err(NoAnswer::Shortage) => {}
            Ok(answered) => {
                learnt.silent_until = None;
                if was_silent {
                    info!(server = %self.address, "DNS server answers again");
                }
                if (asked, answered) == (Extension::Edns, Extension::Plain) {
                    learnt.plain_until = Some(now + PLAIN);
                    info!(server = %self.address, "DNS server does not know EDNS");
                }
            }
        }
    }
}

/// Waits for the second family; without limit only if the first has no addresses.
async fn beside(first: &FamilyResult, second: impl Future<Output = FamilyResult>) -> FamilyResult {
    if !matches!(first, FamilyResult::Found(..)) {
        return second.await;
    }
    let late = Failure { side: Side::Upstream, cause: Cause::LookupTimeout };
    timeout(GRACE, second).await.unwrap_or(FamilyResult::Failed(late))
}

/// One family with addresses is enough; a negative result needs both.
fn both(v4: FamilyResult, v6: FamilyResult) -> Fresh {
    use FamilyResult::{Empty, Failed, Found};
    let found = |addresses: Vec<IpAddr>, lives| Fresh { found: Ok(addresses.into()), lives };
    match (v4, v6) {
        (Found(v4, lives), Found(v6, others)) => found([v4, v6].concat(), lives.min(others)),
        (Found(addresses, lives), Empty(_)) | (Empty(_), Found(addresses, lives)) => {
            found(addresses, lives)
        }
        // A partial answer is queried again soon.
        (Found(addresses, lives), Failed(_)) | (Failed(_), Found(addresses, lives)) => {
            found(addresses, lives.min(NEGATIVE.1))
        }
        (Empty(lives), Empty(others)) => nothing(lives.min(others)),
        // A server that answers one of the queries is responsive.
        (Failed(Failure { cause: Cause::LookupTimeout, .. }), Failed(failure))
        | (Failed(failure), _)
        | (_, Failed(failure)) => Fresh { found: Err(failure), lives: PAUSE },
    }
}

/// Returns the result of names that are never queried: names of this host, and names that do not
/// exist (RFC 6761, RFC 7686).
fn special(name: &Name) -> Option<Fresh> {
    match name.as_str().rsplit('.').next() {
        Some("localhost") => {
            let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            Some(Fresh { found: Ok(Arc::new(loopback)), lives: LONGEST })
        }
        Some("invalid" | "onion") => Some(nothing(NEGATIVE.1)),
        _ => None,
    }
}

fn nothing(lives: Duration) -> Fresh {
    let failure = Failure { side: Side::Upstream, cause: Cause::NameNotFound };
    Fresh { found: Err(failure), lives }
}

fn empty(ttl: Option<u32>) -> FamilyResult {
    let lives = ttl.map_or(NEGATIVE.0, |ttl| seconds(ttl).clamp(NEGATIVE.0, NEGATIVE.1));
    FamilyResult::Empty(lives)
}

fn seconds(ttl: u32) -> Duration {
    Duration::from_secs(ttl.into()).min(LONGEST)
}
