//! What is known of names, and which session asks for a name that is not known.
//!
//! Ours, and not moka: an entry belongs to a set of servers, its time is tokio's, which the tests
//! move by hours, and the bound on names is kept at every moment; moka has a clock that cannot be
//! moved, and exceeds its bound until it has tidied up.

use std::net::IpAddr;
use std::sync::Arc;

use dashmap::{DashMap, Entry};
use tokio::sync::watch;
use tokio::time::Instant;

use super::servers::{Fresh, Servers};
use crate::policy::{Failure, Name, NameServer};

/// At most this many names are kept. Allowed names are few; report mode lets any through.
const MOST_NAMES: usize = 10_000;

/// The names that are known or asked for.
#[derive(Debug, Default)]
pub(super) struct Cache {
    names: DashMap<Name, Line>,
}

/// What there is about a name, from the servers that were in force.
#[derive(Debug)]
struct Line {
    servers: Arc<Servers>,
    state: State,
}

#[derive(Debug)]
enum State {
    Asked(Waiting),
    Known(Instant, Result<Arc<[IpAddr]>, Failure>),
}

/// A look-up under way.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    /// A session that has a stale answer takes it from then on.
    pub(super) stale_from: Instant,
    /// What is found; closed if the look-up was broken off.
    pub(super) found: watch::Receiver<Option<Fresh>>,
}

/// What a session does that wants a name.
#[derive(Debug)]
pub(super) enum Turn {
    Take(Fresh),
    Wait(Waiting),
    Ask(watch::Sender<Option<Fresh>>, Waiting),
}

impl State {
    /// What is known and still holds, and for how long.
    fn living(&self, now: Instant) -> Option<Fresh> {
        let Self::Known(until, found) = self else { return None };
        let lives = until.saturating_duration_since(now);
        (!lives.is_zero()).then(|| Fresh { found: found.clone(), lives })
    }
}

impl Cache {
    /// What is known of a name from these servers.
    pub(super) fn known(&self, name: &Name, configured: &[NameServer]) -> Option<Fresh> {
        let line = self.names.get(name)?;
        line.state.living(Instant::now()).filter(|_| line.servers.are(configured))
    }

    /// What to do for a name: take what is known, wait for the session that asks, or ask.
    pub(super) fn turn(&self, name: &Name, servers: &Arc<Servers>, stale_from: Instant) -> Turn {
        if self.names.len() >= MOST_NAMES {
            self.make_room();
        }
        let ask = || {
            let (tell, found) = watch::channel(None);
            let waiting = Waiting { stale_from, found };
            let state = State::Asked(waiting.clone());
            (Turn::Ask(tell, waiting), Line { servers: servers.clone(), state })
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
                if let State::Asked(waiting) = &known.state
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

    /// Keeps what was found for as long as it lives.
    pub(super) fn keep(&self, name: &Name, servers: Arc<Servers>, fresh: &Fresh) {
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
            State::Asked(waiting) => waiting.found.has_changed().is_ok(),
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
