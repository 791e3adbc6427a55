//! How fast one client may ask: a token bucket for each.
//!
//! Ours, and not governor: the source of a datagram can be forged, so the number of clients kept
//! needs a bound at every moment, and beyond it clients that are known must still be served;
//! governor's keyed limiter has no such bound, and does not tell a known key from a new one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many clients are known at once; while all of them ask, others are not answered.
const CLIENTS: usize = 65_536;

/// An IPv6 client has a whole network of this length to ask from (RFC 6177).
const V6_PREFIX: u32 = 64;

/// What clients may still ask.
#[derive(Debug)]
pub(super) struct Rates {
    per_second: f64,
    clients: Mutex<Clients>,
}

#[derive(Debug, Default)]
struct Clients {
    buckets: HashMap<IpAddr, Bucket>,
    /// When those were last left out that need not be remembered.
    swept: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Rates {
    /// So many queries a second, and a second's worth at once.
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second: per_second.into(), clients: Mutex::default() }
    }

    /// Takes a token of a client's, where it has one left.
    pub(super) fn allow(&self, client: IpAddr, now: Instant) -> bool {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let key = key(client);
        if !clients.has_room_for(&key, now) {
            return false;
        }
        let full = Bucket { tokens: self.per_second, at: now };
        let bucket = clients.buckets.entry(key).or_insert(full);
        let since = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.tokens = (bucket.tokens + since * self.per_second).min(self.per_second);
        bucket.at = now;
        let allowed = bucket.tokens >= 1.0;
        if allowed {
            bucket.tokens -= 1.0;
        }
        allowed
    }
}

impl Clients {
    fn has_room_for(&mut self, key: &IpAddr, now: Instant) -> bool {
        if self.buckets.len() < CLIENTS || self.buckets.contains_key(key) {
            return true;
        }
        // Once a second at most: made-up clients must not make it walk the map again and again.
        let since = |at: Instant| now.saturating_duration_since(at);
        if self.swept.is_none_or(|swept| since(swept) >= SECOND) {
            self.swept = Some(now);
            // Whoever has kept silent for a second has a full bucket, as a stranger has.
            self.buckets.retain(|_, bucket| since(bucket.at) < SECOND);
        }
        self.buckets.len() < CLIENTS
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn key(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() >> (128 - V6_PREFIX) << (128 - V6_PREFIX);
            IpAddr::V6(network.into())
        }
        v4 @ IpAddr::V4(_) => v4,
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
        let rates = Rates::new(10);
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let asked = |client, now| (0..100).filter(|_| rates.allow(ip(client), now)).count();
        assert_eq!(asked("10.0.0.7", start), 10);
        assert_eq!(asked("10.0.0.7", at(50)), 0);
        assert_eq!(asked("10.0.0.8", at(50)), 10, "another client");
        assert_eq!(asked("::ffff:10.0.0.8", at(50)), 0, "the same client");
        assert_eq!(asked("10.0.0.7", at(550)), 5);
        assert_eq!(asked("10.0.0.7", at(60_000)), 10, "no more than a second's worth");
        assert_eq!(asked("fd00::1", start), 10);
        assert_eq!(asked("fd00::ffff:1", start), 0, "the same network");
        assert_eq!(asked("fd00:0:0:1::1", start), 10, "another network");
    }

    #[test]
    fn so_many_clients_are_known() {
        let rates = Rates::new(10);
        let start = Instant::now();
        let client = |number: usize| IpAddr::V4(u32::try_from(number).unwrap().into());
        assert!((0..CLIENTS).all(|number| rates.allow(client(number), start)));
        assert!(!rates.allow(client(CLIENTS), start), "all ask");
        assert!(rates.allow(client(1), start), "and go on asking");
        let soon = start + Duration::from_millis(999);
        assert!(!rates.allow(client(CLIENTS), soon));
        assert!(rates.allow(client(1), soon));
        let later = start + SECOND;
        assert!(rates.allow(client(CLIENTS), later));
        assert_eq!(rates.clients.lock().unwrap().buckets.len(), 2);
    }
}
