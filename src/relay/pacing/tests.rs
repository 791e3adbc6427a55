//! Flows over links of every kind, in virtual time.

use proptest::prelude::*;

use super::super::bulk::LOOK;
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
        let interval = self.pace.look_interval(self.now).of(LOOK);
        let ticks = (self.now + ALMOST).as_micros() / interval.as_micros() + 1;
        interval * u32::try_from(ticks).unwrap()
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
fn feed(pace: &mut Pace, from: Duration, (count, moved, apart): (u32, u64, Duration)) -> Duration {
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
        ("one of 16 at 1 Gbit/s, clumps of 64 KiB", 5_792, gbit, MIB / 16, 8, 18),
        ("one of 16 at 1 Gbit/s, clumps of 32 KiB", 5_792, gbit, MIB / 32, 4, 19),
        ("one of 16 at 1 Gbit/s, clumps of 16 KiB", 5_792, gbit, MIB / 64, 2, 19),
        ("one of 40 at 1 Gbit/s, clumps of 32 KiB", 5_792, gbit, MIB / 32, 10, 36),
        ("one of 80 at 1 Gbit/s, clumps of 32 KiB", 5_792, gbit, MIB / 32, 20, 70),
        ("one of 16 at 100 Mbit/s", 1_448, gbit / 160, u64::MAX, 0, 200),
        ("one of 16 at 100 Mbit/s, clumps of 16 KiB", 1_448, gbit / 10, MIB / 64, 20, 130),
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
        assert!(flow.longest <= BATCH + LOOK * 2 + ALMOST, "{name}: {:?}", flow.longest);
    }
}

/// The last byte of an object waits for two looks at most. Slow flows are looked at half as often.
#[test]
fn the_last_byte_of_an_object_waits_for_two_looks_at_most() {
    for rate in [1, 2, 5, 10, 20, 50, 100, 120].map(|mib| mib * MIB) {
        let mut flow = Flow::new();
        flow.stream(4 * MIB, 1_448, rate);
        for extra in 0..40 {
            flow.pass(MILLI * 100 + MILLI * extra / 20);
            flow.stream(MIB, 1_448, rate);
            let waited = flow.last_byte();
            let most = if rate > 12 * MIB { LOOK * 2 } else { LOOK * 4 };
            assert!(waited <= most + ALMOST, "{} MiB/s: {waited:?}", rate / MIB);
        }
    }
}

/// An object that is over within a few milliseconds is looked at more often.
#[test]
fn the_last_byte_of_a_small_object_waits_for_less() {
    for rate in [50, 100, 120].map(|mib| mib * MIB) {
        let mut flow = Flow::new();
        flow.stream(4 * MIB, 1_448, rate);
        for extra in 0..40 {
            flow.pass(MILLI * 10 + MILLI * extra / 20);
            flow.word();
            flow.stream(100 * 1024, 1_448, rate);
            let waited = flow.last_byte();
            assert!(waited <= LOOK + ALMOST, "{} MiB/s: {waited:?}", rate / MIB);
        }
    }
}

fn bulk() -> Flow {
    let mut flow = Flow::new();
    flow.stream(2 * MIB, 8_192, 8 * MIB);
    assert_eq!(flow.pace.waits_for(), Wait::Batch);
    flow
}

/// Every flow begins slowly, as its sender's window grows.
#[test]
fn a_flow_that_becomes_fast_is_not_batched_for_long() {
    let mut flow = Flow::new();
    flow.stream(MIB, 8_192, 100 * MIB);
    assert_eq!(flow.pace.waits_for(), Wait::Batch);
    flow.stream(100 * MIB, 65_536, 1_024 * MIB);
    assert!(flow.pace.is_interactive());
}

#[test]
fn a_flow_that_thins_out_is_interactive_after_three_batches() {
    let mut flow = bulk();
    flow.stream(10_000, 500, 50_000);
    assert_eq!((flow.pace.waits_for(), flow.pace.is_interactive()), (Wait::Byte, true));
}

#[test]
fn after_a_burst_the_first_byte_wakes() {
    let mut flow = bulk();
    flow.pass(MILLI * 20);
    assert_eq!((flow.pace.waits_for(), flow.pace.is_interactive()), (Wait::Byte, false));
    // The flow goes on in batches.
    let moves = flow.moves;
    flow.stream(MIB, 8_192, 8 * MIB);
    assert!(flow.moves - moves < 20, "{}", flow.moves - moves);
    // An answer of few bytes is not a part of it, and the next one waits for nothing.
    for bytes in [10_000, 1_000] {
        flow.pass(MILLI * 20);
        flow.word();
        flow.stream(bytes, 1_000, 50 * MIB);
    }
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
    feed(&mut pace, now + silence * 2, (300, 500, MILLI * 2));
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
    /// For every sequence of arrivals and words: no byte waits longer than a batch and two looks of
    /// the longest interval, the last one for two such looks, and then the direction waits for a byte.
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
        prop_assert!(last <= LOOK * 4 + ALMOST, "{last:?}");
        prop_assert!(flow.longest <= BATCH + LOOK * 4 + ALMOST, "{:?}", flow.longest);
        flow.pass(BATCH * 2 + LOOK * 4);
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
