//! One direction between two bare sockets: a state machine that splices, copies what cannot be
//! spliced, and forwards the end.
//!
//! The splice law: a pipe is filled only when it is empty, and drained completely before it is
//! filled again. A turn takes a pipe only if the source has bytes and the destination accepts
//! bytes, and returns it before it waits. The free space of the destination is an estimate; bytes
//! that do not fit are read from the pipe into a small buffer, and count as copied. After that, the
//! free space is queried before every fill.

// long: the states of one direction, whose law is easier to check in one place.

use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep_until};

use super::bulk::Look;
use super::credit::Credit;
use super::leftover::Leftover;
use super::meter::{Direction, Tally, Traffic};
use super::pacing::{LOW_WATER, Pace, SILENCE, Wait, Woken};
use super::pipe_pool::{Drained, Filled, Pipe};
use super::shared::Relay;
use super::socket::{self, MoreToCome};
use super::watch::Watch;
use crate::hello::HEADER;
use crate::policy::Reason;

/// Number of bytes that a direction moves before it yields.
pub(super) const TURN: usize = 1024 * 1024;

/// Size of the first fill after a pause, in bytes. It needs no query of the free space.
const FIRST_FILL: usize = 64 * 1024;

/// Minimum size of a fill, in bytes.
const LEAST_FILL: usize = 4 * 1024;

/// Size of the copy buffer on the stack, in bytes.
pub(super) const COPY: usize = 32 * 1024;

/// Pieces smaller than this are copied, in bytes: copying is cheaper, and a short read shows that
/// the source is dry, which a splice does not.
const SMALL: usize = 4 * 1024;

/// The fewest bytes that a step counts for, so that a turn has a bounded number of them.
pub(super) const STEP: usize = 4 * 1024;

/// Where an error occurred.
#[derive(Debug)]
pub(super) enum SpliceError {
    /// The source.
    Source(io::Error),
    /// The destination.
    Destination(io::Error),
    /// The bytes must not be forwarded.
    Cut(Reason),
}

/// One direction.
#[derive(Debug)]
pub(super) struct Splice {
    direction: Direction,
    flow: Flow,
    rest: Leftover,
    watch: Option<Box<Watch>>,
    pace: Pace,
    /// The next tick, while batching.
    tick: Option<Pin<Box<Sleep>>>,
    /// Whether to read from the source although tokio does not report it readable.
    due: bool,
    /// What ended the last wait, and the bytes moved since.
    woken: Woken,
    moved: u64,
    /// Maximum size of the next fill. It adapts to the flow.
    fill: usize,
    /// Whether the last wake-up brought only a small piece, or none happened yet.
    is_small: bool,
    /// Whether the destination once accepted less than expected.
    pressed: bool,
    /// Whether the destination accepts no bytes now.
    is_full: bool,
    /// What the destination can leave unread.
    credit: Credit,
}

/// The state of the direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// More bytes may arrive.
    Open,
    /// The source has ended.
    Ended,
    /// The end was forwarded.
    Passed,
}

/// The result of one step.
enum SpliceStep {
    /// Read this many bytes from the source, the maximum for one step.
    Took(usize),
    /// Read this many bytes, and the source seems to be dry.
    TookAll(usize),
    /// Read this many bytes, and the source is dry.
    Emptied(usize),
    /// The source has no bytes now.
    Dry,
    /// The destination accepts no bytes now.
    Full,
    /// The source has ended.
    Ended,
}

impl SpliceStep {
    /// Returns the number of bytes read from the source.
    fn took(&self) -> usize {
        match self {
            Self::Took(count) | Self::TookAll(count) | Self::Emptied(count) => *count,
            Self::Dry | Self::Full | Self::Ended => 0,
        }
    }
}

impl Splice {
    /// Creates the upload, which has forwarded `flow` so far. `watch` checks the record headers.
    pub(super) fn up(now: Duration, flow: Flow, watch: Option<Box<Watch>>) -> Self {
        Self { flow, watch, credit: Credit::Free, ..Self::new(now, Direction::Up) }
    }

    /// Creates the download.
    pub(super) fn down(now: Duration) -> Self {
        Self::new(now, Direction::Down)
    }

    fn new(now: Duration, direction: Direction) -> Self {
        Self {
            direction,
            flow: Flow::Open,
            rest: Leftover::default(),
            watch: None,
            pace: Pace::new(now),
            tick: None,
            due: false,
            woken: Woken::Ready,
            moved: 0,
            fill: FIRST_FILL,
            is_small: true,
            pressed: false,
            is_full: false,
            credit: Credit::Fresh,
        }
    }

    /// Puts the direction into the middle of a bulk flow.
    #[cfg(test)]
    pub(super) fn make_bulk(&mut self, pace: Pace, relay: &Relay, from: &TcpStream) {
        self.pace = pace;
        socket::set_low_water(from, LOW_WATER);
        self.tick = Some(Box::pin(sleep_until(relay.next_tick(relay.now()))));
    }

    /// Returns whether the source has sent its end.
    pub(super) fn has_ended(&self) -> bool {
        self.flow != Flow::Open
    }

    /// Returns whether all bytes from the source were delivered.
    pub(super) fn has_delivered(&self) -> bool {
        self.rest.is_empty()
    }

    /// Returns whether the destination accepts no bytes now.
    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    /// Returns what the destination can leave unread, to change it.
    pub(super) fn credit(&mut self) -> &mut Credit {
        &mut self.credit
    }

    /// Returns whether the destination has stalled, and is confined.
    pub(super) fn is_confined(&self) -> bool {
        self.credit == Credit::Stalled
    }

    /// Returns the state of the direction.
    pub(super) fn flow(&self) -> Flow {
        self.flow
    }

    // long: one turn, in the order in which things are tried.
    /// Moves all available bytes. Ready once the end was forwarded, or is left to the closing of
    /// `to` because the other direction is over.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        relay: &Relay,
        traffic: &Traffic,
        (from, to): (&TcpStream, &TcpStream),
        other: Flow,
    ) -> Poll<Result<(), SpliceError>> {
        let tally = traffic.tally(self.direction);
        let mut budget = TURN;
        loop {
            while !self.rest.is_empty() {
                let fresh = self.watch.as_ref().is_some_and(|watch| watch.is_fresh());
                let then = if fresh { MoreToCome::More } else { MoreToCome::Nothing };
                let wrote = self.rest.poll_socket(context, to, then);
                let Poll::Ready(wrote) = wrote else { return self.full() };
                tally.copied(wrote.map_err(SpliceError::Destination)?);
            }
            if let Some(reason) = self.watch.as_ref().and_then(|watch| watch.fault()) {
                return Poll::Ready(Err(SpliceError::Cut(reason)));
            }
            match self.flow {
                Flow::Open => {}
                Flow::Ended => {
                    if other != Flow::Passed {
                        socket::finish(to).map_err(SpliceError::Destination)?;
                    }
                    self.flow = Flow::Passed;
                    self.tick = None;
                    return Poll::Ready(Ok(()));
                }
                Flow::Passed => return Poll::Ready(Ok(())),
            }
            if budget == 0 {
                // Unlike a plain wake-up, this lets the runtime poll events of other tunnels first.
                // It is never ready at once.
                let _ = pin!(tokio::task::yield_now()).poll(context);
                return Poll::Pending;
            }
            let Poll::Ready(writable) = to.poll_write_ready(context) else {
                return self.full();
            };
            writable.map_err(SpliceError::Destination)?;
            self.is_full = false;
            if self.direction == Direction::Down
                && let Some(paced) = traffic.bounds.paced()
                && paced.poll(context).is_pending()
            {
                return self.held_up();
            }
            ready!(self.poll_source(context, relay, from)).map_err(SpliceError::Source)?;
            let step = self.bounded(relay, traffic, from, to)?;
            self.credit.note(|| tally.count().total(), from, to);
            match step {
                SpliceStep::Took(count) => {
                    self.moved += count as u64;
                    budget = budget.saturating_sub(count.max(STEP));
                }
                SpliceStep::TookAll(count) => {
                    self.moved += count as u64;
                    budget = budget.saturating_sub(count.max(STEP));
                    // If more bytes arrive, the next tick finds them. Without a tick, only a read
                    // that returns `WouldBlock` arms the next event.
                    if self.woken == Woken::Tick {
                        self.wait(relay, from);
                    }
                }
                SpliceStep::Emptied(count) => {
                    self.moved += count as u64;
                    budget = budget.saturating_sub(count.max(STEP));
                    self.wait(relay, from);
                }
                SpliceStep::Dry => self.wait(relay, from),
                SpliceStep::Full => self.due = self.pace.waits_for() == Wait::Batch,
                SpliceStep::Ended => self.flow = Flow::Ended,
            }
        }
    }

    /// Records bytes in the other direction. If this direction sends the answer, it does not wait
    /// for a tick.
    pub(super) fn spoken_to(&mut self, relay: &Relay, from: &TcpStream) {
        if self.pace.is_interactive() {
            return;
        }
        let before = self.pace.waits_for();
        let silence = relay.batch() * SILENCE;
        if self.pace.spoken_to(relay.now(), silence) != before {
            self.wait_for_a_byte(from);
        }
    }

    /// The kernel signals at once if bytes arrived in the meantime.
    fn wait_for_a_byte(&mut self, from: &TcpStream) {
        self.tick = None;
        socket::set_low_water(from, 1);
    }

    /// The destination is full.
    fn full<T>(&mut self) -> Poll<T> {
        self.is_full = true;
        self.held_up()
    }

    /// Bytes must wait. While batching, bytes below the low-water mark raise no event, so the source
    /// must be read when they can go on.
    fn held_up<T>(&mut self) -> Poll<T> {
        self.due = self.pace.waits_for() == Wait::Batch;
        Poll::Pending
    }

    /// Ready when the source should be read.
    fn poll_source(
        &mut self,
        context: &mut Context<'_>,
        relay: &Relay,
        from: &TcpStream,
    ) -> Poll<io::Result<()>> {
        if self.due {
            return Poll::Ready(Ok(()));
        }
        if let Poll::Ready(readable) = from.poll_read_ready(context) {
            return Poll::Ready(readable);
        }
        while let Some(tick) = &mut self.tick {
            ready!(tick.as_mut().poll(context));
            let now = relay.now();
            match self.pace.look(socket::queued(from)?, now, relay.batch()) {
                Look::Move => {
                    self.due = true;
                    self.woken = Woken::Tick;
                    return Poll::Ready(Ok(()));
                }
                Look::Again => tick.as_mut().reset(relay.next_tick(now)),
                Look::Rest => self.wait_for_a_byte(from),
            }
        }
        Poll::Pending
    }

    /// The source is dry: decides what to wait for.
    fn wait(&mut self, relay: &Relay, from: &TcpStream) {
        let now = relay.now();
        let before = self.pace.waits_for();
        if relay.settings.batch.is_some() {
            self.pace.dry(self.woken, self.moved, now, relay.batch());
        }
        if self.moved < FIRST_FILL as u64 {
            self.fill = FIRST_FILL;
        }
        if self.moved > 0 {
            self.is_small = self.moved < SMALL as u64;
        }
        self.due = false;
        self.woken = Woken::Ready;
        self.moved = 0;
        match (before, self.pace.waits_for()) {
            (Wait::Byte, Wait::Byte) => {}
            (Wait::Batch, Wait::Byte) => self.wait_for_a_byte(from),
            (before, Wait::Batch) => {
                if before == Wait::Byte {
                    socket::set_low_water(from, LOW_WATER);
                }
                let at = relay.next_tick(now);
                match &mut self.tick {
                    Some(tick) => tick.as_mut().reset(at),
                    None => self.tick = Some(Box::pin(sleep_until(at))),
                }
            }
        }
    }

    /// Runs the next step. An upload reads at most what is allowed; a download respects its rate.
    fn bounded(
        &mut self,
        relay: &Relay,
        traffic: &Traffic,
        from: &TcpStream,
        to: &TcpStream,
    ) -> Result<SpliceStep, SpliceError> {
        if self.direction == Direction::Down {
            let Some(paced) = traffic.bounds.paced() else {
                return self.step(relay, traffic, from, to, usize::MAX);
            };
            let step = self.step(relay, traffic, from, to, paced.most())?;
            paced.moved(step.took());
            return Ok(step);
        }
        // All bytes were delivered by now, except a part of a header.
        let held = self.watch.as_ref().map_or(0, |watch| watch.held());
        let up = traffic.up.count().total() + held as u64;
        let down = traffic.down.count().total();
        traffic.bounds.note_responses(down);
        let reserved = traffic.bounds.reserve(up, down, self.fill);
        if reserved.bytes == 0 {
            traffic.bounds.settle(reserved, 0, up, down);
            return Self::beyond(from);
        }
        let step = self.step(relay, traffic, from, to, reserved.bytes);
        let took = step.as_ref().map_or(0, SpliceStep::took);
        traffic.bounds.settle(reserved, took, up, down);
        step
    }

    /// Returns whether the source has more bytes when no more may be read.
    fn beyond(from: &TcpStream) -> Result<SpliceStep, SpliceError> {
        match socket::peek(from) {
            Ok(0) => Ok(SpliceStep::Ended),
            Ok(_) => Err(SpliceError::Cut(Reason::UploadBudget)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(SpliceStep::Dry),
            Err(error) => Err(SpliceError::Source(error)),
        }
    }

    /// Reads once from the source, at most `most` bytes, and delivers what the destination accepts.
    fn step(
        &mut self,
        relay: &Relay,
        traffic: &Traffic,
        from: &TcpStream,
        to: &TcpStream,
        most: usize,
    ) -> Result<SpliceStep, SpliceError> {
        let tally = traffic.tally(self.direction);
        let mut length = if self.credit.is_short() { most.min(FIRST_FILL) } else { most };
        if let Some(watch) = &mut self.watch {
            if let Some(run) = watch.next_run() {
                return self.run(from, run.min(most));
            }
            match watch.passing() {
                0 => return self.header(from, most),
                left => length = length.min(left),
            }
        }
        if self.is_small && self.moved == 0 {
            // `rest` keeps the bytes that the destination does not accept.
            let step = self.copy::<SMALL>(tally, from, to, length)?;
            self.passed(&step);
            return Ok(step);
        }
        if self.pressed || self.fill > FIRST_FILL {
            match socket::room(to) {
                Ok(room) => length = length.min(room.max(LEAST_FILL)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(SpliceStep::Full);
                }
                Err(error) => return Err(SpliceError::Destination(error)),
            }
        }
        let pipe = if traffic.splice_was_refused() { None } else { relay.pipes.take() };
        let step = match pipe {
            Some(mut pipe) => {
                let length = length.min(self.fill).min(pipe.size());
                let step = self.splice(&mut pipe, traffic, from, to, length);
                if self.fill < pipe.size()
                    && length == self.fill
                    && matches!(step, Ok(SpliceStep::Took(_)))
                {
                    self.fill = (self.fill * 4).min(pipe.size());
                }
                relay.pipes.give_back(pipe);
                step?
            }
            None => self.copy::<COPY>(tally, from, to, length)?,
        };
        self.passed(&step);
        Ok(step)
    }

    /// Reports the bytes of a step to the watch.
    fn passed(&mut self, step: &SpliceStep) {
        if let (Some(watch), 1..) = (&mut self.watch, step.took()) {
            watch.passed(step.took());
        }
    }

    fn splice(
        &mut self,
        pipe: &mut Pipe,
        traffic: &Traffic,
        from: &TcpStream,
        to: &TcpStream,
        length: usize,
    ) -> Result<SpliceStep, SpliceError> {
        let tally = traffic.tally(self.direction);
        let filled = match pipe.fill(from, length) {
            Ok(Filled::Bytes(0)) => return Ok(SpliceStep::Ended),
            Ok(Filled::Bytes(filled)) => filled,
            Ok(Filled::Refused) => {
                traffic.refuse_splice();
                return self.copy::<COPY>(tally, from, to, length);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(SpliceStep::Dry),
            Err(error) => return Err(SpliceError::Source(error)),
        };
        let Drained { moved, rest, is_refused } =
            pipe.drain(to).map_err(SpliceError::Destination)?;
        if is_refused {
            traffic.refuse_splice();
        }
        tally.spliced(moved);
        if !rest.is_empty() {
            self.pressed = true;
            self.rest.push_all(rest);
        }
        Ok(if filled < length { SpliceStep::TookAll(filled) } else { SpliceStep::Took(filled) })
    }

    fn copy<const MOST: usize>(
        &mut self,
        tally: &Tally,
        from: &TcpStream,
        to: &TcpStream,
        length: usize,
    ) -> Result<SpliceStep, SpliceError> {
        let mut buffer = [MaybeUninit::uninit(); MOST];
        let buffer = buffer.get_mut(..length.min(MOST)).unwrap_or_default();
        let room = buffer.len();
        let bytes = match received(from, buffer)? {
            Ok(bytes) => bytes,
            Err(step) => return Ok(step),
        };
        let wrote = match socket::write(to, bytes, MoreToCome::Nothing) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            answer => answer.map_err(SpliceError::Destination)?,
        };
        tally.copied(wrote);
        self.rest.push(bytes.get(wrote..).unwrap_or_default());
        let took = bytes.len();
        Ok(if took < room { SpliceStep::Emptied(took) } else { SpliceStep::Took(took) })
    }

    /// Reads a run of records. Those that are accepted are forwarded.
    fn run(&mut self, from: &TcpStream, most: usize) -> Result<SpliceStep, SpliceError> {
        let Some(watch) = &mut self.watch else { return Ok(SpliceStep::Dry) };
        let mut buffer = [MaybeUninit::uninit(); COPY];
        let buffer = buffer.get_mut(..most.min(COPY)).unwrap_or_default();
        let room = buffer.len();
        let bytes = match received(from, buffer)? {
            Ok(bytes) => bytes,
            Err(step) => return Ok(step),
        };
        self.rest.push_all(watch.run(bytes));
        let took = bytes.len();
        Ok(if took < room { SpliceStep::Emptied(took) } else { SpliceStep::Took(took) })
    }

    /// Reads more of a record header, which is forwarded only when it is complete and accepted.
    fn header(&mut self, from: &TcpStream, most: usize) -> Result<SpliceStep, SpliceError> {
        let Some(watch) = &mut self.watch else { return Ok(SpliceStep::Dry) };
        let mut buffer = [MaybeUninit::uninit(); HEADER];
        let buffer = buffer.get_mut(..watch.missing().min(most)).unwrap_or_default();
        let bytes = match received(from, buffer)? {
            Ok(bytes) => bytes,
            Err(step) => return Ok(step),
        };
        if let Some(header) = watch.header(bytes).map_err(SpliceError::Cut)? {
            self.rest.push(&header);
        }
        Ok(SpliceStep::Took(bytes.len()))
    }
}

/// Reads what has arrived, or returns the step that the lack of it means.
fn received<'a>(
    from: &TcpStream,
    buffer: &'a mut [MaybeUninit<u8>],
) -> Result<Result<&'a [u8], SpliceStep>, SpliceError> {
    match socket::read(from, buffer) {
        Ok([]) => Ok(Err(SpliceStep::Ended)),
        Ok(bytes) => Ok(Ok(bytes)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Err(SpliceStep::Dry)),
        Err(error) => Err(SpliceError::Source(error)),
    }
}
