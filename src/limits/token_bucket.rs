//! A token bucket that is charged afterwards: for moved bytes and wrong passwords. It can be
//! overdrawn, which causes a delay. Pure: the caller passes the time.

use std::time::Duration;

/// The bucket, as the time at which it is full (GCRA's theoretical arrival time). All times are
/// relative to one fixed moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct TokenBucket {
    full_at: Duration,
}

impl TokenBucket {
    /// Returns the delay until tokens are available in a bucket that fills within `capacity`;
    /// `None` if they are now.
    pub(super) fn wait(self, now: Duration, capacity: Duration) -> Option<Duration> {
        let free_at = self.full_at.saturating_sub(capacity);
        (free_at > now).then(|| free_at.saturating_sub(now))
    }

    /// Takes tokens that need this time to be refilled.
    pub(super) fn charge(&mut self, now: Duration, cost: Duration) {
        self.full_at = self.full_at.max(now).saturating_add(cost);
    }

    /// Returns tokens that were charged but not used.
    pub(super) fn refund(&mut self, cost: Duration) {
        self.full_at = self.full_at.saturating_sub(cost);
    }

    /// Returns whether the bucket is full.
    pub(super) fn is_full(self, now: Duration) -> bool {
        self.full_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UNIT: Duration = Duration::from_millis(10);

    proptest! {
        /// The twin counts units, and fills by one each `UNIT`.
        #[test]
        fn it_is_a_bucket(
            capacity in 1u32..20,
            steps in proptest::collection::vec((0u64..200, 1u32..5), 1..100),
        ) {
            let mut bucket = TokenBucket::default();
            // In tenths of a unit, so that the pauses fall between.
            let full = i64::from(capacity) * 10;
            let mut level = full;
            let mut now = Duration::ZERO;
            for (pause, want) in steps {
                now += Duration::from_millis(pause);
                level = (level + pause as i64).min(full);
                let may = bucket.wait(now, UNIT * capacity).is_none();
                prop_assert_eq!(may, level >= 0, "{} at {:?}", level, now);
                if may {
                    bucket.charge(now, UNIT * want);
                    level -= i64::from(want) * 10;
                }
                prop_assert_eq!(bucket.is_full(now), level == full);
            }
        }
    }

    #[test]
    fn the_delay_is_sufficient() {
        let mut bucket = TokenBucket::default();
        bucket.charge(Duration::ZERO, UNIT * 7);
        let wait = bucket.wait(Duration::ZERO, UNIT * 3).unwrap();
        assert_eq!(wait, UNIT * 4);
        assert_eq!(bucket.wait(wait, UNIT * 3), None);
        bucket.refund(UNIT * 4);
        assert_eq!(bucket.wait(Duration::ZERO, UNIT * 3), None);
    }
}
