//! The DNS servers, asked in order.
//!
//! In order, and never two of them at once: if only the first knows a private zone, the second must
//! not win by being faster. The next is asked when one fails or keeps silent. A server that kept
//! silent is asked last for a while. Names are asked as absolute names, so that no search list is
//! followed. What is found is not vetted here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::{self, RecordType};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::exchange::{self, Asked, NoAnswer};
use super::reply::{self, Content, Extension, LONGEST_CHAIN, MOST_OF_FAMILY};
use super::system::{Stamp, name_servers, socket_address};
use crate::policy::{Cause, Failure, Name, NameServer, Side};

/// At most this many addresses of an answer are used, half of them of each family.
pub const MOST_ADDRESSES: usize = 2 * MOST_OF_FAMILY;

/// How many questions one name takes at most, where a server answers with one alias at a time.
const MOST_QUESTIONS: usize = 8;

/// How long a server has for an answer before the next one is asked; less if the deadline leaves
/// less for each.
const STEP: Duration = Duration::from_secs(2);

/// The shortest time a server has, however little is left.
const SHORTEST_STEP: Duration = Duration::from_millis(200);

/// How often the list of servers is gone through if all keep silent.
const ROUNDS: usize = 2;

/// How long a server that kept silent is asked last.
const SILENT: Duration = Duration::from_secs(30);

/// How long a server that does not know EDNS is asked without it.
const PLAIN: Duration = Duration::from_secs(60 * 60);

/// How long one family waits for the other once it has addresses. RFC 8305 §3 takes 50 ms; what is
/// found serves many sessions, so there is time for a slower server.
const GRACE: Duration = Duration::from_millis(300);

/// How long a session waits for a server that may answer while there is a stale answer: the client
/// response timer of RFC 8767 §5.
const CLIENT_RESPONSE: Duration = Duration::from_millis(1800);

/// No answer is kept longer, whatever its TTL says: ACR moves names on fail-over.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// A name that has no address is not asked for again for at least, and at most, this long.
const NEGATIVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The pause after a failure, so that many sessions at once ask once.
const PAUSE: Duration = Duration::from_secs(1);

/// What looking a name up came to, and how long that holds.
#[derive(Debug, Clone)]
pub(super) struct Fresh {
    pub(super) found: Result<Arc<[IpAddr]>, Failure>,
    pub(super) lives: Duration,
}

impl Fresh {
    /// A failure of the upstream or the gate.
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

/// A server, and what was learnt of it.
#[derive(Debug)]
struct Server {
    address: NameServer,
    learnt: Mutex<Learnt>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Learnt {
    /// It kept silent, and is asked last until then.
    silent_until: Option<Instant>,
    /// It does not know EDNS, and is asked without it until then.
    plain_until: Option<Instant>,
}

/// What one family of addresses came to.
#[derive(Debug)]
enum Family {
    Found(Vec<IpAddr>, Duration),
    Empty(Duration),
    Failed(Failure),
}

impl Servers {
    /// The servers of a policy, or the system's if there are none. There may be none at all, as
    /// before the network is up: then every look-up fails until resolv.conf changes.
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

    /// What the policy names; nothing for the system's servers.
    pub(super) fn configured(&self) -> &[NameServer] {
        &self.configured
    }

    /// Whether they are the servers of this policy.
    pub(super) fn are(&self, configured: &[NameServer]) -> bool {
        self.configured == configured
    }

    /// Whether they are still what the policy, or the system, names.
    pub(super) fn are_current(&self, configured: &[NameServer], resolv_conf: &Path) -> bool {
        self.are(configured) && (!configured.is_empty() || self.system == Stamp::of(resolv_conf))
    }

    /// How long a session waits for them while it has a stale answer, of the time that it has: until
    /// the last one that may answer was asked, and had time to answer. Not at all while all of them
    /// are known to keep silent.
    pub(super) fn stale_wait(&self, budget: Duration) -> Duration {
        let now = Instant::now();
        let count = self.servers.iter().filter(|server| !server.is_silent(now)).count();
        match u32::try_from(count).unwrap_or(u32::MAX).checked_sub(1) {
            None => Duration::ZERO,
            Some(others) => (step(budget, count) * others + CLIENT_RESPONSE).min(budget),
        }
    }

    /// Looks a name up, both families at once. The servers share the time that is left.
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

    async fn ask_family(&self, name: &rr::Name, family: RecordType, by: Instant) -> Family {
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
                        return Family::Failed(Failure {
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
        Family::Failed(Failure { side: Side::Upstream, cause: failure })
    }

    /// Those that may answer in their order, then those that kept silent.
    fn in_order(&self) -> Vec<&Server> {
        let now = Instant::now();
        let (silent, others): (Vec<_>, Vec<_>) =
            self.servers.iter().partition(|server| server.is_silent(now));
        [others, silent].concat()
    }
}

/// How long one of the servers that are still to be asked has.
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

    /// Asks for a name, and for what it is an alias of if the answer does not have that too.
    async fn look_up(
        &self,
        name: &rr::Name,
        family: RecordType,
        step: Duration,
    ) -> Result<Family, NoAnswer> {
        let mut name = name.clone();
        let mut lives = LONGEST;
        let mut names = LONGEST_CHAIN;
        for _ in 0..MOST_QUESTIONS {
            let answer = self.exchange(&name, family, step).await?;
            match reply::content(&answer, &name, family, names) {
                Content::Addresses(addresses, ttl) => {
                    return Ok(Family::Found(addresses, lives.min(seconds(ttl))));
                }
                Content::Nothing(ttl) => return Ok(empty(ttl)),
                Content::Alias { end, names: followed, ttl } => {
                    // The end counts again where it is asked for.
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
            Ok(address) => exchange::ask(address, Asked { name, family, extension }, step).await,
            Err(_) => Err(NoAnswer::Unreachable),
        };
        self.learn(
            extension,
            ended.as_ref().map(|(answer, extension)| {
                // One that ignores the record knows no more of it than one that objects to it.
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

/// The second family: waited for as long as it takes, unless the first has addresses.
async fn beside(first: &Family, second: impl Future<Output = Family>) -> Family {
    if !matches!(first, Family::Found(..)) {
        return second.await;
    }
    let late = Failure { side: Side::Upstream, cause: Cause::LookupTimeout };
    timeout(GRACE, second).await.unwrap_or(Family::Failed(late))
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
        (Empty(lives), Empty(others)) => nothing(lives.min(others)),
        // A server that answers one of the questions is not one that does not answer.
        (Failed(Failure { cause: Cause::LookupTimeout, .. }), Failed(failure))
        | (Failed(failure), _)
        | (_, Failed(failure)) => Fresh { found: Err(failure), lives: PAUSE },
    }
}

/// What is never asked: names that mean this host, and names that exist nowhere (RFC 6761, RFC 7686).
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

fn empty(ttl: Option<u32>) -> Family {
    let lives = ttl.map_or(NEGATIVE.0, |ttl| seconds(ttl).clamp(NEGATIVE.0, NEGATIVE.1));
    Family::Empty(lives)
}

fn seconds(ttl: u32) -> Duration {
    Duration::from_secs(ttl.into()).min(LONGEST)
}
