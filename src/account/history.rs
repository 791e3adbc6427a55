//! What the gate did within the last hour, for the status page: the traffic of each registry and the
//! ends of sessions and requests, in steps of [`STEP`].
//!
//! The rings are bounded. The time comes from the caller, who ends each step.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

/// The length of a step.
pub const STEP: Duration = Duration::from_secs(30);

/// Steps in an hour.
const STEPS: usize = 120;

/// Maximum number of registries with a history. Further ones have only their totals.
const REGISTRIES: usize = 200;

/// The history of the last hour.
#[derive(Debug, Default)]
pub(super) struct History {
    rings: Mutex<Rings>,
}

#[derive(Debug, Default)]
struct Rings {
    registries: BTreeMap<String, Ring<2>>,
    ends: Ring<4>,
}

/// Increases of a few counters in each step.
#[derive(Debug)]
struct Ring<const N: usize> {
    /// The counters at the end of the last step.
    before: [u64; N],
    steps: VecDeque<[u64; N]>,
}

/// Bytes by direction: in total, or in steps.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Traffic<T> {
    /// From clients to registries.
    pub up: T,
    /// From registries to clients.
    pub down: T,
}

/// Sessions and requests by outcome.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Ends {
    relayed: u64,
    denied: u64,
    failed: u64,
    would_deny: u64,
}

/// The last hour, up to now.
#[derive(Debug, Default)]
pub struct LastHour {
    /// The bytes of each registry, by its label.
    pub traffic: BTreeMap<String, Traffic<u64>>,
    /// How sessions and requests ended.
    pub ends: Ends,
}

impl<const N: usize> Default for Ring<N> {
    fn default() -> Self {
        Self { before: [0; N], steps: VecDeque::new() }
    }
}

impl<const N: usize> Ring<N> {
    /// Returns how much the counters grew since the end of the last step.
    fn since(&self, now: [u64; N]) -> [u64; N] {
        std::array::from_fn(|at| {
            let value = |values: &[u64; N]| values.get(at).copied().unwrap_or_default();
            value(&now).saturating_sub(value(&self.before))
        })
    }

    fn push(&mut self, now: [u64; N]) {
        if self.steps.len() >= STEPS {
            self.steps.pop_front();
        }
        self.steps.push_back(self.since(now));
        self.before = now;
    }

    /// Returns how much the counters grew within the hour.
    fn total(&self, now: [u64; N]) -> [u64; N] {
        let open = self.since(now);
        std::array::from_fn(|at| {
            let values = self.steps.iter().chain([&open]);
            values.filter_map(|values| values.get(at)).sum()
        })
    }
}

impl History {
    /// Ends a step with these counters.
    pub(super) fn remember(&self, moved: &BTreeMap<String, (u64, u64)>, ends: [u64; 4]) {
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        rings.ends.push(ends);
        for (registry, (up, down)) in moved {
            let has_room = rings.registries.len() < REGISTRIES;
            if let Some(ring) = rings.registries.get_mut(registry) {
                ring.push([*up, *down]);
            } else if has_room {
                let mut ring = Ring::default();
                ring.push([*up, *down]);
                rings.registries.insert(registry.clone(), ring);
            }
        }
    }

    pub(super) fn last_hour(
        &self,
        moved: &BTreeMap<String, (u64, u64)>,
        ends: [u64; 4],
    ) -> LastHour {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let traffic = moved.iter().map(|(registry, (up, down))| {
            let ring = rings.registries.get(registry);
            let [up, down] = ring.map_or([*up, *down], |ring| ring.total([*up, *down]));
            (registry.clone(), Traffic { up, down })
        });
        let [relayed, denied, failed, would_deny] = rings.ends.total(ends);
        LastHour { traffic: traffic.collect(), ends: Ends { relayed, denied, failed, would_deny } }
    }

    pub(super) fn steps(&self) -> BTreeMap<String, Traffic<Vec<u64>>> {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let series = |ring: &Ring<2>| Traffic {
            up: ring.steps.iter().map(|[up, _]| *up).collect(),
            down: ring.steps.iter().map(|[_, down]| *down).collect(),
        };
        rings.registries.iter().map(|(name, ring)| (name.clone(), series(ring))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn moved(names: usize, up: u64) -> BTreeMap<String, (u64, u64)> {
        (0..names).map(|name| (format!("registry{name:04}"), (up, 2 * up))).collect()
    }

    #[test]
    fn it_is_bounded() {
        let history = History::default();
        for step in 0..1_000 {
            history.remember(&moved(300, step), [step; 4]);
        }
        let steps = history.steps();
        assert_eq!(steps.len(), REGISTRIES);
        assert!(steps.values().all(|one| one.up == [1; STEPS] && one.down == [2; STEPS]));
    }

    proptest! {
        /// The hour is the sum of its steps and of what came since.
        #[test]
        fn an_hour_is_what_the_counters_grew_by(
            grown in proptest::collection::vec(0u64..1_000, 0..300), open in 0u64..1_000,
        ) {
            let history = History::default();
            let mut total = 0;
            for more in &grown {
                total += more;
                history.remember(&moved(1, total), [total, 0, total, 0]);
            }
            let hour = history.last_hour(&moved(1, total + open), [total + open, 0, total, 0]);
            let recent: u64 = grown.iter().rev().take(STEPS).sum();
            prop_assert_eq!(hour.traffic["registry0000"].up, recent + open);
            prop_assert_eq!(hour.traffic["registry0000"].down, 2 * (recent + open));
            let ends = Ends { relayed: recent + open, failed: recent, ..Ends::default() };
            prop_assert_eq!(hour.ends, ends);
        }
    }
}
