//! Counts requests for storage accounts by client. Clients are not metric labels, so the metric is
//! the highest count of any client.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Length of a window. The current and the previous one count.
const WINDOW: Duration = Duration::from_secs(600);

/// Maximum number of clients per window. Further ones are not counted.
const CLIENTS: usize = 10_000;

/// Counts by client, for a limited time.
#[derive(Debug, Default)]
pub(super) struct StorageRequests {
    windows: Mutex<Windows>,
}

#[derive(Debug, Default)]
struct Windows {
    began: Option<Instant>,
    current: HashMap<IpAddr, u64>,
    before: HashMap<IpAddr, u64>,
}

impl StorageRequests {
    /// Counts a request for a storage account.
    pub(super) fn count(&self, client: IpAddr, now: Instant) {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        windows.turn(now);
        if windows.current.len() < CLIENTS || windows.current.contains_key(&client) {
            *windows.current.entry(client).or_default() += 1;
        }
    }

    /// Returns the highest count of one client within the last ten to twenty minutes.
    pub(super) fn most(&self, now: Instant) -> u64 {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        windows.turn(now);
        let Windows { current, before, .. } = &*windows;
        let in_both = |(client, count): (&IpAddr, &u64)| {
            count + current.get(client).copied().unwrap_or_default()
        };
        let before = before.iter().map(in_both).max();
        before.max(current.values().max().copied()).unwrap_or_default()
    }
}

impl Windows {
    fn turn(&mut self, now: Instant) {
        let began = *self.began.get_or_insert(now);
        let age = now.saturating_duration_since(began);
        if age < WINDOW {
            return;
        }
        self.before = std::mem::take(&mut self.current);
        if age >= 2 * WINDOW {
            self.before.clear();
        }
        self.began = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_count_is_reported_for_a_while() {
        let askers = StorageRequests::default();
        let start = Instant::now();
        let (one, two) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        assert_eq!(askers.most(start), 0);
        for _ in 0..3 {
            askers.count(one, start);
            askers.count(two, start);
        }
        askers.count(two, start + WINDOW / 2);
        assert_eq!(askers.most(start + WINDOW / 2), 4);
        askers.count(one, start + WINDOW);
        assert_eq!(askers.most(start + WINDOW), 4);
        askers.count(one, start + WINDOW);
        assert_eq!(askers.most(start + WINDOW), 5, "both windows count");
        assert_eq!(askers.most(start + 2 * WINDOW), 2);
        assert_eq!(askers.most(start + 5 * WINDOW), 0);
    }
}
