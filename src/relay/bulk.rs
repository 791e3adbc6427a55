//! A flow that is moved in batches: what it does at a tick. Pure.

use std::time::Duration;

/// Interval of the looks at the queue of a bulk direction. A last byte waits for two at most.
pub(super) const LOOK: Duration = Duration::from_millis(2);

/// The age until which a burst is young: that of 100 KiB at 100 Mbit/s.
const YOUNG: Duration = Duration::from_millis(12);

/// Number of looks in a row that find the queue empty and end a burst.
const PATIENCE: u8 = 2;

/// Bytes between two looks, below which their number varies too much to be compared: the queue
/// counts as growing as long as it grows at all.
const FEW: u64 = 16 * 1024;

/// What to do at a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Move what is queued.
    Move,
    /// Look again at the next tick.
    Again,
    /// Wait for the next byte.
    Rest,
}

/// A time in microseconds, half the size of a [`Duration`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(pub(super) u64);

impl Moment {
    pub(super) fn at(time: Duration) -> Self {
        Self(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
    }

    pub(super) fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// The state of a bulk flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bulk {
    /// The former rate, and that of the last batches, in bytes per second.
    pub(super) rate: u64,
    pub(super) recent: u64,
    /// Since when the other direction was silent.
    pub(super) silent_since: Moment,
    pub(super) batches: u32,
    /// Number of looks in a row that found the queue empty.
    pub(super) empty: u8,
    /// Whether a burst has ended, and the next has not begun.
    pub(super) rests: bool,
    /// Bytes of this burst, and when it began.
    pub(super) burst: u64,
    pub(super) burst_at: Moment,
    /// Number of moves in the window because the queue did not grow: their bytes waited for a look.
    pub(super) waits: u16,
    /// When bytes were last moved, and when the queue was last seen, with what length.
    pub(super) moved_at: Moment,
    pub(super) seen_at: Moment,
    pub(super) seen: u64,
}

impl Bulk {
    pub(super) fn new(rate: u64, now: Moment) -> Self {
        Self {
            rate,
            recent: rate,
            silent_since: now,
            batches: 0,
            empty: 0,
            rests: false,
            burst: 0,
            burst_at: now,
            waits: 0,
            moved_at: now,
            seen_at: now,
            seen: 0,
        }
    }

    /// Returns whether the burst is so young that it may end soon: it is looked at twice as often.
    pub(super) fn is_young(&self, now: Moment) -> bool {
        now.since(self.burst_at) < YOUNG
    }

    /// Looks at a queue of `queued` bytes.
    pub(super) fn look(&mut self, queued: u64, now: Moment, batch: Duration) -> Look {
        if queued == 0 {
            self.empty = self.empty.saturating_add(1);
            self.rests = self.empty >= PATIENCE;
            return if self.rests { Look::Rest } else { Look::Again };
        }
        self.empty = 0;
        let grown = queued.saturating_sub(self.seen);
        let expected = bytes_in(self.recent, now.since(self.seen_at));
        let slower = grown == 0 || (expected >= FEW && grown < expected / 2);
        self.waits = self.waits.saturating_add(slower.into());
        if slower || now.since(self.moved_at) >= batch {
            return Look::Move;
        }
        (self.seen, self.seen_at) = (queued, now);
        Look::Again
    }
}

pub(super) fn per_second(bytes: u64, elapsed: Duration) -> u64 {
    let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).max(1);
    bytes.saturating_mul(1_000_000) / micros
}

fn bytes_in(rate: u64, elapsed: Duration) -> u64 {
    let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    rate.saturating_mul(micros) / 1_000_000
}
