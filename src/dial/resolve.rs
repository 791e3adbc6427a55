//! Looks allowed names up: fixed answers first, then what is known, then the DNS servers.
//!
//! It keeps answers no longer than their TTL, and lets sessions that want the same name at the same
//! time share one look-up. It does not judge addresses: one look-up a session, whose answer is
//! judged and then dialled, so that an answer that changes afterwards changes nothing.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::{DashMap, Entry};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};

use super::servers::{Fresh, RESOLV_CONF, Servers};
use super::stale::{self, LastAnswers};
use super::upstream;
use crate::policy::{Allowed, Cause, Failure, Name, PolicySet};

/// So many names are kept. Allowed names are few; report mode lets any through.
const MOST_NAMES: usize = 10_000;

/// So many names are looked up at once: each takes two sockets, and up to six while no server
/// answers.
const MOST_LOOK_UPS: usize = 64;

/// How long a fixed answer holds; a reload may change it.
const PINNED: Duration = Duration::from_secs(60);

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// `[dns.hosts]`.
    Pinned,
    /// An answer that still lives.
    Cache,
    /// A DNS server, just now.
    Server,
    /// An answer that has run out, since no server answers.
    Stale,
}

/// Where an allowed name resolves to.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The addresses with the port to dial; not vetted.
    pub addresses: Vec<SocketAddr>,
    /// Where they came from.
    pub origin: Origin,
    /// How long they hold.
    pub lives: Duration,
}

/// Looks names up.
#[derive(Debug)]
pub struct Resolver {
    resolv_conf: PathBuf,
    /// Locked only where a name is not known.
    servers: Mutex<Arc<Servers>>,
    names: DashMap<Name, Line>,
    last: LastAnswers,
    room: Semaphore,
}

type Found = Result<Arc<[IpAddr]>, Failure>;

/// What there is about a name, from the servers that were in force.
#[derive(Debug)]
struct Line {
    servers: Arc<Servers>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// A session is looking it up, and will tell.
    Asked(watch::Receiver<Option<Fresh>>),
    Known(Instant, Found),
}

impl State {
    /// What is known and still holds, and for how long.
    fn living(&self, now: Instant) -> Option<Fresh> {
        let Self::Known(until, found) = self else { return None };
        let lives = until.saturating_duration_since(now);
        (!lives.is_zero()).then(|| Fresh { found: found.clone(), lives })
    }
}

/// What a session does that wants a name.
enum Turn {
    Take(Fresh),
    Wait(watch::Receiver<Option<Fresh>>),
    Ask(watch::Sender<Option<Fresh>>),
}

impl Resolver {
    /// A resolver that asks these servers, or the system's where there are none.
    #[must_use]
    pub fn new(servers: &[SocketAddr]) -> Self {
        Self::with_system(servers, Path::new(RESOLV_CONF))
    }

    fn with_system(servers: &[SocketAddr], resolv_conf: &Path) -> Self {
        Self {
            resolv_conf: resolv_conf.to_owned(),
            servers: Mutex::new(Arc::new(Servers::new(servers, resolv_conf))),
            names: DashMap::new(),
            last: LastAnswers::default(),
            room: Semaphore::new(MOST_LOOK_UPS),
        }
    }

    /// Looks an allowed name up, by the servers of the policy that allowed it.
    ///
    /// # Errors
    /// `name-not-found`; `lookup-failed`; `lookup-timeout`, also when the deadline comes first;
    /// `internal` where the gate has no descriptor left.
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
            return Ok(Answer { addresses, origin: Origin::Pinned, lives: PINNED });
        }
        let configured = set.rules().dns_servers.as_slice();
        let (fresh, origin) = match self.known(&target.name, configured) {
            Some(fresh) => (fresh, Origin::Cache),
            None => {
                let last = self.last.find(&target.name, configured, set.rules().dns_stale);
                let by = if last.is_some() { by.min(Instant::now() + stale::PATIENCE) } else { by };
                // In a box: it is large, and most names are known.
                let looking_up = Box::pin(self.look_up(&target.name, configured));
                let looked_up = timeout_at(by, looking_up).await;
                let fresh = looked_up.unwrap_or_else(|_| {
                    let late = Err(upstream(Cause::LookupTimeout));
                    let fresh = Fresh { found: late, lives: stale::BETWEEN };
                    if last.is_some() {
                        // Others need not wait as long for the same.
                        self.keep(&target.name, self.servers_of(configured), &fresh);
                    }
                    fresh
                });
                (fresh, Origin::Server)
            }
        };
        let Fresh { found, lives } = fresh;
        if let Some(last) = self.instead(set, &target.name, &found) {
            let addresses = last.iter().map(|ip| SocketAddr::new(*ip, target.port)).collect();
            return Ok(Answer { addresses, origin: Origin::Stale, lives: stale::LIVES });
        }
        let addresses = found?.iter().map(|ip| SocketAddr::new(*ip, target.port)).collect();
        Ok(Answer { addresses, origin, lives })
    }

    /// The last good answer, where asking has failed and it may still be used.
    fn instead(&self, set: &PolicySet, name: &Name, found: &Found) -> Option<Arc<[IpAddr]>> {
        let failure = found.as_ref().err()?;
        let unheard = [Cause::LookupFailed, Cause::LookupTimeout].contains(&failure.cause);
        let rules = set.rules();
        unheard.then(|| self.last.find(name, &rules.dns_servers, rules.dns_stale)).flatten()
    }

    fn known(&self, name: &Name, configured: &[SocketAddr]) -> Option<Fresh> {
        let line = self.names.get(name)?;
        line.state.living(Instant::now()).filter(|_| line.servers.are(configured))
    }

    /// Asks the servers, or waits for a session that does. A session that is cut off while it asks
    /// leaves its turn to one that waits.
    async fn look_up(&self, name: &Name, configured: &[SocketAddr]) -> Fresh {
        let servers = self.servers_of(configured);
        loop {
            match self.turn(name, &servers) {
                Turn::Take(fresh) => return fresh,
                Turn::Wait(mut told) => {
                    if let Ok(fresh) = told.wait_for(Option::is_some).await
                        && let Some(fresh) = fresh.clone()
                    {
                        return fresh;
                    }
                }
                Turn::Ask(tell) => {
                    // It is never closed, so there is always a permit to wait for.
                    let room = self.room.acquire().await;
                    let fresh = servers.ask(name).await;
                    drop(room);
                    self.keep(name, servers, &fresh);
                    tell.send_replace(Some(fresh.clone()));
                    return fresh;
                }
            }
        }
    }

    /// The servers in force, made anew where a reload, or the system, has changed them.
    fn servers_of(&self, configured: &[SocketAddr]) -> Arc<Servers> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if !servers.are_current(configured, &self.resolv_conf) {
            *servers = Arc::new(Servers::new(configured, &self.resolv_conf));
        }
        servers.clone()
    }

    fn turn(&self, name: &Name, servers: &Arc<Servers>) -> Turn {
        if self.names.len() >= MOST_NAMES {
            self.make_room();
        }
        let asked = || {
            let (tell, told) = watch::channel(None);
            (tell, Line { servers: servers.clone(), state: State::Asked(told) })
        };
        match self.names.entry(name.clone()) {
            Entry::Vacant(vacant) => {
                let (tell, line) = asked();
                vacant.insert(line);
                Turn::Ask(tell)
            }
            Entry::Occupied(mut line) => {
                let known = line.get();
                let is_current = Arc::ptr_eq(&known.servers, servers);
                if let Some(fresh) = known.state.living(Instant::now()).filter(|_| is_current) {
                    return Turn::Take(fresh);
                }
                if let State::Asked(told) = &known.state
                    && is_current
                    && told.has_changed().is_ok()
                {
                    return Turn::Wait(told.clone());
                }
                let (tell, asked) = asked();
                line.insert(asked);
                Turn::Ask(tell)
            }
        }
    }

    fn keep(&self, name: &Name, servers: Arc<Servers>, fresh: &Fresh) {
        if let Ok(addresses) = &fresh.found {
            self.last.note(name, servers.configured(), addresses, fresh.lives);
        }
        if fresh.lives.is_zero() {
            self.names.remove(name);
            return;
        }
        let state = State::Known(Instant::now() + fresh.lives, fresh.found.clone());
        self.names.insert(name.clone(), Line { servers, state });
    }

    fn make_room(&self) {
        let now = Instant::now();
        self.names.retain(|_, line| match &line.state {
            State::Known(until, _) => *until > now,
            State::Asked(told) => told.has_changed().is_ok(),
        });
        if self.names.len() >= MOST_NAMES {
            self.names.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    fn name(number: usize) -> Name {
        Name::parse(&format!("n{number}.example.com")).unwrap()
    }

    fn fresh(seconds: u64) -> Fresh {
        let lives = Duration::from_secs(seconds);
        Fresh { found: Err(upstream(Cause::NameNotFound)), lives }
    }

    #[tokio::test]
    async fn names_are_kept_up_to_a_bound_and_the_dead_go_first() {
        let resolver = Resolver::new(&["127.0.0.1:9".parse().unwrap()]);
        let servers = resolver.servers.lock().unwrap().clone();
        let configured = servers.clone();
        let take = |number| resolver.turn(&name(number), &servers);
        for number in 0..MOST_NAMES {
            let seconds = if number < 10 { 600 } else { 1 };
            resolver.keep(&name(number), servers.clone(), &fresh(seconds));
        }
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(matches!(take(MOST_NAMES), Turn::Ask(_)));
        assert_eq!(resolver.names.len(), 11);
        for number in 0..MOST_NAMES {
            resolver.keep(&name(number), configured.clone(), &fresh(600));
        }
        assert!(matches!(take(MOST_NAMES), Turn::Ask(_)));
        assert_eq!(resolver.names.len(), 1, "all lived: a new start");
    }

    #[tokio::test]
    async fn the_systems_servers_are_read_anew_when_they_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let resolver = Resolver::with_system(&[], &path);
        let absent = resolver.servers_of(&[]);
        let ended = resolver.look_up(&name(1), &[]).await;
        assert_eq!(ended.found.unwrap_err(), upstream(Cause::LookupFailed), "at once");
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
