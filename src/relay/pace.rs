//! When a direction should be woken: for every segment, or for a batch of them. Pure; it is told
//! what was moved and when, and answers what to wait for.
//!
//! At the pace of a real network a relay pays for its wake-ups, copying or not. A direction that
//! moves much in small pieces is therefore *bulk*: it waits until [`LOW_WATER`] bytes are queued
//! or the next tick has come. Everything else is *interactive*: woken at once. A flow that thins
//! out, or that batching has slowed, is interactive again; where batching was soon regretted, it is
//! not tried again for a while, each time longer.

use std::time::Duration;

/// How many queued bytes end the wait of a bulk direction before its tick.
pub(super) const LOW_WATER: i32 = 256 * 1024;

/// What an interactive direction must move within [`WINDOW`] to be bulk, in bytes.
const PROOF: u64 = 256 * 1024;

/// Over how long flows are judged.
const WINDOW: Duration = Duration::from_millis(256);

/// A wake-up that finds as much as this on average needs no batching, in bytes.
const WORTH_A_WAKE: u64 = 64 * 1024;

/// A tick that finds less than this has nothing to batch, in bytes: three full segments.
const THIN: u64 = 4 * 1024;

/// How many empty ticks in a row end a batch; a sender may pause between two bursts.
const PATIENCE: u8 = 3;

/// A flow as fast as this comes in batches without our doing, in bytes a second.
const FAST: u64 = 256 * 1024 * 1024;

/// How many batches vindicate the decision to wait for them.
const VINDICATED: u32 = 16;

/// How long batching is not tried again after it was regretted: first, and at most.
const REGRET: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(16));

/// What a direction waits for, now that its source is dry.
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
    /// The source has what was waited for.
    Ready,
    /// The tick has come.
    Tick,
}

/// The pace of one direction.
#[derive(Debug)]
pub(super) struct Pace {
    stage: Stage,
    /// When the window began, and what it has seen.
    began: Duration,
    bytes: u64,
    wakes: u32,
    /// Until when batching is not tried, and how long the last such pause was.
    pause_until: Duration,
    pause: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Interactive,
    Bulk {
        /// Bytes a second, before.
        rate: u64,
        batches: u32,
        empty_ticks: u8,
    },
}

impl Pace {
    /// A direction that begins at `now`; all times are since one fixed moment.
    pub(super) fn new(now: Duration) -> Self {
        Self {
            stage: Stage::Interactive,
            began: now,
            bytes: 0,
            wakes: 0,
            pause_until: Duration::ZERO,
            pause: Duration::ZERO,
        }
    }

    /// A direction in the midst of a bulk flow.
    #[cfg(test)]
    pub(super) fn bulk(now: Duration) -> Self {
        let stage = Stage::Bulk { rate: 0, batches: 0, empty_ticks: 0 };
        Self { stage, ..Self::new(now) }
    }

    /// What it waits for at present.
    pub(super) fn waits_for(&self) -> Wait {
        match self.stage {
            Stage::Interactive => Wait::Byte,
            Stage::Bulk { .. } => Wait::Batch,
        }
    }

    /// The direction was `woken`, has `moved` so many bytes, and its source is dry `now`.
    pub(super) fn dry(&mut self, woken: Woken, moved: u64, now: Duration) -> Wait {
        self.stage = match self.stage {
            Stage::Interactive => self.interactive(moved, now),
            Stage::Bulk { rate, batches, empty_ticks } => {
                self.batch(woken, moved, now, (rate, batches, empty_ticks))
            }
        };
        self.waits_for()
    }

    fn interactive(&mut self, moved: u64, now: Duration) -> Stage {
        self.count(moved);
        let elapsed = now.saturating_sub(self.began);
        if self.bytes < PROOF {
            if elapsed > WINDOW {
                self.restart(now);
            }
            return Stage::Interactive;
        }
        let rate = per_second(self.bytes, elapsed);
        let in_pieces = self.bytes / u64::from(self.wakes.max(1)) < WORTH_A_WAKE;
        self.restart(now);
        if in_pieces && rate < FAST && now >= self.pause_until {
            Stage::Bulk { rate, batches: 0, empty_ticks: 0 }
        } else {
            Stage::Interactive
        }
    }

    fn batch(
        &mut self,
        woken: Woken,
        moved: u64,
        now: Duration,
        (rate, batches, empty_ticks): (u64, u32, u8),
    ) -> Stage {
        if woken == Woken::Tick && moved == 0 && empty_ticks + 1 < PATIENCE {
            return Stage::Bulk { rate, batches, empty_ticks: empty_ticks + 1 };
        }
        if woken == Woken::Tick && moved < THIN {
            return self.regret(batches, now);
        }
        self.count(moved);
        let elapsed = now.saturating_sub(self.began);
        if elapsed >= WINDOW {
            let batched = per_second(self.bytes, elapsed);
            if batched < rate / 2 || batched > FAST {
                return self.regret(0, now);
            }
            self.restart(now);
        }
        Stage::Bulk { rate, batches: batches.saturating_add(1), empty_ticks: 0 }
    }

    fn regret(&mut self, batches: u32, now: Duration) -> Stage {
        let (first, longest) = REGRET;
        self.pause = if batches >= VINDICATED {
            Duration::ZERO
        } else {
            (self.pause * 2).clamp(first, longest)
        };
        self.pause_until = now + self.pause;
        self.restart(now);
        Stage::Interactive
    }

    fn count(&mut self, moved: u64) {
        self.bytes += moved;
        self.wakes = self.wakes.saturating_add(u32::from(moved > 0));
    }

    fn restart(&mut self, now: Duration) {
        self.began = now;
        self.bytes = 0;
        self.wakes = 0;
    }
}

fn per_second(bytes: u64, elapsed: Duration) -> u64 {
    let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).max(1);
    bytes.saturating_mul(1_000_000) / micros
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MILLI: Duration = Duration::from_millis(1);
    const TICK: Duration = Duration::from_millis(6);

    /// Feeds `pace` with wake-ups of `moved` bytes, `apart` from each other: the time after them.
    fn feed(
        pace: &mut Pace,
        from: Duration,
        (count, moved, apart): (u32, u64, Duration),
    ) -> Duration {
        (0..count).fold(from, |now, _| {
            let (woken, now) = match pace.waits_for() {
                Wait::Byte => (Woken::Ready, now + apart),
                Wait::Batch => (Woken::Tick, now + apart),
            };
            pace.dry(woken, moved, now);
            now
        })
    }

    #[test]
    fn flows_and_their_pace() {
        // Wake-ups, bytes each, time between them, and what the flow then waits for.
        let cases = [
            ("a request", (1, 500, MILLI), Wait::Byte),
            ("ping-pong", (5_000, 64, MILLI), Wait::Byte),
            ("a trickle", (5_000, 1_400, 4 * MILLI), Wait::Byte),
            ("8 MiB/s in segments", (182, 1_448, 173 * MILLI / 1000), Wait::Batch),
            ("8 MiB/s in records", (17, 16_384, 2 * MILLI), Wait::Batch),
            ("as fast as it goes", (1_000, 100_000, 50 * MILLI / 1000), Wait::Byte),
            ("fast, in small pieces", (2_000, 32_768, 50 * MILLI / 1000), Wait::Byte),
        ];
        for (name, flow, wait) in cases {
            let mut pace = Pace::new(Duration::ZERO);
            feed(&mut pace, Duration::ZERO, flow);
            assert_eq!(pace.waits_for(), wait, "{name}");
        }
    }

    fn bulk() -> (Pace, Duration) {
        let mut pace = Pace::new(Duration::ZERO);
        let now = feed(&mut pace, Duration::ZERO, (40, 8_192, MILLI));
        assert_eq!(pace.waits_for(), Wait::Batch);
        let now = feed(&mut pace, now, (50, 49_152, TICK));
        assert_eq!(pace.waits_for(), Wait::Batch);
        (pace, now)
    }

    #[test]
    fn a_flow_that_thins_out_is_interactive_at_once() {
        let (mut pace, now) = bulk();
        assert_eq!(pace.dry(Woken::Tick, 500, now + TICK), Wait::Byte);
    }

    #[test]
    fn a_flow_may_pause_for_two_ticks() {
        let (mut pace, now) = bulk();
        assert_eq!(pace.dry(Woken::Tick, 0, now + TICK), Wait::Batch);
        assert_eq!(pace.dry(Woken::Tick, 0, now + TICK * 2), Wait::Batch);
        let (mut again, now) = (pace, now + TICK * 3);
        assert_eq!(again.dry(Woken::Tick, 98_304, now), Wait::Batch);
        assert_eq!(again.dry(Woken::Tick, 0, now + TICK), Wait::Batch);
        assert_eq!(again.dry(Woken::Tick, 0, now + TICK * 2), Wait::Batch);
        assert_eq!(again.dry(Woken::Tick, 0, now + TICK * 3), Wait::Byte);
    }

    #[test]
    fn what_batching_slows_is_left_alone_each_time_longer() {
        // Request and response of 16 KiB: fast while nothing waits, one a tick in batches.
        let mut pace = Pace::new(Duration::ZERO);
        let (mut now, mut waited) = (Duration::ZERO, 0_u32);
        while now < Duration::from_secs(60) {
            let (woken, apart) = match pace.waits_for() {
                Wait::Byte => (Woken::Ready, MILLI / 5),
                Wait::Batch => (Woken::Tick, TICK),
            };
            waited += u32::from(woken == Woken::Tick);
            now += apart;
            pace.dry(woken, 16_384, now);
        }
        let share = f64::from(waited) * TICK.as_secs_f64() / now.as_secs_f64();
        assert!(share < 0.05, "{share}");
    }

    proptest! {
        #[test]
        fn nothing_waits_for_a_batch_without_end(
            wakes in prop::collection::vec((any::<bool>(), 0_u64..2_000_000, 0_u64..20_000), 0..400),
        ) {
            let mut pace = Pace::new(Duration::ZERO);
            let mut now = Duration::ZERO;
            for (tick, moved, micros) in wakes {
                now += Duration::from_micros(micros);
                pace.dry(if tick { Woken::Tick } else { Woken::Ready }, moved, now);
            }
            for _ in 0..PATIENCE {
                now += TICK;
                pace.dry(Woken::Tick, 0, now);
            }
            prop_assert_eq!(pace.waits_for(), Wait::Byte);
        }
    }
}
