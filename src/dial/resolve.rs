//! Resolves allowed names: static addresses first, then the cache, then the DNS servers.
//!
//! Answers are cached no longer than their TTL. Sessions that need the same name at the same time
//! share one query. The query outlives the session that started it, so a session with a short
//! deadline or a stale answer does not keep the next server from being queried. Addresses are not
//! judged here: a session judges its answer and then dials it, so later changes of the answer have
//! no effect.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use super::cache::{Cache, Turn};
use super::servers::{Fresh, Servers};
use super::stale::{self, LastAnswers};
use super::system::RESOLV_CONF;
use crate::policy::{
    Allowed, Cause, Failure, Name, NameServer, ParentAddress, PolicySet, Side, Target,
};

/// Maximum number of concurrent queries. Each uses two sockets.
const MOST_LOOK_UPS: usize = 64;

/// Maximum duration of a query.
const LONGEST_LOOK_UP: Duration = Duration::from_secs(20);

/// Lifetime of a static address, which a reload can change.
const PINNED: Duration = Duration::from_secs(60);

/// The source of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerSource {
    /// `[dns.hosts]`.
    Pinned,
    /// An answer that has not expired.
    Cache,
    /// A DNS server, just now.
    Server,
    /// An expired answer, because no server answers.
    Stale,
}

/// The addresses of an allowed name.
#[derive(Debug, Clone)]
pub struct Resolution {
    /// The addresses with the port to dial; not vetted.
    pub addresses: Vec<SocketAddr>,
    /// Where they came from.
    pub origin: AnswerSource,
    /// Their lifetime.
    pub lives: Duration,
}

/// Resolves names.
#[derive(Debug)]
pub struct Resolver {
    resolv_conf: PathBuf,
    /// Locked only if a name is not cached.
    servers: Mutex<Arc<Servers>>,
    memory: Arc<Memory>,
    room: Arc<Semaphore>,
}

/// The results of queries.
#[derive(Debug, Default)]
struct Memory {
    names: Cache,
    last: LastAnswers,
}

/// A query that finished, or did not finish within the session's deadline.
enum LookedUp {
    Ended(Fresh),
    Late,
}

impl Resolver {
    /// Creates a resolver for these servers, or the system's if there are none.
    #[must_use]
    pub fn new(servers: &[NameServer]) -> Self {
        Self::with_system(servers, Path::new(RESOLV_CONF))
    }

    pub(super) fn with_system(servers: &[NameServer], resolv_conf: &Path) -> Self {
        Self {
            resolv_conf: resolv_conf.to_owned(),
            servers: Mutex::new(Arc::new(Servers::new(servers, resolv_conf))),
            memory: Arc::default(),
            room: Arc::new(Semaphore::new(MOST_LOOK_UPS)),
        }
    }

    /// Resolves an allowed name with the servers of the policy that allowed it.
    ///
    /// # Errors
    /// `name-not-found`; `lookup-failed`; `lookup-timeout`, also at the deadline; `internal` if the
    /// gate has no descriptor left.
    pub async fn resolve(
        &self,
        set: &PolicySet,
        allowed: &Allowed,
        by: Instant,
    ) -> Result<Resolution, Failure> {
        self.resolve_target(set, allowed.target(), by).await
    }

    /// Looks up the name of a parent proxy, which the configuration allows.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub(super) async fn resolve_parent(
        &self,
        set: &PolicySet,
        parent: &ParentAddress,
        by: Instant,
    ) -> Result<Vec<SocketAddr>, Failure> {
        let Some(target) = parent.target() else { return Ok(Vec::new()) };
        Ok(self.resolve_target(set, &target, by).await?.addresses)
    }

    async fn resolve_target(
        &self,
        set: &PolicySet,
        target: &Target,
        by: Instant,
    ) -> Result<Resolution, Failure> {
        let rules = set.rules();
        let name = &target.name;
        let last = || self.memory.last.find(name, &rules.dns_servers, rules.dns_stale);
        if let Some(answer) = self.at_hand(set, target) {
            match answer {
                Err(failure) if is_unheard(failure) => {
                    return last().map_or(Err(failure), |last| Ok(stale(&last, target)));
                }
                answer => return answer,
            }
        }
        let had_last = last().is_some();
        let looked_up = self.look_up(name, &rules.dns_servers, had_last, by).await;
        let failure = match looked_up {
            LookedUp::Ended(Fresh { found: Ok(addresses), lives }) => {
                return Ok(answer(&addresses, AnswerSource::Server, lives, target));
            }
            LookedUp::Ended(Fresh { found: Err(failure), .. }) => failure,
            LookedUp::Late => LATE,
        };
        match last().filter(|_| is_unheard(failure)) {
            Some(last) => Ok(stale(&last, target)),
            None => Err(failure),
        }
    }

    /// Resolves an allowed name for a session whose stale addresses did not accept it: waits for
    /// the servers until the deadline.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub async fn resolve_anew(
        &self,
        set: &PolicySet,
        allowed: &Allowed,
        by: Instant,
    ) -> Result<Resolution, Failure> {
        if let Some(answer) = self.at_hand(set, allowed.target()) {
            return answer;
        }
        let name = &allowed.target().name;
        match self.look_up(name, &set.rules().dns_servers, false, by).await {
            LookedUp::Ended(Fresh { found, lives }) => {
                Ok(answer(&found?, AnswerSource::Server, lives, allowed.target()))
            }
            LookedUp::Late => Err(LATE),
        }
    }

    /// A fixed answer, or what is known.
    fn at_hand(&self, set: &PolicySet, target: &Target) -> Option<Result<Resolution, Failure>> {
        if let Some(pins) = set.pins(&target.name) {
            let pinned = pins.iter().map(|pin| (pin.address, pin.port.unwrap_or(target.port)));
            let addresses = pinned.map(SocketAddr::from).collect();
            return Some(Ok(Resolution { addresses, origin: AnswerSource::Pinned, lives: PINNED }));
        }
        let Fresh { found, lives } =
            self.memory.names.known(&target.name, &set.rules().dns_servers)?;
        Some(found.map(|found| answer(&found, AnswerSource::Cache, lives, target)))
    }

    /// Queries the servers, or waits for a running query. If that is aborted, the session queries
    /// once itself.
    async fn look_up(
        &self,
        name: &Name,
        configured: &[NameServer],
        has_last: bool,
        by: Instant,
    ) -> LookedUp {
        let servers = self.servers_of(configured);
        let now = Instant::now();
        // A stale answer must leave time to dial.
        let budget = by.saturating_duration_since(now) / if has_last { 2 } else { 1 };
        let stale_from = now + servers.stale_wait(budget);
        let mut has_asked = false;
        loop {
            let mut waiting = match self.memory.names.turn(name, &servers, stale_from) {
                Turn::Take(fresh) => return LookedUp::Ended(fresh),
                Turn::Wait(waiting) => waiting,
                Turn::Ask(..) if has_asked => {
                    return LookedUp::Ended(Fresh::failed(Side::Gate, Cause::Internal));
                }
                Turn::Ask(tell, waiting) => {
                    has_asked = true;
                    let by = if has_last { by.min(stale_from) } else { by };
                    debug!(%name, "DNS servers are asked");
                    let Ok(Ok(room)) = timeout_at(by, self.room.clone().acquire_owned()).await
                    else {
                        return LookedUp::Late;
                    };
                    let asking =
                        self.memory.clone().ask(name.clone(), servers.clone(), tell, now + budget);
                    tokio::spawn(async move {
                        asking.await;
                        drop(room);
                    });
                    waiting
                }
            };
            let by = if has_last { by.min(waiting.stale_from) } else { by };
            match timeout_at(by, waiting.found.wait_for(Option::is_some)).await {
                Err(_) => return LookedUp::Late,
                Ok(Ok(fresh)) => {
                    if let Some(fresh) = fresh.clone() {
                        return LookedUp::Ended(fresh);
                    }
                }
                Ok(Err(_)) => {}
            }
        }
    }

    /// Returns the current servers. Recreates them after a reload or a change of the system's
    /// servers.
    pub(super) fn servers_of(&self, configured: &[NameServer]) -> Arc<Servers> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if !servers.are_current(configured, &self.resolv_conf) {
            *servers = Arc::new(Servers::new(configured, &self.resolv_conf));
        }
        servers.clone()
    }
}

impl Memory {
    /// Queries the servers, caches the result and notifies waiting sessions.
    async fn ask(
        self: Arc<Self>,
        name: Name,
        servers: Arc<Servers>,
        tell: watch::Sender<Option<Fresh>>,
        by: Instant,
    ) {
        let asked = timeout(LONGEST_LOOK_UP, servers.ask(&name, by)).await;
        let late = |_| Fresh::failed(Side::Upstream, Cause::LookupTimeout);
        let fresh = asked.unwrap_or_else(late);
        if let Ok(addresses) = &fresh.found {
            self.last.note(&name, servers.configured(), addresses, fresh.lives);
        }
        self.names.keep(&name, servers, &fresh);
        tell.send_replace(Some(fresh));
    }
}

const LATE: Failure = Failure { side: Side::Upstream, cause: Cause::LookupTimeout };

/// Returns whether no server answered, so that a stale answer can be used.
fn is_unheard(failure: Failure) -> bool {
    [Cause::LookupFailed, Cause::LookupTimeout].contains(&failure.cause)
}

fn stale(last: &[IpAddr], target: &Target) -> Resolution {
    answer(last, AnswerSource::Stale, stale::LIVES, target)
}

fn answer(found: &[IpAddr], origin: AnswerSource, lives: Duration, target: &Target) -> Resolution {
    let port = target.port;
    let addresses = found.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
    Resolution { addresses, origin, lives }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn the_systems_servers_are_read_anew_when_they_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let resolver = Resolver::with_system(&[], &path);
        let absent = resolver.servers_of(&[]);
        let name = Name::parse("contoso.azurecr.io").unwrap();
        let by = Instant::now() + Duration::from_secs(60);
        let LookedUp::Ended(ended) = resolver.look_up(&name, &[], false, by).await else {
            panic!()
        };
        assert_eq!(ended.found.unwrap_err().cause, Cause::LookupFailed, "at once");
        fs::write(&path, "nameserver 10.0.0.53\n").unwrap();
        let first = resolver.servers_of(&[]);
        assert!(!Arc::ptr_eq(&absent, &first));
        assert!(Arc::ptr_eq(&first, &resolver.servers_of(&[])));
        // As editors and network managers do it: another file in its place.
        let next = folder.path().join("next");
        fs::write(&next, "nameserver 10.0.0.54\n").unwrap();
        fs::rename(&next, &path).unwrap();
        assert!(!Arc::ptr_eq(&first, &resolver.servers_of(&[])));
    }
}
