//! Limits new sessions per second, per client address and per `[[client]]`. The burst is the number
//! for one second.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;
use governor::clock::DefaultClock;
use governor::state::keyed::DashMapStateStore;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::policy::{Client, Denial, Reason, subscriber};

/// Maximum number of addresses. Quiet ones are removed.
const ADDRESSES: usize = 65_536;

type ByAddress = RateLimiter<IpAddr, DashMapStateStore<IpAddr>, DefaultClock>;

/// The rates. A rate that a reload changes starts again.
#[derive(Debug, Default)]
pub(super) struct SessionRates {
    addresses: Mutex<Option<(NonZeroU32, Arc<ByAddress>)>>,
    clients: DashMap<Arc<str>, (NonZeroU32, Arc<DefaultDirectRateLimiter>)>,
}

impl SessionRates {
    /// Admits a new session of an address, at `rate` per second.
    pub(super) fn admit_address(&self, rate: NonZeroU32, from: IpAddr) -> Result<(), Denial> {
        let limiter = {
            let mut kept = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
            match &*kept {
                Some((known, limiter)) if *known == rate => limiter.clone(),
                _ => {
                    let fresh = Arc::new(RateLimiter::dashmap(Quota::per_second(rate)));
                    *kept = Some((rate, fresh.clone()));
                    fresh
                }
            }
        };
        if limiter.len() >= ADDRESSES {
            limiter.retain_recent();
        }
        let too_fast = "too many new sessions from this address";
        limiter
            .check_key(&subscriber(from))
            .map_err(|_| Denial::with_remedy(Reason::RateLimit, too_fast))
    }

    /// Admits a new session of a `[[client]]`.
    pub(super) fn admit_group(&self, client: &Client) -> Result<(), Denial> {
        let Some(rate) = client.limits.new_sessions_per_second else { return Ok(()) };
        let limiter = {
            let fresh = || (rate, Arc::new(RateLimiter::direct(Quota::per_second(rate))));
            let mut kept = self.clients.entry(client.name.clone()).or_insert_with(fresh);
            if kept.0 != rate {
                *kept = fresh();
            }
            kept.1.clone()
        };
        let too_fast = || format!("too many new sessions of {}", client.name);
        limiter.check().map_err(|_| Denial::with_remedy(Reason::RateLimit, too_fast()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{ClientLimits, Location};

    fn rate(number: u32) -> NonZeroU32 {
        NonZeroU32::new(number).unwrap()
    }

    #[test]
    fn an_address_begins_a_seconds_worth_at_once() {
        let rates = SessionRates::default();
        let here = "10.0.0.7".parse().unwrap();
        let mut begun = 0;
        while rates.admit_address(rate(50), here).is_ok() {
            begun += 1;
        }
        // What the time since gives comes on top of it.
        assert!((50..60).contains(&begun), "{begun}");
        assert!(rates.admit_address(rate(50), "10.0.0.8".parse().unwrap()).is_ok());
        // One subscriber's addresses are one.
        let (one, other) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        assert!(rates.admit_address(rate(50), one).is_ok());
        while rates.admit_address(rate(50), one).is_ok() {}
        assert_eq!(rates.admit_address(rate(1), here), Ok(()), "another rate begins anew");
        assert!(rates.admit_address(rate(1), one).is_ok());
        assert!(rates.admit_address(rate(1), other).is_err());
    }

    #[test]
    fn a_group_has_a_rate_of_its_own() {
        let rates = SessionRates::default();
        let client = |name: &str, number| Client {
            name: name.into(),
            place: Location { file: "pullgate.toml".into(), line: 1 },
            networks: Vec::new(),
            certificate_names: Vec::new(),
            users: Vec::new(),
            limits: ClientLimits { new_sessions_per_second: number, ..ClientLimits::default() },
        };
        let agents = client("agents", Some(rate(1)));
        assert!(rates.admit_group(&agents).is_ok());
        let denial = rates.admit_group(&agents).unwrap_err();
        assert_eq!(denial.remedy.as_deref(), Some("too many new sessions of agents"));
        assert!(rates.admit_group(&client("fleet", Some(rate(1)))).is_ok());
        assert!((0..100).all(|_| rates.admit_group(&client("ops", None)).is_ok()));
        assert!(rates.admit_group(&client("agents", Some(rate(2)))).is_ok());
    }
}
