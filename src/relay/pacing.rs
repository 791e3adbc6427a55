//! Decides when to wake a direction: for every segment, or for a batch. Pure: the input is what was
//! moved and when, the output is what to wait for.
//!
//! At the pace of a real network, wake-ups dominate the cost of a relay, with splice and with
//! copying. A direction that moves many bytes in small pieces is therefore *bulk*: it waits until
//! [`LOW_WATER`] bytes are queued or until the next tick. Every other direction is *interactive*
//! and woken immediately. A bulk flow becomes interactive again if it thins out, if batching slowed
//! it down, or if the other direction sends after a pause. If batching had to be undone soon, it is
//! not tried again for a while, longer each time.

use std::time::Duration;

/// Number of queued bytes that end the wait of a bulk direction before its tick.
pub(super) const LOW_WATER: i32 = 256 * 1024;

/// Bytes within [`WINDOW`] that make an interactive direction bulk.
const PROOF: u64 = 256 * 1024;

/// Length of the window over which flows are judged.
const WINDOW: Duration = Duration::from_millis(256);

/// Average bytes per wake-up above which batching is not needed.
const WORTH_A_WAKE: u64 = 64 * 1024;

/// A tick that finds fewer bytes than this has nothing to batch: three full segments.
const THIN: u64 = 4 * 1024;

/// Number of empty ticks in a row that end batching. Senders can pause between two bursts.
const PATIENCE: u8 = 3;

/// A flow this fast arrives in batches anyway, in bytes per second.
const FAST: u64 = 256 * 1024 * 1024;

/// Ticks of silence after which bytes in the other direction may be a request, whose answer must
/// not wait for a tick. More frequent bytes during a download are not requests: HTTP/2 clients send
/// a WINDOW_UPDATE (RFC 9113 §6.9) for every batch.
pub(super) const SILENCE: u32 = 4;

/// Bytes after a request that make the flow bulk again without a new window, if they arrive at a
/// quarter of the former rate at least. Another request starts again.
const RESUMED: u64 = 16 * 1024;

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

/// A time in microseconds, half the size of a [`Duration`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Moment(u64);

impl Moment {
    fn at(time: Duration) -> Self {
        Self(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
    }

    fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    Bulk {
        /// The former rate, in bytes per second.
        rate: u64,
        /// Since when the other direction was silent.
        silent_since: Moment,
        batches: u32,
        empty_ticks: u8,
    },
}

impl PacingStage {
    /// Returns a flow with this rate that is bulk from `now`.
    fn bulk(rate: u64, now: Moment) -> Self {
        Self::Bulk { rate, silent_since: now, batches: 0, empty_ticks: 0 }
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
        Self { stage: PacingStage::bulk(0, Moment::at(now)), ..Self::new(now) }
    }

    /// Returns what the direction waits for.
    pub(super) fn waits_for(&self) -> Wait {
        match self.stage {
            PacingStage::Interactive | PacingStage::Heard { .. } => Wait::Byte,
            PacingStage::Bulk { .. } => Wait::Batch,
        }
    }

    /// Returns whether bytes in the other direction have no effect.
    pub(super) fn is_interactive(&self) -> bool {
        self.stage == PacingStage::Interactive
    }

    /// Records bytes in the other direction at `now`. After a pause, the next bytes of this
    /// direction may be the answer.
    pub(super) fn spoken_to(&mut self, now: Duration, silence: Duration) -> Wait {
        let now = Moment::at(now);
        match &mut self.stage {
            PacingStage::Interactive => {}
            PacingStage::Heard { since, from, .. } => (*since, *from) = (now, self.bytes),
            PacingStage::Bulk { silent_since, .. } if now.since(*silent_since) < silence => {
                *silent_since = now;
            }
            PacingStage::Bulk { rate, batches, .. } => {
                self.stage =
                    PacingStage::Heard { rate: *rate, since: now, from: 0, batches: *batches };
                self.restart(now);
            }
        }
        self.waits_for()
    }

    /// Records that the direction was `woken`, moved `moved` bytes, and found its source dry at
    /// `now`.
    pub(super) fn dry(&mut self, woken: Woken, moved: u64, now: Duration) -> Wait {
        let now = Moment::at(now);
        self.stage = match self.stage {
            PacingStage::Interactive => self.interactive(moved, now),
            PacingStage::Heard { rate, since, from, batches } => {
                self.heard(moved, now, (rate, since, from, batches))
            }
            PacingStage::Bulk { rate, silent_since, batches, empty_ticks } => {
                self.batch(woken, moved, now, (rate, silent_since, batches, empty_ticks))
            }
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
            PacingStage::bulk(rate, now)
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
            return PacingStage::Bulk { rate, silent_since: since, batches, empty_ticks: 0 };
        }
        let began = self.began;
        match self.interactive(moved, now) {
            // The flow did not continue within the window.
            PacingStage::Interactive if self.began != began => PacingStage::Interactive,
            PacingStage::Interactive => PacingStage::Heard { rate, since, from, batches },
            bulk => bulk,
        }
    }

    fn batch(
        &mut self,
        woken: Woken,
        moved: u64,
        now: Moment,
        (rate, silent_since, batches, empty_ticks): (u64, Moment, u32, u8),
    ) -> PacingStage {
        if woken == Woken::Tick && moved == 0 && empty_ticks + 1 < PATIENCE {
            return PacingStage::Bulk { rate, silent_since, batches, empty_ticks: empty_ticks + 1 };
        }
        if woken == Woken::Tick && moved < THIN {
            return self.regret(batches, now);
        }
        self.count(moved);
        let elapsed = now.since(self.began);
        if elapsed >= WINDOW {
            let batched = per_second(self.bytes, elapsed);
            if batched < rate / 2 || batched > FAST {
                return self.regret(0, now);
            }
            self.restart(now);
        }
        PacingStage::Bulk { rate, silent_since, batches: batches.saturating_add(1), empty_ticks: 0 }
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
    fn an_answer_after_a_silence_waits_for_no_tick() {
        let (mut pace, now) = bulk();
        assert_eq!(pace.spoken_to(now, TICK * SILENCE), Wait::Byte);
        assert_eq!(pace.dry(Woken::Ready, 500, now), Wait::Byte);
        // Where much comes it is bulk again, and listens again after a silence.
        let now = feed(&mut pace, now, (3, 8_192, MILLI));
        assert_eq!(pace.waits_for(), Wait::Batch);
        let silence = TICK * SILENCE;
        assert_eq!(pace.spoken_to(now, silence), Wait::Batch, "so soon");
        assert_eq!(pace.spoken_to(now + silence - MILLI, silence), Wait::Batch, "again");
        assert_eq!(pace.spoken_to(now + silence * 2, silence), Wait::Byte);
        // Where little comes it stays as it is.
        let now = feed(&mut pace, now + silence * 2, (200, 500, MILLI * 2));
        assert_eq!(
            (pace.waits_for(), pace.stage),
            (Wait::Byte, PacingStage::Interactive),
            "{now:?}"
        );
    }

    #[test]
    fn exchanges_after_a_word_wait_for_no_tick() {
        let (mut pace, mut now) = bulk();
        for _ in 0..200 {
            assert_eq!(pace.spoken_to(now, TICK * SILENCE), Wait::Byte);
            now += MILLI / 10;
            assert_eq!(pace.dry(Woken::Ready, 1_000, now), Wait::Byte);
        }
    }

    #[test]
    fn bytes_with_every_batch_are_not_requests() {
        let (mut pace, mut now) = bulk();
        pace.stage = PacingStage::bulk(8 << 20, Moment::at(now));
        for _ in 0..1_000 {
            now += TICK;
            assert_eq!(pace.dry(Woken::Tick, 49_152, now), Wait::Batch);
            assert_eq!(pace.spoken_to(now, TICK * SILENCE), Wait::Batch);
        }
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

    /// How often 30 s of a flow wake its direction: with a rate in bytes per second, in segments of 250 µs,
    /// a pause of `gap` after each `burst`, and bytes in the other direction at an interval in milliseconds.
    fn wakes(rate: u64, burst: u64, gap: Duration, word: Option<u64>) -> u32 {
        const STEP: u64 = 250;
        let tick = Duration::from_millis(8);
        let mut pace = Pace::new(Duration::ZERO);
        let (mut queued, mut sent, mut count) = (0, 0, 0);
        let (mut resumes, mut next_tick) = (Duration::ZERO, tick);
        for at in (0..30_000_000).step_by(250) {
            let now = Duration::from_micros(at);
            if now >= resumes {
                queued += rate * STEP / 1_000_000;
                sent += rate * STEP / 1_000_000;
                if sent >= burst {
                    (sent, resumes) = (0, now + gap);
                }
            }
            if word.is_some_and(|word| at % (word * 1_000) == 0) {
                pace.spoken_to(now, tick * SILENCE);
            }
            let woken = match pace.waits_for() {
                Wait::Byte if queued > 0 => Woken::Ready,
                Wait::Batch if queued >= u64::from(LOW_WATER.unsigned_abs()) => Woken::Ready,
                Wait::Batch if now >= next_tick => Woken::Tick,
                _ => continue,
            };
            count += 1;
            pace.dry(woken, std::mem::take(&mut queued), now);
            let ticks = u32::try_from(now.as_millis() / tick.as_millis()).unwrap();
            next_tick = tick * (ticks + 1);
        }
        count
    }

    #[test]
    fn words_in_the_midst_of_a_flow_leave_it_bulk() {
        let gap = Duration::from_millis(60);
        let mut bad = Vec::new();
        for (rate, burst) in [(2 << 20, u64::MAX), (8 << 20, u64::MAX), (32 << 20, 16 << 20)] {
            let alone = wakes(rate, burst, gap, None);
            for word in [20, 40, 60, 100, 200, 1_000] {
                let with = wakes(rate, burst, gap, Some(word));
                if with > alone * 4 {
                    bad.push((rate >> 20, word, alone, with));
                }
            }
        }
        assert!(bad.is_empty(), "MiB/s, ms between words, wakes without and with: {bad:?}");
    }
}
