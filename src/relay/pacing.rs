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
//! round trip. After a silence the direction *rests*: it stays bulk, but the first byte wakes it. A
//! burst of few bytes ends bulk. Every other direction is *interactive* and woken immediately.
//!
//! A bulk flow also becomes interactive if the other direction sends after a pause, or if batching
//! slows it down: when its rate falls, it is *tried* without batches, and if that is faster,
//! batching is not used for a while, longer each time.

use std::time::Duration;

use super::bulk::{Bulk, LOOK, Look, Moment, per_second};

/// Number of queued bytes that end the wait of a bulk direction before its tick.
pub(super) const LOW_WATER: i32 = 256 * 1024;

/// Bytes within [`WINDOW`] that make an interactive direction bulk.
const PROOF: u64 = 256 * 1024;

/// Length of the window over which flows are judged before they are bulk.
const WINDOW: Duration = Duration::from_millis(256);

/// Length of the window over which the rate of a bulk flow is judged: some round trips.
const JUDGED: Duration = Duration::from_millis(768);

/// Average bytes per wake-up above which batching is not needed.
const WORTH_A_WAKE: u64 = 64 * 1024;

/// A batch of full length with fewer bytes than this is not worth its wait: three full segments.
const THIN: u64 = 4 * 1024;

/// A burst with fewer bytes than this is an answer, not a part of a bulk flow.
const SMALL_BURST: u64 = 64 * 1024;

/// A flow this fast arrives in batches anyway, in bytes per second.
const FAST: u64 = 256 * 1024 * 1024;

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
        let look = bulk.look(queued, now, batch);
        let Bulk { burst, batches, .. } = **bulk;
        if look == Look::Rest && burst < SMALL_BURST {
            self.stage = self.regret(batches, now);
        }
        look
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
        if woken == Woken::Tick && moved < THIN && waited >= batch {
            return self.regret(bulk.batches, now);
        }
        if bulk.rests {
            bulk.rests = false;
            bulk.burst = 0;
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
        if elapsed >= WINDOW && batched > FAST {
            return self.regret(0, now);
        }
        if elapsed >= JUDGED {
            // Where bytes seldom waited, something else slowed the flow.
            let waited = (LOOK * 2).saturating_mul(std::mem::take(&mut bulk.waits).into());
            self.restart(now);
            if batched < bulk.rate / 2 && waited > elapsed / 4 {
                return PacingStage::Tried { batched, batches: bulk.batches };
            }
        }
        bulk.batches = bulk.batches.saturating_add(1);
        bulk.burst = bulk.burst.saturating_add(moved);
        (bulk.empty, bulk.seen, bulk.seen_at, bulk.moved_at) = (0, 0, now, now);
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MILLI: Duration = Duration::from_millis(1);
    const BATCH: Duration = Duration::from_millis(8);
    const MIB: u64 = 1 << 20;

    /// The longest time between an event and the next look: ticks nearer than this are skipped.
    const ALMOST: Duration = Duration::from_micros(500);

    /// A direction whose source receives bytes at given times, and whose destination takes all.
    struct Flow {
        pace: Pace,
        now: Duration,
        queued: u64,
        /// When the newest byte arrived, and the oldest that has not been moved.
        newest: Duration,
        oldest: Duration,
        tick: Option<Duration>,
        /// Number of moves and of looks, and the longest that a byte waited.
        moves: u32,
        looks: u32,
        longest: Duration,
        /// How long the newest byte waited at the last move.
        waited: Duration,
    }

    impl Flow {
        fn new() -> Self {
            let zero = Duration::ZERO;
            Self {
                pace: Pace::new(zero),
                now: zero,
                queued: 0,
                newest: zero,
                oldest: zero,
                tick: None,
                moves: 0,
                looks: 0,
                longest: zero,
                waited: zero,
            }
        }

        fn arrive(&mut self, bytes: u64) {
            if self.queued == 0 {
                self.oldest = self.now;
            }
            self.newest = self.now;
            self.queued += bytes;
            let full = self.queued >= u64::from(LOW_WATER.unsigned_abs());
            if full || self.pace.waits_for() == Wait::Byte {
                self.move_all(Woken::Ready);
            }
        }

        fn move_all(&mut self, woken: Woken) {
            self.moves += 1;
            self.longest = self.longest.max(self.now - self.oldest);
            self.waited = self.now - self.newest;
            let wait = self.pace.dry(woken, std::mem::take(&mut self.queued), self.now, BATCH);
            self.tick = (wait == Wait::Batch).then(|| self.next_tick());
        }

        fn next_tick(&self) -> Duration {
            let ticks = (self.now + ALMOST).as_micros() / LOOK.as_micros() + 1;
            LOOK * u32::try_from(ticks).unwrap()
        }

        /// Time passes, and with it the ticks.
        fn pass(&mut self, time: Duration) {
            let end = self.now + time;
            while let Some(tick) = self.tick.filter(|tick| *tick <= end) {
                self.now = tick;
                self.looks += 1;
                match self.pace.look(self.queued, tick, BATCH) {
                    Look::Move => self.move_all(Woken::Tick),
                    Look::Again => self.tick = Some(self.next_tick()),
                    Look::Rest => self.tick = None,
                }
            }
            self.now = end;
        }

        /// Bytes in the other direction.
        fn word(&mut self) {
            if self.pace.spoken_to(self.now, BATCH * SILENCE) == Wait::Byte {
                self.tick = None;
                if self.queued > 0 {
                    self.move_all(Woken::Ready);
                }
            }
        }

        /// `bytes` in segments of `segment`, at a rate in bytes per second.
        fn stream(&mut self, bytes: u64, segment: u64, rate: u64) {
            for _ in 0..bytes.div_ceil(segment) {
                self.arrive(segment);
                self.pass(Duration::from_micros(segment * 1_000_000 / rate));
            }
        }

        /// How long the last byte waits if no other comes.
        fn last_byte(&mut self) -> Duration {
            for _ in 0..1_000 {
                if self.queued == 0 {
                    return self.waited;
                }
                self.pass(MILLI / 10);
            }
            panic!("the last byte never leaves: {:?}", self.pace);
        }
    }

    /// Feeds `pace` with wake-ups of `moved` bytes, `apart` from each other: the time after them.
    fn feed(
        pace: &mut Pace,
        from: Duration,
        (count, moved, apart): (u32, u64, Duration),
    ) -> Duration {
        (0..count).fold(from, |now, _| {
            let woken = match pace.waits_for() {
                Wait::Byte => Woken::Ready,
                Wait::Batch => Woken::Tick,
            };
            pace.dry(woken, moved, now + apart, BATCH);
            now + apart
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

    /// Flows over real links: what a MiB costs in moves, and in looks, which cost a tenth of a move.
    /// The naive relay moves each segment.
    #[test]
    fn flows_over_links_cost_few_moves() {
        let gbit = 125_000_000;
        // Segment as the network card merges it, rate, bytes and pause of a burst, most moves a MiB.
        let cases = [
            ("1 Gbit/s", 5_792, gbit, u64::MAX, 0, 5),
            ("100 Mbit/s", 1_448, gbit / 10, u64::MAX, 0, 14),
            ("one of 16 at 1 Gbit/s", 2_896, gbit / 16, u64::MAX, 0, 18),
            ("10 Mbit/s", 1_448, gbit / 100, u64::MAX, 0, 110),
            ("1 Gbit/s at 160 ms, a window of 3 MiB", 5_792, gbit, 3 * MIB, 135, 6),
            ("1 Gbit/s at 160 ms, a window of 1 MiB", 5_792, gbit, MIB, 150, 8),
            ("100 Mbit/s at 40 ms, a window of 256 KiB", 1_448, gbit / 10, MIB / 4, 20, 19),
            ("8 MiB/s from an application", 4_096, 8 * MIB, u64::MAX, 0, 16),
        ];
        for (name, segment, rate, burst, pause, most) in cases {
            let mut flow = Flow::new();
            let mut sent = 0;
            while sent < 64 * MIB {
                let bytes = burst.min(64 * MIB);
                flow.stream(bytes, segment, rate);
                flow.pass(MILLI * pause);
                sent += bytes;
            }
            let a_mib = u64::from(flow.moves) * MIB / sent;
            assert!(a_mib <= most, "{name}: {a_mib} moves a MiB, {} looks", flow.looks);
            let naive = MIB / segment;
            assert!(a_mib * 2 < naive, "{name}: {a_mib}, but {naive} without batches");
            assert!(flow.longest <= BATCH + LOOK + ALMOST, "{name}: {:?}", flow.longest);
        }
    }

    /// The last byte of an object waits for two looks at most, at every rate.
    #[test]
    fn the_last_byte_of_an_object_waits_for_two_looks_at_most() {
        for rate in [1, 2, 5, 10, 20, 50, 100, 120].map(|mib| mib * MIB) {
            let mut flow = Flow::new();
            flow.stream(4 * MIB, 1_448, rate);
            for extra in 0..40 {
                flow.pass(MILLI * 100 + MILLI * extra / 20);
                flow.stream(MIB, 1_448, rate);
                let waited = flow.last_byte();
                assert!(waited <= LOOK * 2 + ALMOST, "{} MiB/s: {waited:?}", rate / MIB);
            }
        }
    }

    fn bulk() -> Flow {
        let mut flow = Flow::new();
        flow.stream(2 * MIB, 8_192, 8 * MIB);
        assert_eq!(flow.pace.waits_for(), Wait::Batch);
        flow
    }

    #[test]
    fn a_flow_that_thins_out_is_interactive_at_once() {
        let mut flow = bulk();
        flow.stream(10_000, 500, 50_000);
        assert_eq!((flow.pace.waits_for(), flow.pace.is_interactive()), (Wait::Byte, true));
    }

    #[test]
    fn after_a_burst_the_first_byte_wakes() {
        let mut flow = bulk();
        flow.pass(MILLI * 10);
        assert_eq!((flow.pace.waits_for(), flow.pace.is_interactive()), (Wait::Byte, false));
        // The flow goes on in batches.
        let moves = flow.moves;
        flow.stream(MIB, 8_192, 8 * MIB);
        assert!(flow.moves - moves < 20, "{}", flow.moves - moves);
        // An answer of few bytes is not a part of it.
        flow.pass(MILLI * 10);
        flow.stream(20_000, 1_000, 50 * MIB);
        flow.pass(MILLI * 10);
        assert!(flow.pace.is_interactive());
    }

    #[test]
    fn an_answer_after_a_silence_waits_for_no_tick() {
        let mut flow = bulk();
        flow.last_byte();
        flow.pace.stage = PacingStage::bulk(Bulk::new(8 * MIB, Moment(0)));
        flow.word();
        assert_eq!(flow.pace.waits_for(), Wait::Byte);
        assert_eq!(flow.pace.dry(Woken::Ready, 500, flow.now, BATCH), Wait::Byte);
        // Where much comes it is bulk again, and listens again after a silence.
        let (mut pace, now) = (flow.pace, flow.now);
        let now = feed(&mut pace, now, (3, 8_192, MILLI));
        assert_eq!(pace.waits_for(), Wait::Batch);
        let silence = BATCH * SILENCE;
        assert_eq!(pace.spoken_to(now, silence), Wait::Batch, "so soon");
        assert_eq!(pace.spoken_to(now + silence - MILLI, silence), Wait::Batch, "again");
        assert_eq!(pace.spoken_to(now + silence * 2, silence), Wait::Byte);
        // Where little comes it stays as it is.
        feed(&mut pace, now + silence * 2, (200, 500, MILLI * 2));
        assert_eq!((pace.waits_for(), pace.stage), (Wait::Byte, PacingStage::Interactive));
    }

    #[test]
    fn exchanges_after_a_word_wait_for_no_tick() {
        let mut flow = bulk();
        flow.pass(BATCH * SILENCE);
        for _ in 0..200 {
            flow.word();
            flow.pass(MILLI / 10);
            flow.arrive(1_000);
            assert_eq!(flow.queued, 0);
        }
    }

    #[test]
    fn bytes_with_every_batch_are_not_requests() {
        let (mut pace, mut now) = (Pace::bulk(Duration::ZERO), Duration::ZERO);
        for _ in 0..1_000 {
            now += BATCH;
            assert_eq!(pace.dry(Woken::Tick, 49_152, now, BATCH), Wait::Batch);
            assert_eq!(pace.spoken_to(now, BATCH * SILENCE), Wait::Batch);
        }
    }

    #[test]
    fn what_batching_slows_is_left_alone_each_time_longer() {
        // Requests for 100 KiB each, one after another, answered in 0.3 ms in four pieces: in
        // batches, each answer waits for a look.
        let mut flow = Flow::new();
        let mut answers = 0_u64;
        while flow.now < Duration::from_secs(60) {
            for _ in 0..4 {
                flow.pass(MILLI / 10);
                flow.arrive(25_600);
            }
            flow.last_byte();
            answers += 1;
        }
        // Without batches there are 2,500 answers a second.
        assert!(answers > 60 * 2_000, "{answers}");
    }

    proptest! {
        /// For every sequence of arrivals and words: no byte waits longer than a batch and two
        /// looks, the last one for two looks, and then the direction waits for a byte.
        #[test]
        fn nothing_waits_without_end(
            events in prop::collection::vec(
                (prop_oneof![Just(0), 1_u64..2_000, 1_000_u64..100_000], 0_u64..20_000, any::<u8>()),
                0..400,
            ),
            busy in 0_u64..8,
        ) {
            let mut flow = Flow::new();
            for (bytes, micros, word) in events {
                if word < 10 {
                    flow.word();
                }
                if bytes > 0 {
                    flow.arrive(bytes);
                }
                flow.pass(Duration::from_micros(micros >> busy));
            }
            let last = flow.last_byte();
            prop_assert!(last <= LOOK * 2 + ALMOST, "{last:?}");
            prop_assert!(flow.longest <= BATCH + LOOK * 2 + ALMOST, "{:?}", flow.longest);
            flow.pass(LOOK * 4);
            prop_assert_eq!(flow.pace.waits_for(), Wait::Byte);
            prop_assert_eq!(flow.tick, None);
        }
    }

    /// Moves of 30 s of a flow with a rate in bytes per second, with a pause of 60 ms after each
    /// `burst`, and bytes in the other direction at an interval in milliseconds.
    fn moves(rate: u64, burst: u64, word: Option<u64>) -> u32 {
        const STEP: u64 = 250;
        let mut flow = Flow::new();
        let (mut sent, mut resumes) = (0, Duration::ZERO);
        for at in (0..30_000_000).step_by(250) {
            if flow.now >= resumes {
                flow.arrive(rate * STEP / 1_000_000);
                sent += rate * STEP / 1_000_000;
                if sent >= burst {
                    (sent, resumes) = (0, flow.now + MILLI * 60);
                }
            }
            if word.is_some_and(|word| at % (word * 1_000) == 0) {
                flow.word();
            }
            flow.pass(Duration::from_micros(STEP));
        }
        flow.moves
    }

    #[test]
    fn words_in_the_midst_of_a_flow_leave_it_bulk() {
        let mut bad = Vec::new();
        for (rate, burst) in [(2 * MIB, u64::MAX), (8 * MIB, u64::MAX), (32 * MIB, 16 * MIB)] {
            let alone = moves(rate, burst, None);
            for word in [20, 40, 60, 100, 200, 1_000] {
                let with = moves(rate, burst, Some(word));
                if with > alone * 4 {
                    bad.push((rate / MIB, word, alone, with));
                }
            }
        }
        assert!(bad.is_empty(), "MiB/s, ms between words, moves without and with: {bad:?}");
    }
}
