//! Limits the upload per hour of a client (`upload-bytes-per-hour`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Represents no limit.
pub(super) const UNBOUNDED: u64 = u64::MAX;

/// Reserved upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserved {
    /// Number of bytes.
    pub bytes: usize,
    /// Number of these that the quota of the client has already counted.
    pub(super) counted: usize,
    pub(super) follows: Follows,
}

/// What bytes of the upload follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Follows {
    /// Nothing that counts: they belong to the handshake.
    Handshake,
    /// Other bytes of the upload.
    Upload,
    /// A response.
    Response,
}

impl Reserved {
    /// Bytes that no quota has counted.
    pub(super) fn uncounted(bytes: usize) -> Self {
        Self { bytes, counted: 0, follows: Follows::Handshake }
    }
}

/// Maximum upload per hour of all tunnels of one client. It survives reloads.
#[derive(Debug)]
pub struct UploadQuota {
    limit: AtomicU64,
    began: Instant,
    uploads: Mutex<UploadWindow>,
}

impl Default for UploadQuota {
    /// Creates a quota without a limit.
    fn default() -> Self {
        Self::new(UNBOUNDED)
    }
}

impl UploadQuota {
    /// Creates a quota of `limit` bytes per hour, unused.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self { limit: AtomicU64::new(limit), began: Instant::now(), uploads: Mutex::default() }
    }

    /// Sets or removes the limit. Earlier uploads still count, unless none was counted while there
    /// was no limit.
    pub fn limit_to(&self, bytes: Option<u64>) {
        self.limit.store(bytes.unwrap_or(UNBOUNDED), Ordering::Relaxed);
    }

    /// Returns the number of bytes that can still be sent.
    #[must_use]
    pub fn left(&self) -> u64 {
        match self.limit.load(Ordering::Relaxed) {
            UNBOUNDED => UNBOUNDED,
            limit => self.with(|uploads, now| limit.saturating_sub(uploads.sum(now))),
        }
    }

    /// Counts bytes that were sent, within the limit or not.
    pub fn count(&self, bytes: u64) {
        if self.limit.load(Ordering::Relaxed) != UNBOUNDED {
            self.with(|uploads, now| uploads.add(bytes, now));
        }
    }

    fn with<R>(&self, act: impl FnOnce(&mut UploadWindow, Duration) -> R) -> R {
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut uploads, self.began.elapsed())
    }

    /// Reserves up to `want` bytes. Each result must be [settled](Self::settle).
    pub(super) fn reserve(&self, want: usize) -> Reserved {
        let limit = self.limit.load(Ordering::Relaxed);
        if limit == UNBOUNDED {
            return Reserved::uncounted(want);
        }
        self.with(|uploads, now| {
            let left = limit.saturating_sub(uploads.sum(now));
            let bytes = want.min(usize::try_from(left).unwrap_or(usize::MAX));
            uploads.add(bytes as u64, now);
            Reserved { counted: bytes, ..Reserved::uncounted(bytes) }
        })
    }

    /// Replaces a reservation with the bytes that were read. Returns whether the hour exceeds the
    /// limit.
    pub(super) fn settle(&self, counted: usize, took: usize) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        if counted == took || (counted == 0 && limit == UNBOUNDED) {
            return false;
        }
        self.with(|uploads, now| {
            uploads.take_back(counted.saturating_sub(took) as u64, now);
            uploads.add(took.saturating_sub(counted) as u64, now);
            uploads.sum(now) > limit
        })
    }
}

/// Number of slots per hour.
const SLOTS: usize = 60;

/// Length of a slot.
const SLOT: Duration = Duration::from_secs(60);

/// The bytes sent within the last hour, by minute. The minute that started an hour ago counts in
/// full until it is over, so no hour exceeds the limit. Pure: the caller passes the time.
#[derive(Debug, Clone)]
struct UploadWindow {
    /// Bytes per minute; the last is the current one.
    slots: [u64; SLOTS + 1],
    /// The minute of the last slot, relative to the caller's fixed moment.
    minute: u64,
    sum: u64,
}

impl Default for UploadWindow {
    fn default() -> Self {
        Self { slots: [0; SLOTS + 1], minute: 0, sum: 0 }
    }
}

impl UploadWindow {
    /// Returns the bytes in the hour before `now`, which is relative to one fixed moment.
    fn sum(&mut self, now: Duration) -> u64 {
        self.advance(now);
        self.sum
    }

    /// Counts bytes.
    fn add(&mut self, bytes: u64, now: Duration) {
        self.advance(now);
        if let Some(current) = self.slots.last_mut() {
            *current = current.saturating_add(bytes);
            self.sum = self.sum.saturating_add(bytes);
        }
    }

    /// Removes bytes that were counted but not sent. Bytes older than an hour no longer count
    /// anyway.
    fn take_back(&mut self, bytes: u64, now: Duration) {
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

    proptest! {
        /// The twin keeps every upload with its time.
        #[test]
        fn an_hour_holds_what_its_minutes_saw(
            uploads in proptest::collection::vec((0u64..900, 0u64..10_000), 1..60),
        ) {
            let mut hour = UploadWindow::default();
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
            let mut hour = UploadWindow::default();
            hour.add(first, Duration::ZERO);
            let now = Duration::from_secs(pause);
            hour.add(second, now);
            let before = hour.sum(now);
            hour.take_back(back, now);
            prop_assert_eq!(hour.sum(now), before.saturating_sub(back));
        }
    }
}
