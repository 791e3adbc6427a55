//! The id of a session: a ULID that the client gets in the answer and that the audit line contains.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};
use ulid::{ULID_LEN, Ulid};

/// 26 characters, unique, ordered by time of accept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(Ulid);

impl fmt::Display for SessionId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0.array_to_str(&mut [0; ULID_LEN]))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl Serialize for SessionId {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(self.0.array_to_str(&mut [0; ULID_LEN]))
    }
}

/// Generates ids from a random start and a counter, without a system call for each. Two ids reveal
/// to a client only the number of sessions between them.
#[derive(Debug)]
pub(super) struct Ids {
    base: u128,
    next: AtomicU64,
}

impl Ids {
    pub(super) fn new() -> Self {
        // One of the 80 bits stays free, so that the counter cannot overflow.
        Self { base: Ulid::generate().random() >> 1, next: AtomicU64::new(0) }
    }

    pub(super) fn next(&self, now: SystemTime) -> SessionId {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        let milliseconds = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        SessionId(Ulid::from_parts(milliseconds, self.base + u128::from(count)))
    }
}

#[cfg(test)]
impl SessionId {
    pub(super) const FIXED: Self = Self(Ulid::from_parts(1_732_419_600_123, 1));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ids_are_unique_and_sort_by_time_then_count() {
        let ids = Ids::new();
        let start = UNIX_EPOCH + Duration::from_millis(1_700_000_000_000);
        let made: Vec<SessionId> =
            (0..1_000u64).map(|step| ids.next(start + Duration::from_millis(step / 10))).collect();
        assert!(made.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(made.windows(2).all(|pair| pair[0].to_string() < pair[1].to_string()));
        assert_eq!(made[0].to_string().len(), 26);
        assert_ne!(Ids::new().next(start), Ids::new().next(start));
    }
}
