//! The cache of resolved names, and which session queries for a name that is not cached.
//!
//! Written here instead of using moka: an entry belongs to a set of servers, it uses tokio's clock,
//! which tests advance by hours, and its size limit holds at every moment. moka's clock cannot be
//! advanced, and it exceeds its limit until it cleans up.

use std::net::IpAddr;
use std::sync::Arc;

use dashmap::{DashMap, Entry};
use tokio::sync::watch;
use tokio::time::Instant;

use super::servers::{Fresh, Servers};
use crate::policy::{Failure, Name, NameServer};

/// Maximum number of names. The policy allows few, but report mode allows any.
const MOST_NAMES: usize = 10_000;

/// The names that are cached or being queried.
#[derive(Debug, Default)]
pub(super) struct Cache {
    names: DashMap<Name, CacheEntry>,
}

/// The entry of a name, valid for the servers at that time.
#[derive(Debug)]
struct CacheEntry {
    servers: Arc<Servers>,
    state: CacheState,
}

#[derive(Debug)]
enum CacheState {
    Asked(PendingLookUp),
    Known(Instant, Result<Arc<[IpAddr]>, Failure>),
}

/// A running query.
#[derive(Debug, Clone)]
pub(super) struct PendingLookUp {
    /// From this time, a session with a stale answer uses it.
    pub(super) stale_from: Instant,
    /// The result. The channel closes if the query was aborted.
    pub(super) found: watch::Receiver<Option<Fresh>>,
}

/// What a session that needs a name must do.
#[derive(Debug)]
pub(super) enum Turn {
    Take(Fresh),
    Wait(PendingLookUp),
    Ask(watch::Sender<Option<Fresh>>, PendingLookUp),
}

impl CacheState {
    /// The cached result and its remaining lifetime.
    fn living(&self, now: Instant) -> Option<Fresh> {
        let Self::Known(until, found) = self else { return None };
        let lives = until.saturating_duration_since(now);
        (!lives.is_zero()).then(|| Fresh { found: found.clone(), lives })
    }
}

impl Cache {
    /// Returns the cached result of these servers.
    pub(super) fn known(&self, name: &Name, configured: &[NameServer]) -> Option<Fresh> {
        let line = self.names.get(name)?;
        line.state.living(Instant::now()).filter(|_| line.servers.are(configured))
    }

    /// Returns what to do for a name: use the cached result, wait for the running query, or query.
    pub(super) fn turn(&self, name: &Name, servers: &Arc<Servers>, stale_from: Instant) -> Turn {
        if self.names.len() >= MOST_NAMES {
            self.make_room();
        }
        let ask = || {
            let (tell, found) = watch::channel(None);
            let waiting = PendingLookUp { stale_from, found };
            let state = CacheState::Asked(waiting.clone());
            (Turn::Ask(tell, waiting), CacheEntry { servers: servers.clone(), state })
        };
        match self.names.entry(name.clone()) {
            Entry::Vacant(vacant) => {
                let (turn, line) = ask();
                vacant.insert(line);
                turn
            }
            Entry::Occupied(mut line) => {
                let known = line.get();
                let is_current = Arc::ptr_eq(&known.servers, servers);
                if let Some(fresh) = known.state.living(Instant::now()).filter(|_| is_current) {
                    return Turn::Take(fresh);
                }
                if let CacheState::Asked(waiting) = &known.state
                    && is_current
                    && waiting.found.has_changed().is_ok()
                {
                    return Turn::Wait(waiting.clone());
                }
                let (turn, asked) = ask();
                line.insert(asked);
                turn
            }
        }
    }

    /// Stores a result for its lifetime.
    pub(super) fn keep(&self, name: &Name, servers: Arc<Servers>, fresh: &Fresh) {
        if fresh.lives.is_zero() {
            self.names.remove(name);
            return;
        }
        let state = CacheState::Known(Instant::now() + fresh.lives, fresh.found.clone());
        self.names.insert(name.clone(), CacheEntry { servers, state });
    }

    fn make_room(&self) {
        let now = Instant::now();
        self.names.retain(|_, line| match &line.state {
            CacheState::Known(until, _) => *until > now,
            CacheState::Asked(waiting) => waiting.found.has_changed().is_ok(),
        });
        if self.names.len() >= MOST_NAMES {
            self.names.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::policy::{Cause, Side};

    fn name(number: usize) -> Name {
        Name::parse(&format!("n{number}.example.com")).unwrap()
    }

    fn servers() -> Arc<Servers> {
        let server = NameServer::parse("127.0.0.1:9").unwrap();
        Arc::new(Servers::new(&[server], Path::new("/nowhere")))
    }

    fn fresh(seconds: u64) -> Fresh {
        let failure = Failure { side: Side::Upstream, cause: Cause::NameNotFound };
        Fresh { found: Err(failure), lives: Duration::from_secs(seconds) }
    }

    #[tokio::test(start_paused = true)]
    async fn names_are_kept_up_to_a_bound_and_expired_ones_go_first() {
        let cache = Cache::default();
        let servers = servers();
        let turn = |number| cache.turn(&name(number), &servers, Instant::now());
        for number in 0..MOST_NAMES {
            let seconds = if number < 10 { 600 } else { 1 };
            cache.keep(&name(number), servers.clone(), &fresh(seconds));
        }
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(matches!(turn(MOST_NAMES), Turn::Ask(..)));
        assert_eq!(cache.names.len(), 11);
        for number in 0..MOST_NAMES {
            cache.keep(&name(number), servers.clone(), &fresh(600));
        }
        assert!(matches!(turn(MOST_NAMES), Turn::Ask(..)));
        assert_eq!(cache.names.len(), 1, "none had expired: all are dropped");
    }

    #[tokio::test]
    async fn a_look_up_that_is_broken_off_leaves_its_turn_to_another() {
        let cache = Cache::default();
        let servers = servers();
        let turn = || cache.turn(&name(1), &servers, Instant::now());
        let Turn::Ask(tell, _) = turn() else { panic!() };
        let Turn::Wait(mut waiting) = turn() else { panic!() };
        drop(tell);
        assert!(waiting.found.changed().await.is_err(), "it is noticed");
        let Turn::Ask(tell, _) = turn() else { panic!() };
        cache.keep(&name(1), servers.clone(), &fresh(60));
        tell.send_replace(Some(fresh(60)));
        assert!(matches!(turn(), Turn::Take(_)));
    }
}
