//! One direction of a tunnel: a state machine that moves what arrives, in turns of bounded length,
//! within the limits of the tunnel, and forwards the end. How bytes move is the business of a
//! [`Mover`]: `splice` between two bare sockets, `copy` between any two streams.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::credit::Credit;
use super::leftover::Leftover;
use super::meter::{Direction, Tally, Traffic};
use super::wakeup::Wakeup;
use super::watch::Watch;
use crate::policy::Reason;

/// Number of bytes that a direction moves before it yields.
const TURN: usize = 1024 * 1024;

/// The fewest bytes that a step counts for, so that a turn has a bounded number of them.
const LEAST_STEP: usize = 4 * 1024;

/// The most bytes of a step to a destination that is confined.
const CONFINED_STEP: usize = 64 * 1024;

/// Size of the copy buffers on the stack, in bytes.
pub(super) const COPY: usize = 32 * 1024;

/// Why a direction cannot go on.
#[derive(Debug)]
pub(super) enum MoveError {
    /// The source failed.
    Source(io::Error),
    /// The destination failed.
    Destination(io::Error),
    /// The bytes must not be forwarded.
    Cut(Reason),
}

/// How far a direction is.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MoveStep {
    /// It read this many bytes from the source.
    Took(usize),
    /// It read none: the source has none now, or the destination accepts none.
    Nothing,
    /// The source has ended.
    Ended,
}

impl MoveStep {
    fn took(self) -> usize {
        match self {
            Self::Took(count) => count,
            Self::Nothing | Self::Ended => 0,
        }
    }
}

/// One direction, with the state `S` of its [`Mover`].
#[derive(Debug)]
pub(super) struct OneWay<S> {
    direction: Direction,
    flow: Flow,
    /// Bytes that were read and must reach the destination before any later ones.
    pub(super) rest: Leftover,
    /// Checks the record headers.
    pub(super) watch: Option<Box<Watch>>,
    /// What the destination can leave unread.
    pub(super) credit: Credit,
    /// Whether the destination accepts no bytes now.
    is_full: bool,
    /// When the source is read.
    pub(super) wakeup: Wakeup,
    pub(super) state: S,
}

impl<S: Default> OneWay<S> {
    /// Creates the upload at `now`, which has forwarded `flow` so far. `watch` checks the record
    /// headers.
    pub(super) fn up(flow: Flow, watch: Option<Box<Watch>>, now: Duration) -> Self {
        Self { flow, watch, credit: Credit::Free, ..Self::new(Direction::Up, now) }
    }

    /// Creates the download at `now`.
    pub(super) fn down(now: Duration) -> Self {
        Self::new(Direction::Down, now)
    }

    fn new(direction: Direction, now: Duration) -> Self {
        Self {
            direction,
            flow: Flow::Open,
            rest: Leftover::default(),
            watch: None,
            credit: Credit::Fresh,
            is_full: false,
            wakeup: Wakeup::new(now),
            state: S::default(),
        }
    }
}

impl<S> OneWay<S> {
    /// Returns how far the direction is.
    pub(super) fn flow(&self) -> Flow {
        self.flow
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

    /// Returns whether the destination has stalled, and is confined.
    pub(super) fn is_confined(&self) -> bool {
        self.credit == Credit::Stalled
    }

    /// Returns the counter of what the direction has delivered.
    pub(super) fn tally<'a>(&self, traffic: &'a Traffic) -> &'a Tally {
        traffic.tally(self.direction)
    }
}

/// Moves the bytes of one direction between its two connections. Made for each poll.
pub(super) trait Mover {
    /// What it remembers between two polls.
    type State;

    /// Returns the direction.
    fn way(&mut self) -> &mut OneWay<Self::State>;

    /// Writes bytes of the rest, and returns their number. Ready even if some are left.
    fn poll_rest(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>>;

    /// Ready when the destination may accept bytes.
    fn poll_writable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ready when the source should be read.
    fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Returns the most bytes that the next step reads.
    fn wants(&mut self) -> usize;

    /// Reads once from the source, at most `most` bytes, and delivers what the destination accepts
    /// and the watch allows. The rest keeps what the destination does not accept.
    fn poll_step(
        &mut self,
        context: &mut Context<'_>,
        most: usize,
    ) -> Poll<Result<MoveStep, MoveError>>;

    /// Looks whether the source has more bytes when no more may be read: `Took` says so.
    fn poll_beyond(&mut self, context: &mut Context<'_>) -> Poll<Result<MoveStep, MoveError>>;

    /// Notes that bytes must wait: for the destination, or for the rate.
    fn hold(&mut self, context: &mut Context<'_>) -> Result<(), MoveError>;

    /// Forwards the end.
    fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Notes in the credit what the destination has got.
    fn note_credit(&mut self);
}

/// Moves all available bytes. Ready once the end was forwarded.
pub(super) fn poll_moves<M: Mover>(
    mover: &mut M,
    context: &mut Context<'_>,
    traffic: &Traffic,
) -> Poll<Result<(), MoveError>> {
    let direction = mover.way().direction;
    let mut budget = TURN;
    loop {
        while !mover.way().rest.is_empty() {
            let Poll::Ready(wrote) = mover.poll_rest(context) else {
                return full(mover, context);
            };
            traffic.tally(direction).copied(wrote.map_err(MoveError::Destination)?);
        }
        let way = mover.way();
        way.is_full = false;
        if let Some(reason) = way.watch.as_ref().and_then(|watch| watch.fault()) {
            return Poll::Ready(Err(MoveError::Cut(reason)));
        }
        match way.flow {
            Flow::Open => {}
            Flow::Ended => {
                ready!(mover.poll_finish(context)).map_err(MoveError::Destination)?;
                mover.way().flow = Flow::Passed;
                return Poll::Ready(Ok(()));
            }
            Flow::Passed => return Poll::Ready(Ok(())),
        }
        if budget == 0 {
            // Unlike a plain wake-up, this lets the runtime poll events of other tunnels first. It
            // is never ready at once.
            let _ = pin!(tokio::task::yield_now()).poll(context);
            return Poll::Pending;
        }
        let Poll::Ready(writable) = mover.poll_writable(context) else {
            return full(mover, context);
        };
        writable.map_err(MoveError::Destination)?;
        if direction == Direction::Down
            && let Some(paced) = traffic.bounds.paced()
            && paced.poll(context).is_pending()
        {
            mover.hold(context)?;
            return Poll::Pending;
        }
        ready!(mover.poll_readable(context)).map_err(MoveError::Source)?;
        match ready!(poll_bounded(mover, context, traffic))? {
            MoveStep::Took(count) => budget = budget.saturating_sub(count.max(LEAST_STEP)),
            MoveStep::Nothing => {}
            MoveStep::Ended => mover.way().flow = Flow::Ended,
        }
        mover.note_credit();
    }
}

/// The destination is full.
fn full<M: Mover>(mover: &mut M, context: &mut Context<'_>) -> Poll<Result<(), MoveError>> {
    mover.way().is_full = true;
    mover.hold(context)?;
    Poll::Pending
}

/// Runs the next step. An upload reads at most what is allowed; a download respects its rate.
fn poll_bounded<M: Mover>(
    mover: &mut M,
    context: &mut Context<'_>,
    traffic: &Traffic,
) -> Poll<Result<MoveStep, MoveError>> {
    let way = mover.way();
    let most = if way.credit.is_short() { CONFINED_STEP } else { usize::MAX };
    if way.direction == Direction::Down {
        let Some(paced) = traffic.bounds.paced() else { return mover.poll_step(context, most) };
        let step = ready!(mover.poll_step(context, most.min(paced.most())))?;
        paced.moved(step.took());
        return Poll::Ready(Ok(step));
    }
    // All bytes were delivered by now, except a part of a header.
    let held = way.watch.as_ref().map_or(0, |watch| watch.held());
    let up = traffic.up.count().total() + held as u64;
    let down = traffic.down.count().total();
    let reserved = traffic.bounds.reserve(up, down, mover.wants());
    let step = match reserved.bytes {
        0 => mover.poll_beyond(context),
        allowed => mover.poll_step(context, most.min(allowed)),
    };
    let took = match &step {
        Poll::Ready(Ok(step)) => step.took(),
        _ => 0,
    };
    if reserved.bytes == 0 && took > 0 {
        traffic.bounds.settle(reserved, 0, up, down);
        return Poll::Ready(Err(MoveError::Cut(Reason::UploadBudget)));
    }
    traffic.bounds.settle(reserved, took, up, down);
    step
}
