//! A flow that is moved in batches: what it does at a tick. Pure.

use std::time::Duration;

/// Interval of the looks at the queue of a bulk direction. A last byte waits for two at most.
pub(super) const LOOK: Duration = Duration::from_millis(2);

/// A look costs the same at every rate. So the interval is the shortest in which this many bytes
/// arrive: otherwise many slow flows would cost more in looks than in moves.
const WORTH_A_LOOK: u64 = 16 * 1024;

/// The age until which a burst is young: that of 100 KiB at 100 Mbit/s.
const YOUNG: Duration = Duration::from_millis(12);

/// Number of looks in a row that find the queue empty and end a burst.
const PATIENCE: u8 = 2;

/// A burst of fewer bytes is not a part of a bulk flow: at once after bytes in the other direction,
/// which may have asked for it, and otherwise after this many in a row.
const SMALL_BURST: u64 = 16 * 1024;
const SMALL_BURSTS: u8 = 3;

/// Batch times of silence that end a burst in any case.
const SHORT_SILENCE: u32 = 2;

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

/// How often the queue is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LookInterval {
    /// Every half of [`LOOK`]: the flow is fast, or the burst so young that it may end soon.
    Half,
    /// Every [`LOOK`].
    Whole,
    /// Every second [`LOOK`]: the flow is slow.
    Double,
}

impl LookInterval {
    /// Returns its length where that of [`Whole`](Self::Whole) is `look`.
    pub(super) fn of(self, look: Duration) -> Duration {
        match self {
            Self::Half => look / 2,
            Self::Whole => look,
            Self::Double => look * 2,
        }
    }
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
    /// Number of batches in a row that were too small for their wait.
    pub(super) thin: u8,
    /// Number of small bursts in a row.
    pub(super) small: u8,
    /// Number of looks in a row that found the queue empty.
    pub(super) empty: u8,
    /// Whether a burst has ended, and the next has not begun.
    pub(super) rests: bool,
    /// Whether the other direction has sent bytes since the last move: what follows may be an answer.
    pub(super) asked: bool,
    /// Whether this burst followed bytes in the other direction.
    pub(super) answers: bool,
    /// Silence below which the burst has not ended.
    pub(super) patience: Duration,
    /// Bytes of this burst, and when it began.
    pub(super) burst: u64,
    pub(super) burst_at: Moment,
    /// How long in the window bytes waited for a look because the queue did not grow, at most.
    pub(super) waited: Duration,
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
            thin: 0,
            small: 0,
            empty: 0,
            rests: false,
            asked: false,
            answers: false,
            patience: Duration::ZERO,
            burst: 0,
            burst_at: now,
            waited: Duration::ZERO,
            moved_at: now,
            seen_at: now,
            seen: 0,
        }
    }

    /// Returns how often to look at the queue from `now` on.
    pub(super) fn interval(&self, now: Moment) -> LookInterval {
        let in_a_look = bytes_in(self.recent, LOOK);
        if in_a_look >= WORTH_A_LOOK * 2 || now.since(self.burst_at) < YOUNG {
            LookInterval::Half
        } else if in_a_look >= WORTH_A_LOOK {
            LookInterval::Whole
        } else {
            LookInterval::Double
        }
    }

    /// The first byte after a rest has arrived, `silence` after the last. After a short silence the
    /// burst goes on: of parallel flows, each arrives in clumps between those of the others. Returns
    /// whether a burst has ended that was too small for a bulk flow.
    pub(super) fn wake(&mut self, silence: Duration, now: Moment, batch: Duration) -> bool {
        let longest = batch * SHORT_SILENCE;
        self.rests = false;
        if silence < longest && !self.asked {
            self.patience = (silence * 2).min(longest);
            return false;
        }
        let is_answer = std::mem::replace(&mut self.answers, self.asked);
        let is_small = self.burst < SMALL_BURST;
        self.small = if is_small { self.small.saturating_add(1) } else { 0 };
        (self.burst, self.burst_at, self.patience) = (0, now, Duration::ZERO);
        is_small && (is_answer || self.small >= SMALL_BURSTS)
    }

    /// Looks at a queue of `queued` bytes.
    pub(super) fn look(&mut self, queued: u64, now: Moment, batch: Duration) -> Look {
        if queued == 0 {
            self.empty = self.empty.saturating_add(1);
            let is_over = self.asked || now.since(self.moved_at) >= self.patience;
            self.rests = self.empty >= PATIENCE && is_over;
            return if self.rests { Look::Rest } else { Look::Again };
        }
        self.empty = 0;
        let grown = queued.saturating_sub(self.seen);
        let expected = bytes_in(self.recent, now.since(self.seen_at));
        let slower = grown == 0 || (expected >= FEW && grown < expected / 2);
        if slower {
            self.waited += self.interval(now).of(LOOK) * 2;
        }
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
