//! Decides when to wake a direction: for every segment, or for a batch. Pure: the input is what was
//! moved and when, the output is what to wait for.
//!
//! At the pace of a real network, wake-ups dominate the cost of a relay, with splice and with
//! copying. A direction that moves many bytes in small pieces is therefore *bulk*: it waits until
//! [`LOW_WATER`] bytes are queued. Meanwhile it looks at the length of the queue at every tick, which
//! costs much less than moving bytes, and moves them when the queue no longer grows as fast as it
//! did, because then the sender has paused or has finished, or when they have waited long enough.
//!
//! Over a long distance a flow arrives in bursts: a window of bytes, then silence for the rest of the
//! round trip. After a silence the direction *rests*: it stays bulk, but the first byte wakes it. Of
//! parallel flows each arrives in clumps, so the silence between two clumps does not end a burst.
//! Bursts of few bytes end bulk. Every other direction is *interactive* and woken immediately.
//!
//! A bulk flow also becomes interactive if the other direction sends after a pause, or if batching
//! slows it down: when its rate falls, it is *tried* without batches, and if that is faster,
//! batching is not used for a while, longer each time.

use std::time::Duration;

use super::bulk::{Bulk, Look, LookInterval, Moment, per_second};

/// Number of queued bytes that end the wait of a bulk direction before its tick.
pub(super) const LOW_WATER: i32 = 256 * 1024;

/// Bytes within [`WINDOW`] that make an interactive direction bulk.
const PROOF: u64 = 256 * 1024;

/// Length of the window over which flows are judged before they are bulk.
const WINDOW: Duration = Duration::from_millis(512);

/// Length of the window over which the rate of a bulk flow is judged: some round trips.
const JUDGED: Duration = Duration::from_millis(768);

/// Average bytes per wake-up above which batching is not needed.
const WORTH_A_WAKE: u64 = 64 * 1024;

/// A batch of full length with fewer bytes than this is not worth its wait: three full segments.
const THIN: u64 = 4 * 1024;

/// Number of such batches in a row that end bulk.
const THIN_BATCHES: u8 = 3;

/// A flow this fast arrives in batches anyway, in bytes per second, and after how long a bulk flow
/// counts as such.
const FAST: u64 = 256 * 1024 * 1024;
const FAST_WINDOW: Duration = Duration::from_millis(64);

/// Batch times of silence after which bytes in the other direction may be a request, whose answer
/// must not wait. More frequent bytes during a download are not requests: HTTP/2 clients send
/// a WINDOW_UPDATE (RFC 9113 §6.9) for every batch.
pub(super) const SILENCE: u32 = 4;

/// Bytes after a request that make the flow bulk again without a new window, if they arrive at a
/// quarter of the former rate at least. Another request starts again.
const RESUMED: u64 = 8 * 1024;

/// Number of batches after which batching counts as successful.
const VINDICATED: u32 = 16;

/// How long batching is not tried again after a failure: initially, and at most.
const REGRET: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(16));

/// What a direction waits for when its source is dry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// The next byte.
    Byte,
    /// [`LOW_WATER`] bytes, or the tick.
    Batch,
}

/// What ended the wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Woken {
    /// The source became readable.
    Ready,
    /// The tick.
    Tick,
}

/// The pacing state of one direction. Every tunnel has two.
#[derive(Debug)]
pub(super) struct Pace {
    stage: PacingStage,
    /// Start of the window, and the bytes and wake-ups in it.
    began: Moment,
    bytes: u64,
    wakes: u32,
    /// Number of consecutive batching failures, and until when batching is not tried.
    regrets: u8,
    pause_until: Moment,
}

#[derive(Debug, PartialEq, Eq)]
enum PacingStage {
    Interactive,
    /// Interactive since a request in the other direction; it was bulk before.
    Heard {
        /// The former rate, in bytes per second.
        rate: u64,
        /// The time of the request, and the bytes in the window at that time.
        since: Moment,
        from: u64,
        batches: u32,
    },
    /// Interactive to find out whether batches slowed it down.
    Tried {
        /// The rate with batches, in bytes per second.
        batched: u64,
        batches: u32,
    },
    /// Boxed, because few tunnels are bulk.
    Bulk(Box<Bulk>),
}

impl PacingStage {
    fn bulk(bulk: Bulk) -> Self {
        Self::Bulk(Box::new(bulk))
    }
}

impl Pace {
    /// Creates a direction that starts at `now`. All times are relative to one fixed moment.
    pub(super) fn new(now: Duration) -> Self {
        Self {
            stage: PacingStage::Interactive,
            began: Moment::at(now),
            bytes: 0,
            wakes: 0,
            regrets: 0,
            pause_until: Moment(0),
        }
    }

    /// Creates a direction in the middle of a bulk flow.
    #[cfg(test)]
    pub(super) fn bulk(now: Duration) -> Self {
        let at = Moment::at(now);
        Self { stage: PacingStage::bulk(Bulk::new(0, at)), ..Self::new(now) }
    }

    /// Returns what the direction waits for.
    pub(super) fn waits_for(&self) -> Wait {
        match &self.stage {
            PacingStage::Bulk(bulk) if !bulk.rests => Wait::Batch,
            _ => Wait::Byte,
        }
    }

    /// Returns how often the queue of a bulk direction is looked at from `now` on.
    pub(super) fn look_interval(&self, now: Duration) -> LookInterval {
        match &self.stage {
            PacingStage::Bulk(bulk) => bulk.interval(Moment::at(now)),
            _ => LookInterval::Whole,
        }
    }

    /// Returns whether bytes in the other direction have no effect.
    pub(super) fn is_interactive(&self) -> bool {
        matches!(self.stage, PacingStage::Interactive | PacingStage::Tried { .. })
    }

    /// Records bytes in the other direction at `now`. After a pause, the next bytes of this
    /// direction may be the answer.
    pub(super) fn spoken_to(&mut self, now: Duration, silence: Duration) -> Wait {
        let now = Moment::at(now);
        match &mut self.stage {
            PacingStage::Interactive | PacingStage::Tried { .. } => {}
            PacingStage::Heard { since, from, .. } => (*since, *from) = (now, self.bytes),
            PacingStage::Bulk(bulk) if now.since(bulk.silent_since) < silence => {
                bulk.silent_since = now;
                bulk.asked = true;
            }
            PacingStage::Bulk(bulk) => {
                let Bulk { rate, batches, .. } = **bulk;
                self.stage = PacingStage::Heard { rate, since: now, from: 0, batches };
                self.restart(now);
            }
        }
        self.waits_for()
    }

    /// At a tick, decides about a queue of `queued` bytes. Bytes wait for at most `batch`.
    pub(super) fn look(&mut self, queued: u64, now: Duration, batch: Duration) -> Look {
        let now = Moment::at(now);
        let PacingStage::Bulk(bulk) = &mut self.stage else { return Look::Rest };
        bulk.look(queued, now, batch)
    }

    /// Records that the direction was `woken`, moved `moved` bytes, and found its source dry at
    /// `now`. Bytes wait for at most `batch`.
    pub(super) fn dry(&mut self, woken: Woken, moved: u64, now: Duration, batch: Duration) -> Wait {
        let now = Moment::at(now);
        self.stage = match std::mem::replace(&mut self.stage, PacingStage::Interactive) {
            PacingStage::Interactive => self.interactive(moved, now),
            PacingStage::Heard { rate, since, from, batches } => {
                self.heard(moved, now, (rate, since, from, batches))
            }
            PacingStage::Tried { batched, batches } => self.tried(moved, now, batched, batches),
            PacingStage::Bulk(bulk) => self.batch(woken, moved, now, bulk, batch),
        };
        self.waits_for()
    }

    fn interactive(&mut self, moved: u64, now: Moment) -> PacingStage {
        self.count(moved);
        let elapsed = now.since(self.began);
        if self.bytes < PROOF {
            if elapsed > WINDOW {
                self.restart(now);
            }
            return PacingStage::Interactive;
        }
        let rate = per_second(self.bytes, elapsed);
        let in_pieces = self.bytes / u64::from(self.wakes.max(1)) < WORTH_A_WAKE;
        self.restart(now);
        if in_pieces && rate < FAST && now >= self.pause_until {
            PacingStage::bulk(Bulk { burst: PROOF, ..Bulk::new(rate, now) })
        } else {
            PacingStage::Interactive
        }
    }

    /// Returns whether the flow continues at its former rate after a request: it is bulk again
    /// without a new window. Otherwise it stays interactive and must qualify again.
    fn heard(
        &mut self,
        moved: u64,
        now: Moment,
        (rate, since, from, batches): (u64, Moment, u64, u32),
    ) -> PacingStage {
        let came = self.bytes.saturating_sub(from) + moved;
        if came >= RESUMED && per_second(came, now.since(since)) >= rate / 4 {
            self.restart(now);
            return PacingStage::bulk(Bulk {
                silent_since: since,
                answers: true,
                batches,
                ..Bulk::new(rate, now)
            });
        }
        let began = self.began;
        match self.interactive(moved, now) {
            // The flow did not continue within the window.
            PacingStage::Interactive if self.began != began => PacingStage::Interactive,
            PacingStage::Interactive => PacingStage::Heard { rate, since, from, batches },
            bulk => bulk,
        }
    }

    /// Returns whether the flow is faster without batches, once a window is over.
    fn tried(&mut self, moved: u64, now: Moment, batched: u64, batches: u32) -> PacingStage {
        self.count(moved);
        let elapsed = now.since(self.began);
        if elapsed < JUDGED {
            return PacingStage::Tried { batched, batches };
        }
        let rate = per_second(self.bytes, elapsed);
        if rate / 2 > batched {
            return self.regret(0, now);
        }
        let ended = self.bytes < PROOF;
        self.restart(now);
        if ended {
            PacingStage::Interactive
        } else {
            PacingStage::bulk(Bulk { burst: PROOF, batches, ..Bulk::new(rate, now) })
        }
    }

    fn batch(
        &mut self,
        woken: Woken,
        moved: u64,
        now: Moment,
        mut bulk: Box<Bulk>,
        batch: Duration,
    ) -> PacingStage {
        let waited = now.since(bulk.moved_at);
        let is_thin = woken == Woken::Tick && moved < THIN && waited >= batch;
        bulk.thin = if is_thin { bulk.thin.saturating_add(1) } else { 0 };
        if bulk.thin >= THIN_BATCHES {
            return self.regret(bulk.batches, now);
        }
        if bulk.rests {
            if bulk.wake(waited, now, batch) {
                return self.regret(bulk.batches, now);
            }
            // A pause of the sender says nothing about the cost of batches.
            if waited >= WINDOW {
                self.restart(now);
            }
        } else if moved > 0 {
            bulk.recent = (bulk.recent / 4 * 3).saturating_add(per_second(moved, waited) / 4);
        }
        self.count(moved);
        let elapsed = now.since(self.began);
        let batched = per_second(self.bytes, elapsed);
        if elapsed >= FAST_WINDOW && batched > FAST {
            return self.regret(0, now);
        }
        if elapsed >= JUDGED {
            // Where bytes seldom waited, something else slowed the flow.
            let waited = std::mem::take(&mut bulk.waited);
            self.restart(now);
            if batched < bulk.rate / 2 && waited > elapsed / 4 {
                return PacingStage::Tried { batched, batches: bulk.batches };
            }
        }
        bulk.batches = bulk.batches.saturating_add(1);
        bulk.burst = bulk.burst.saturating_add(moved);
        (bulk.empty, bulk.seen, bulk.seen_at, bulk.moved_at) = (0, 0, now, now);
        bulk.asked = false;
        PacingStage::Bulk(bulk)
    }

    fn regret(&mut self, batches: u32, now: Moment) -> PacingStage {
        let (first, longest) = REGRET;
        let pause = if batches >= VINDICATED {
            self.regrets = 0;
            Duration::ZERO
        } else {
            let pause = first.saturating_mul(1 << self.regrets.min(16)).min(longest);
            self.regrets = self.regrets.saturating_add(1);
            pause
        };
        self.pause_until = Moment(now.0.saturating_add(Moment::at(pause).0));
        self.restart(now);
        PacingStage::Interactive
    }

    fn count(&mut self, moved: u64) {
        self.bytes += moved;
        self.wakes = self.wakes.saturating_add(u32::from(moved > 0));
    }

    fn restart(&mut self, now: Moment) {
        self.began = now;
        self.bytes = 0;
        self.wakes = 0;
    }
}

#[cfg(test)]
mod tests;
