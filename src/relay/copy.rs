//! One direction if a side is not a bare socket (TLS to the client). Works like `splice`, but
//! copies every byte once, through a buffer on the stack.

use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::credit::Credit;
use super::leftover::Leftover;
use super::meter::{Direction, Tally, Traffic};
use super::splice::{COPY, Flow, STEP, SpliceError, TURN};
use super::watch::Watch;
use crate::policy::Reason;

/// One direction.
#[derive(Debug)]
pub(super) struct Pump {
    direction: Direction,
    flow: Flow,
    rest: Leftover,
    watch: Option<Box<Watch>>,
    /// Whether the destination may buffer bytes until it is flushed.
    unflushed: bool,
    /// Whether the source ended without a close_notify.
    cut: bool,
    /// What the destination can leave unread.
    credit: Credit,
}

impl Pump {
    /// Creates the upload, which has forwarded `flow` so far. `watch` checks the record headers.
    pub(super) fn up(flow: Flow, watch: Option<Box<Watch>>) -> Self {
        Self { flow, watch, credit: Credit::Free, ..Self::new(Direction::Up) }
    }

    /// Creates the download.
    pub(super) fn down() -> Self {
        Self::new(Direction::Down)
    }

    fn new(direction: Direction) -> Self {
        let (flow, rest) = (Flow::Open, Leftover::default());
        let credit = Credit::Fresh;
        Self { direction, flow, rest, watch: None, unflushed: false, cut: false, credit }
    }

    /// Returns whether the source has sent its end.
    pub(super) fn has_ended(&self) -> bool {
        self.flow != Flow::Open
    }

    /// Returns whether the source has sent a close_notify.
    pub(super) fn has_said_so(&self) -> bool {
        self.has_ended() && !self.cut
    }

    /// Returns whether all bytes from the source were delivered.
    pub(super) fn has_delivered(&self) -> bool {
        self.rest.is_empty()
    }

    /// Returns whether the destination accepts no bytes now.
    pub(super) fn is_full(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Returns what the destination can leave unread, to change it.
    pub(super) fn credit(&mut self) -> &mut Credit {
        &mut self.credit
    }

    /// Returns whether the destination has stalled, and is confined.
    pub(super) fn is_confined(&self) -> bool {
        self.credit == Credit::Stalled
    }

    /// Notes what the destination has got.
    pub(super) fn note_delivered(&mut self, tally: &Tally, from: &TcpStream, to: &TcpStream) {
        self.credit.note(|| tally.count().total(), from, to);
    }

    /// Moves all available bytes. Ready once the end was forwarded.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        traffic: &Traffic,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), SpliceError>> {
        let (mut from, mut to) = (Pin::new(from), Pin::new(to));
        let tally = traffic.tally(self.direction);
        // What was delivered is noted after each turn.
        let mut budget = if self.credit == Credit::Free { TURN } else { 2 * COPY };
        loop {
            while !self.rest.is_empty() {
                let wrote = ready!(self.rest.poll_stream(context, to.as_mut()));
                tally.copied(wrote.map_err(SpliceError::Destination)?);
                self.unflushed = true;
            }
            if let Some(reason) = self.watch.as_ref().and_then(|watch| watch.fault()) {
                return Poll::Ready(Err(SpliceError::Cut(reason)));
            }
            match self.flow {
                Flow::Open => {}
                Flow::Ended => {
                    ready!(to.as_mut().poll_shutdown(context)).map_err(SpliceError::Destination)?;
                    self.flow = Flow::Passed;
                    return Poll::Ready(Ok(()));
                }
                Flow::Passed => return Poll::Ready(Ok(())),
            }
            if budget == 0 {
                let _ = pin!(tokio::task::yield_now()).poll(context);
                return Poll::Pending;
            }
            if self.direction == Direction::Down
                && let Some(paced) = traffic.bounds.paced()
                && paced.poll(context).is_pending()
            {
                return self.flushed(context, to);
            }
            let took = self.bounded(context, traffic, from.as_mut(), to.as_mut())?;
            let Poll::Ready(took) = took else {
                return self.flushed(context, to);
            };
            budget = budget.saturating_sub(took.max(STEP));
        }
    }

    /// Flushes the destination before waiting.
    fn flushed<T>(
        &mut self,
        context: &mut Context<'_>,
        to: Pin<&mut impl AsyncWrite>,
    ) -> Poll<Result<T, SpliceError>> {
        if self.unflushed {
            ready!(to.poll_flush(context)).map_err(SpliceError::Destination)?;
            self.unflushed = false;
        }
        Poll::Pending
    }

    /// Writes what the destination accepts, and keeps the rest.
    fn hand_on(
        &mut self,
        context: &mut Context<'_>,
        tally: &Tally,
        mut to: Pin<&mut impl AsyncWrite>,
        mut bytes: &[u8],
    ) -> Result<(), SpliceError> {
        while !bytes.is_empty() {
            let Poll::Ready(wrote) = to.as_mut().poll_write(context, bytes) else { break };
            let wrote = wrote.map_err(SpliceError::Destination)?;
            if wrote == 0 {
                return Err(SpliceError::Destination(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            tally.copied(wrote);
            bytes = bytes.get(wrote..).unwrap_or_default();
        }
        self.rest.push(bytes);
        Ok(())
    }

    /// Reads once from the source. In an upload, reads at most what the budget and the watch allow.
    fn bounded(
        &mut self,
        context: &mut Context<'_>,
        traffic: &Traffic,
        from: Pin<&mut impl AsyncRead>,
        to: Pin<&mut impl AsyncWrite>,
    ) -> Poll<Result<usize, SpliceError>> {
        let tally = traffic.tally(self.direction);
        if self.direction == Direction::Down {
            let Some(paced) = traffic.bounds.paced() else {
                return self.take(context, tally, (from, to), COPY);
            };
            let taken = self.take(context, tally, (from, to), paced.most());
            if let Poll::Ready(Ok(count)) = taken {
                paced.moved(count);
            }
            return taken;
        }
        // All bytes were delivered by now, except a part of a header.
        let held = self.watch.as_ref().map_or(0, |watch| watch.held());
        let up = traffic.up.count().total() + held as u64;
        let down = traffic.down.count().total();
        traffic.bounds.note_responses(down);
        let reserved = traffic.bounds.reserve(up, down, COPY);
        if reserved.bytes == 0 {
            traffic.bounds.settle(reserved, 0, up, down);
            return self.beyond(context, from);
        }
        let taken = self.take(context, tally, (from, to), reserved.bytes);
        let took = match taken {
            Poll::Ready(Ok(count)) => count,
            _ => 0,
        };
        traffic.bounds.settle(reserved, took, up, down);
        taken
    }

    /// Returns whether the source has more bytes when no more may be read. Discards the byte it
    /// reads.
    fn beyond(
        &mut self,
        context: &mut Context<'_>,
        from: Pin<&mut impl AsyncRead>,
    ) -> Poll<Result<usize, SpliceError>> {
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        ready!(from.poll_read(context, &mut buffer)).map_err(SpliceError::Source)?;
        if buffer.filled().is_empty() {
            self.flow = Flow::Ended;
            return Poll::Ready(Ok(0));
        }
        Poll::Ready(Err(SpliceError::Cut(Reason::UploadBudget)))
    }

    /// Reads once from the source, at most `most` bytes, and returns the number. `rest` keeps
    /// accepted bytes that the destination does not take.
    fn take(
        &mut self,
        context: &mut Context<'_>,
        tally: &Tally,
        (from, to): (Pin<&mut impl AsyncRead>, Pin<&mut impl AsyncWrite>),
        most: usize,
    ) -> Poll<Result<usize, SpliceError>> {
        let mut buffer = [MaybeUninit::uninit(); COPY];
        let length = COPY.min(most);
        let mut buffer = ReadBuf::uninit(buffer.get_mut(..length).unwrap_or_default());
        match ready!(from.poll_read(context, &mut buffer)) {
            // TLS without close_notify. The protocol inside has its own end marker, so truncation
            // does not go unnoticed.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => self.cut = true,
            read => read.map_err(SpliceError::Source)?,
        }
        let bytes = buffer.filled();
        if bytes.is_empty() {
            self.flow = Flow::Ended;
            return Poll::Ready(Ok(0));
        }
        match &mut self.watch {
            Some(watch) => self.rest.push_all(watch.run(bytes)),
            None => self.hand_on(context, tally, to, bytes)?,
        }
        Poll::Ready(Ok(bytes.len()))
    }
}
