//! Limits the DNS queries per second of each client. The burst is the number for one second.
//!
//! Written here instead of using governor: the source of a datagram can be forged, so the number of
//! clients must be bounded at all times, and known clients must be served beyond it. The keyed
//! limiter of governor has no such bound, and does not tell a known key from a new one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::token_bucket::TokenBucket;
use crate::policy::subscriber;

/// Maximum number of clients. While all of them query, further ones are not answered.
const CLIENTS: usize = 65_536;

const SECOND: Duration = Duration::from_secs(1);

/// The rates of all clients.
#[derive(Debug)]
pub struct QueryRates {
    /// Time after which a bucket has regained one query.
    cost: Duration,
    started: Instant,
    clients: Mutex<QueryBuckets>,
}

#[derive(Debug, Default)]
struct QueryBuckets {
    buckets: HashMap<IpAddr, TokenBucket>,
    /// When idle clients were last removed.
    swept: Option<Duration>,
}

impl QueryRates {
    /// Creates rates of `per_second` queries for each client.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        let cost = SECOND / per_second.max(1);
        Self { cost, started: Instant::now(), clients: Mutex::default() }
    }

    /// Counts a query. Returns `false` if the client exceeds its rate or there are too many
    /// clients.
    #[must_use]
    pub fn admit(&self, client: IpAddr, now: Instant) -> bool {
        let now = now.saturating_duration_since(self.started);
        let key = subscriber(client);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if !clients.has_room_for(&key, now) {
            return false;
        }
        let bucket = clients.buckets.entry(key).or_default();
        // A bucket can be overdrawn by the last query that it admits.
        let admitted = bucket.wait(now, SECOND.saturating_sub(self.cost)).is_none();
        if admitted {
            bucket.charge(now, self.cost);
        }
        admitted
    }
}

impl QueryBuckets {
    fn has_room_for(&mut self, key: &IpAddr, now: Duration) -> bool {
        if self.buckets.len() < CLIENTS || self.buckets.contains_key(key) {
            return true;
        }
        // At most once per second: forged clients must not cause repeated scans of the map.
        let was_swept = self.swept.is_some_and(|swept| now.saturating_sub(swept) < SECOND);
        if !was_swept {
            self.swept = Some(now);
            // A client with a full bucket is the same as an unknown one.
            self.buckets.retain(|_, bucket| !bucket.is_full(now));
        }
        self.buckets.len() < CLIENTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_client_has_its_own_rate() {
        let rates = QueryRates::new(10);
        let at = |milliseconds| rates.started + Duration::from_millis(milliseconds);
        let asked = |client, now| (0..100).filter(|_| rates.admit(ip(client), now)).count();
        assert_eq!(asked("10.0.0.7", at(0)), 10);
        assert_eq!(asked("10.0.0.7", at(50)), 0);
        assert_eq!(asked("10.0.0.8", at(50)), 10, "another client");
        assert_eq!(asked("::ffff:10.0.0.8", at(50)), 0, "the same client");
        assert_eq!(asked("10.0.0.7", at(550)), 5);
        assert_eq!(asked("10.0.0.7", at(60_000)), 10, "no more than a second's worth");
        assert_eq!(asked("fd00::1", at(0)), 10);
        assert_eq!(asked("fd00::ffff:1", at(0)), 0, "the same network");
        assert_eq!(asked("fd00:0:0:1::1", at(0)), 10, "another network");
    }

    #[test]
    fn a_seconds_worth_comes_at_once_at_any_rate() {
        for per_second in [1, 3, 7, 100, 1_000_000] {
            let rates = QueryRates::new(per_second);
            let now = rates.started;
            let asked = (0..1_000_100).filter(|_| rates.admit(ip("10.0.0.7"), now)).count();
            assert_eq!(asked, usize::try_from(per_second).unwrap());
        }
    }

    #[test]
    fn the_number_of_clients_is_bounded() {
        let rates = QueryRates::new(10);
        let at = |milliseconds| rates.started + Duration::from_millis(milliseconds);
        let client = |number: usize| IpAddr::V4(u32::try_from(number).unwrap().into());
        assert!((0..CLIENTS).all(|number| rates.admit(client(number), at(0))));
        assert!(!rates.admit(client(CLIENTS), at(0)), "all ask");
        assert!(rates.admit(client(1), at(0)), "and go on asking");
        assert!(!rates.admit(client(CLIENTS), at(999)), "not swept again within a second");
        assert!((0..10).all(|_| rates.admit(client(1), at(999))));
        assert!(rates.admit(client(CLIENTS), at(1000)));
        assert_eq!(rates.clients.lock().unwrap().buckets.len(), 2);
    }
}
