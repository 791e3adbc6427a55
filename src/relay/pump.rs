//! One direction where a side is no bare socket (TLS towards the client): the same order of things
//! as in `way`, but every byte is copied, through a buffer on the stack.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::rest::Rest;
use super::traffic::{Direction, Traffic};
use super::watch::Watch;
use super::way::{Broken, COPY, Flow, TURN};
use crate::policy::Reason;

/// One direction.
#[derive(Debug)]
pub(super) struct Pump {
    direction: Direction,
    flow: Flow,
    rest: Rest,
    watch: Option<Box<Watch>>,
    /// Whether the destination may hold bytes back until it is flushed.
    unflushed: bool,
}

impl Pump {
    /// The upload, which has come as far as `flow`. `watch`: judges the headers of what passes.
    pub(super) fn up(flow: Flow, watch: Option<Box<Watch>>) -> Self {
        Self { flow, watch, ..Self::new(Direction::Up) }
    }

    /// The download.
    pub(super) fn down() -> Self {
        Self::new(Direction::Down)
    }

    fn new(direction: Direction) -> Self {
        let (flow, rest) = (Flow::Open, Rest::default());
        Self { direction, flow, rest, watch: None, unflushed: false }
    }

    /// Whether the source has said that no more will come.
    pub(super) fn has_ended(&self) -> bool {
        self.flow != Flow::Open
    }

    /// Whether all that was taken from the source has been delivered.
    pub(super) fn has_delivered(&self) -> bool {
        self.rest.is_empty()
    }

    /// Moves what can be moved now; ready once the end has been passed on.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        traffic: &Traffic,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), Broken>> {
        let (mut from, mut to) = (Pin::new(from), Pin::new(to));
        let tally = traffic.tally(self.direction);
        let mut budget = TURN;
        loop {
            while !self.rest.is_empty() {
                let wrote = ready!(self.rest.poll_stream(context, to.as_mut()));
                tally.copied(wrote.map_err(Broken::Destination)?);
                self.unflushed = true;
            }
            match self.flow {
                Flow::Open => {}
                Flow::Ended => {
                    ready!(to.as_mut().poll_shutdown(context)).map_err(Broken::Destination)?;
                    self.flow = Flow::Passed;
                    return Poll::Ready(Ok(()));
                }
                Flow::Passed => return Poll::Ready(Ok(())),
            }
            if budget == 0 {
                let _ = pin!(tokio::task::yield_now()).poll(context);
                return Poll::Pending;
            }
            let Poll::Ready(took) = self.bounded(context, traffic, from.as_mut())? else {
                if self.unflushed {
                    ready!(to.as_mut().poll_flush(context)).map_err(Broken::Destination)?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            };
            budget = budget.saturating_sub(took);
        }
    }

    /// Takes once from the source, in an upload no byte more than it may.
    fn bounded(
        &mut self,
        context: &mut Context<'_>,
        traffic: &Traffic,
        from: Pin<&mut impl AsyncRead>,
    ) -> Poll<Result<usize, Broken>> {
        if self.direction == Direction::Down {
            return self.take(context, from, COPY);
        }
        // What was taken has been delivered by now, but for a part of a header.
        let held = self.watch.as_ref().map_or(0, |watch| watch.held());
        let up = traffic.up.count().total() + held as u64;
        let down = traffic.down.count().total();
        let reserved = traffic.bounds.reserve(up, down, COPY);
        if reserved.bytes == 0 {
            traffic.bounds.settle(reserved, 0, up, down);
            return self.beyond(context, from);
        }
        let taken = self.take(context, from, reserved.bytes);
        let took = match taken {
            Poll::Ready(Ok(count)) => count,
            _ => 0,
        };
        traffic.bounds.settle(reserved, took, up, down);
        taken
    }

    /// No more may be taken: whether there is more. The byte that tells goes nowhere.
    fn beyond(
        &mut self,
        context: &mut Context<'_>,
        from: Pin<&mut impl AsyncRead>,
    ) -> Poll<Result<usize, Broken>> {
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        ready!(from.poll_read(context, &mut buffer)).map_err(Broken::Source)?;
        if buffer.filled().is_empty() {
            self.flow = Flow::Ended;
            return Poll::Ready(Ok(0));
        }
        Poll::Ready(Err(Broken::Cut(Reason::UploadBudget)))
    }

    /// Takes once from the source, at most `most` bytes: how many, after which `rest` has what may
    /// pass.
    fn take(
        &mut self,
        context: &mut Context<'_>,
        from: Pin<&mut impl AsyncRead>,
        most: usize,
    ) -> Poll<Result<usize, Broken>> {
        let mut buffer = [0; COPY];
        let length = match &self.watch {
            None => COPY,
            Some(watch) if watch.passing() == 0 => watch.missing(),
            Some(watch) => watch.passing().min(COPY),
        };
        let length = length.min(most);
        let mut buffer = ReadBuf::new(buffer.get_mut(..length).unwrap_or_default());
        ready!(from.poll_read(context, &mut buffer)).map_err(Broken::Source)?;
        let bytes = buffer.filled();
        if bytes.is_empty() {
            self.flow = Flow::Ended;
            return Poll::Ready(Ok(0));
        }
        match &mut self.watch {
            Some(watch) if watch.passing() == 0 => {
                if let Some(header) = watch.header(bytes).map_err(Broken::Cut)? {
                    self.rest.push(&header);
                }
            }
            Some(watch) => {
                watch.passed(bytes.len());
                self.rest.push(bytes);
            }
            None => self.rest.push(bytes),
        }
        Poll::Ready(Ok(bytes.len()))
    }
}
