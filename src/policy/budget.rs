//! How much may flow out: a tunnel's budget for its upload, and a client's for an hour.
//!
//! A pull sends little. Measured, a tunnel carries 0.3 to 2.3 KB up, 1 to 4 KB more a request where
//! tokens are large, and over HTTP/2 0.43 % of what comes down. So the default lets every pull
//! through, and stops a push after its first few layers' worth of headers. Pure: it is told the
//! time.

use std::time::Duration;

use super::registry::EndpointKind;

/// What a tunnel may send up: so many bytes, and a share of what has come down in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Bytes that may go up whatever comes down, the ClientHello included.
    pub base_bytes: u64,
    /// So many bytes more for each hundred that came down.
    pub ratio_percent: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { base_bytes: 64 * 1024, ratio_percent: 2 }
    }
}

impl Budget {
    /// How many bytes may have gone up once so many came down.
    #[must_use]
    pub fn allows(self, down: u64) -> u64 {
        let share = u128::from(down) * u128::from(self.ratio_percent) / 100;
        self.base_bytes.saturating_add(u64::try_from(share).unwrap_or(u64::MAX))
    }
}

/// The budgets of a registry, by what a host is to it; without one an upload is unbounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budgets {
    /// For the login server.
    pub login: Option<Budget>,
    /// For data endpoints.
    pub data: Option<Budget>,
    /// For login servers of one replica.
    pub regional: Option<Budget>,
    /// For the further hosts.
    pub also: Option<Budget>,
}

impl Default for Budgets {
    /// Data endpoints take no uploads, those of connected registries excepted.
    fn default() -> Self {
        Self { login: None, data: Some(Budget::default()), regional: None, also: None }
    }
}

impl Budgets {
    /// The budget of a kind.
    #[must_use]
    pub fn of(self, kind: EndpointKind) -> Option<Budget> {
        match kind {
            EndpointKind::Login => self.login,
            EndpointKind::Data => self.data,
            EndpointKind::Regional => self.regional,
            EndpointKind::Also => self.also,
        }
    }
}

/// How many slots an hour has.
const SLOTS: usize = 60;

/// What one slot covers.
const SLOT: Duration = Duration::from_secs(60);

/// What went up within the last hour, to the minute: a minute that has begun an hour ago counts
/// until it has passed as a whole, so that no hour ever holds more than was allowed.
#[derive(Debug, Clone)]
pub struct HourOfUploads {
    /// Bytes a minute; the last one is the current.
    slots: [u64; SLOTS + 1],
    /// The minute of the last slot, since the caller's fixed moment.
    minute: u64,
    sum: u64,
}

impl Default for HourOfUploads {
    fn default() -> Self {
        Self { slots: [0; SLOTS + 1], minute: 0, sum: 0 }
    }
}

impl HourOfUploads {
    /// How many bytes the hour before `now` holds; times are since one fixed moment.
    pub fn sum(&mut self, now: Duration) -> u64 {
        self.advance(now);
        self.sum
    }

    /// Counts bytes.
    pub fn add(&mut self, bytes: u64, now: Duration) {
        self.advance(now);
        if let Some(current) = self.slots.last_mut() {
            *current = current.saturating_add(bytes);
            self.sum = self.sum.saturating_add(bytes);
        }
    }

    /// Takes back what was counted and did not go. What lies an hour back is forgotten anyway.
    pub fn take_back(&mut self, bytes: u64, now: Duration) {
        self.advance(now);
        let mut left = bytes;
        for slot in self.slots.iter_mut().rev() {
            let back = left.min(*slot);
            *slot -= back;
            self.sum -= back;
            left -= back;
        }
    }

    fn advance(&mut self, now: Duration) {
        let minute = now.as_secs() / SLOT.as_secs();
        let passed = minute.saturating_sub(self.minute);
        if passed == 0 {
            return;
        }
        let shift = usize::try_from(passed).unwrap_or(usize::MAX).min(self.slots.len());
        self.slots.rotate_left(shift);
        let kept = self.slots.len() - shift;
        for slot in self.slots.iter_mut().skip(kept) {
            *slot = 0;
        }
        self.minute = minute;
        self.sum = self.slots.iter().fold(0, |sum: u64, slot| sum.saturating_add(*slot));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_budget_grows_with_what_comes_down() {
        let budget = Budget::default();
        let cases = [(0, 65_536), (99, 65_537), (1 << 30, 65_536 + (1 << 30) / 50)];
        for (down, allowed) in cases {
            assert_eq!(budget.allows(down), allowed, "{down}");
        }
        assert_eq!(Budget { base_bytes: 1, ratio_percent: 100 }.allows(u64::MAX), u64::MAX);
    }

    #[test]
    fn only_data_endpoints_are_bounded_unasked() {
        let bounded =
            EndpointKind::ALL.iter().filter(|kind| Budgets::default().of(**kind).is_some());
        assert_eq!(bounded.collect::<Vec<_>>(), [&EndpointKind::Data]);
    }

    proptest! {
        /// The twin keeps every upload with its time.
        #[test]
        fn an_hour_holds_what_its_minutes_saw(
            uploads in proptest::collection::vec((0u64..900, 0u64..10_000), 1..60),
        ) {
            let mut hour = HourOfUploads::default();
            let mut kept: Vec<(u64, u64)> = Vec::new();
            let mut now = 0;
            for (pause, bytes) in uploads {
                now += pause;
                hour.add(bytes, Duration::from_secs(now));
                kept.push((now, bytes));
                let minute = now / 60;
                let sum = |since: u64| -> u64 {
                    kept.iter().filter(|(at, _)| *at >= since).map(|(_, bytes)| bytes).sum()
                };
                let found = hour.sum(Duration::from_secs(now));
                prop_assert_eq!(found, sum(minute.saturating_sub(60) * 60));
                // Never less than the hour to the second.
                prop_assert!(found >= sum(now.saturating_sub(3_600)));
            }
        }

        #[test]
        fn what_is_taken_back_was_never_counted(
            first in 0u64..1_000, second in 0u64..1_000, back in 0u64..2_000, pause in 0u64..7_200,
        ) {
            let mut hour = HourOfUploads::default();
            hour.add(first, Duration::ZERO);
            let now = Duration::from_secs(pause);
            hour.add(second, now);
            let before = hour.sum(now);
            hour.take_back(back, now);
            prop_assert_eq!(hour.sum(now), before.saturating_sub(back));
        }
    }
}
