//! Which addresses of parents work: one that failed is tried again after a delay that grows, by one
//! session at a time. All sessions share it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::account::ParentTrouble;
use crate::policy::{Cause, Parent, ParentAddress, Stop, Target};

/// How long an address is left alone after its first failure.
const FIRST_DELAY: Duration = Duration::from_millis(500);

/// The longest that it is left alone.
const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// The health of every address of every parent that was dialled.
#[derive(Debug)]
pub(super) struct AddressHealth {
    /// Only those that do not work.
    down: Mutex<HashMap<Key, Down>>,
    /// By the parents' names: why each opened no tunnel the last time.
    troubles: Mutex<HashMap<Arc<str>, ParentTrouble>>,
    changes: watch::Sender<u64>,
}

/// A parent's name and one of its addresses.
type Key = (Arc<str>, Arc<str>);

#[derive(Debug, Clone, Copy)]
struct Down {
    /// When its last failure was noted.
    noted: Instant,
    /// When one session may try it again.
    retry: Instant,
    delay: Duration,
}

impl Default for AddressHealth {
    fn default() -> Self {
        let (down, troubles) = (Mutex::default(), Mutex::default());
        Self { down, troubles, changes: watch::Sender::new(0) }
    }
}

impl AddressHealth {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Down>> {
        self.down.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn troubles(&self) -> MutexGuard<'_, HashMap<Arc<str>, ParentTrouble>> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Changes whenever an address starts or stops to work, or the trouble of a parent changes.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The addresses that a session tries now, in the configured order: those that work, and those
    /// whose delay is over. The caller is the one session that tries these.
    pub(super) fn to_try<'a>(&self, parent: &'a Parent) -> Vec<&'a ParentAddress> {
        let now = Instant::now();
        let mut down = self.lock();
        let mut is_due = |address: &&ParentAddress| match down
            .get_mut(&(parent.name.clone(), address.text().clone()))
        {
            None => true,
            Some(down) if down.retry <= now => {
                down.retry = now + down.delay;
                true
            }
            Some(_) => false,
        };
        parent.addresses.iter().filter(|address| is_due(address)).collect()
    }

    /// Notes that an address has answered.
    pub(super) fn works(&self, parent: &Parent, address: &ParentAddress) {
        if self.lock().remove(&(parent.name.clone(), address.text().clone())).is_some() {
            info!(parent = %parent.name, %address, "the parent proxy works again");
            self.changed();
        }
    }

    /// Notes that an attempt of `began` could not reach an address, or had no answer.
    pub(super) fn failed(
        &self,
        parent: &Parent,
        address: &ParentAddress,
        began: Instant,
        why: &str,
    ) {
        let key = (parent.name.clone(), address.text().clone());
        let mut all = self.lock();
        let before = all.get(&key).copied();
        let delay = before.map_or(FIRST_DELAY, |down| (down.delay * 2).min(LONGEST_DELAY));
        // Attempts that ran at the same time tell of one failure.
        if before.is_some_and(|down| down.noted >= began) {
            return;
        }
        let now = Instant::now();
        all.insert(key, Down { noted: now, retry: now + delay, delay });
        drop(all);
        if before.is_none() {
            warn!(parent = %parent.name, %address, "the parent proxy does not work: {why}");
            self.changed();
        }
    }

    /// Notes that a parent has opened a tunnel. That it refuses another host stays known.
    pub(super) fn opened(&self, parent: &Parent, target: &Target) {
        let mut troubles = self.troubles();
        let is_over = troubles.get(&parent.name).is_some_and(|trouble| {
            trouble.reason != Cause::ParentRefused.code() || trouble.target == target.to_string()
        });
        if is_over {
            troubles.remove(&parent.name);
            drop(troubles);
            self.changed();
        }
    }

    /// Notes why a parent has opened no tunnel.
    pub(super) fn opened_none(&self, parent: &Parent, target: &Target, stop: &Stop) {
        // A failure without the parent's words is the gate's own.
        let Stop::Detailed(detailed) = stop else { return };
        let trouble = ParentTrouble {
            reason: stop.code(),
            detail: detailed.detail.clone(),
            target: target.to_string(),
        };
        if self.troubles().insert(parent.name.clone(), trouble.clone()) != Some(trouble) {
            self.changed();
        }
    }

    /// Why a parent opened no tunnel the last time; `None` if it works.
    pub(super) fn trouble(&self, parent: &Parent) -> Option<ParentTrouble> {
        self.troubles().get(&parent.name).cloned()
    }

    /// Whether any address of a parent works, as far as is known.
    pub(super) fn is_up(&self, parent: &Parent) -> bool {
        let down = self.lock();
        let works = |address: &ParentAddress| {
            !down.contains_key(&(parent.name.clone(), address.text().clone()))
        };
        parent.addresses.iter().any(works)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{ConnectBy, Failure, Location, ParentFailure, Side};

    fn parent(addresses: &[&str]) -> Parent {
        Parent {
            name: "corp".into(),
            place: Location { file: "pullgate.toml".into(), line: 1 },
            addresses: addresses.iter().map(|one| ParentAddress::parse(one).unwrap()).collect(),
            connect: ConnectBy::Address,
            credentials: None,
            tls: None,
            proxy_protocol: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_address_is_tried_by_one_session_after_a_growing_delay() {
        let parent = parent(&["10.0.0.8:8080", "10.0.0.9:8080"]);
        let health = AddressHealth::default();
        let count = || health.to_try(&parent).len();
        let (first, start) = (&parent.addresses[0], Instant::now());
        assert_eq!(count(), 2);
        // Many sessions meet the same failure: it counts once.
        tokio::time::advance(Duration::from_millis(1)).await;
        for _ in 0..20 {
            health.failed(&parent, first, start, "refused");
        }
        assert_eq!((count(), health.is_up(&parent)), (1, true));
        let mut delay = FIRST_DELAY;
        for _ in 0..8 {
            tokio::time::advance(delay).await;
            assert_eq!(health.to_try(&parent), parent.addresses.iter().collect::<Vec<_>>());
            assert_eq!(count(), 1, "others leave it alone meanwhile");
            let began = Instant::now();
            tokio::time::advance(Duration::from_millis(1)).await;
            health.failed(&parent, first, began, "refused");
            delay = (delay * 2).min(LONGEST_DELAY);
            tokio::time::advance(delay - Duration::from_millis(2)).await;
            assert_eq!(count(), 1);
            tokio::time::advance(Duration::from_millis(2)).await;
            tokio::time::advance(Duration::ZERO).await;
            assert_eq!(count(), 2);
            let began = Instant::now();
            tokio::time::advance(Duration::from_millis(1)).await;
            health.failed(&parent, first, began, "refused");
            delay = (delay * 2).min(LONGEST_DELAY);
        }
        health.works(&parent, first);
        assert_eq!(count(), 2);
        health.failed(&parent, first, Instant::now(), "refused");
        health.failed(&parent, &parent.addresses[1], Instant::now(), "refused");
        assert!(!health.is_up(&parent));
        assert_eq!(count(), 0);
    }

    #[test]
    fn a_trouble_lasts_until_a_tunnel_is_opened_and_a_refusal_until_its_host_is_reached() {
        let (parent, health) = (parent(&["10.0.0.8:8080"]), AddressHealth::default());
        let [first, second] = ["contoso.azurecr.io:443", "fabrikam.azurecr.io:443"]
            .map(|target| Target::parse_authority(target).unwrap());
        let fails = |cause, target| {
            let stop = ParentFailure { cause, detail: "407 Who".into() }.into();
            health.opened_none(&parent, target, &stop);
        };
        let reason = || health.trouble(&parent).map(|trouble| trouble.reason);
        let mut changes = health.changes();
        fails(Cause::ParentAuth, &first);
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        fails(Cause::ParentAuth, &first);
        assert!(!changes.has_changed().unwrap(), "it is known");
        let trouble = health.trouble(&parent).unwrap();
        assert_eq!((trouble.reason, &*trouble.detail), ("parent-auth", "407 Who"));
        assert_eq!(trouble.target, "contoso.azurecr.io:443");
        health.opened(&parent, &second);
        assert_eq!(reason(), None, "its credentials are accepted now");
        fails(Cause::ParentRefused, &first);
        health.opened(&parent, &second);
        assert_eq!(reason(), Some("parent-refused"), "about the first still");
        health.opened(&parent, &first);
        assert_eq!(reason(), None);
        let own = Failure { side: Side::Gate, cause: Cause::LocalPorts }.into();
        health.opened_none(&parent, &first, &own);
        assert_eq!(reason(), None);
    }
}
