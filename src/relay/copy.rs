//! Moves the bytes of a direction between any two streams: where a side is not a bare socket, such
//! as TLS to the client. Copies every byte once, through a buffer on the stack.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;

use super::layer::TunnelEnd;
use super::meter::{Tally, Traffic};
use super::one_way::{COPY, MoveError, MoveStep, Mover, OneWay, poll_moves};

/// What is remembered of the streams between two polls.
#[derive(Debug, Default)]
pub(super) struct CopyState {
    /// Whether the destination may buffer bytes until it is flushed.
    is_unflushed: bool,
    /// Whether the source ended without a close_notify.
    is_cut: bool,
}

impl OneWay<CopyState> {
    /// Returns whether the source has sent a close_notify or FIN.
    pub(super) fn has_said_so(&self) -> bool {
        self.has_ended() && !self.state.is_cut
    }

    /// Moves all available bytes. Ready once the end was forwarded.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        traffic: &Traffic,
        from: &mut impl TunnelEnd,
        to: &mut impl TunnelEnd,
    ) -> Poll<Result<(), MoveError>> {
        let tally = self.tally(traffic);
        poll_moves(&mut Copying { way: self, tally, from, to }, context, traffic)
    }
}

/// A direction between two streams.
struct Copying<'a, F, T> {
    way: &'a mut OneWay<CopyState>,
    tally: &'a Tally,
    from: &'a mut F,
    to: &'a mut T,
}

impl<F: TunnelEnd, T: TunnelEnd> Mover for Copying<'_, F, T> {
    type State = CopyState;

    fn way(&mut self) -> &mut OneWay<CopyState> {
        self.way
    }

    fn poll_rest(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let wrote = ready!(self.way.rest.poll_stream(context, Pin::new(&mut *self.to)));
        self.way.state.is_unflushed = true;
        Poll::Ready(wrote)
    }

    /// A stream only says so when it is written to.
    fn poll_writable(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// A stream only says so when it is read.
    fn poll_readable(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn wants(&mut self) -> usize {
        COPY
    }

    fn poll_step(
        &mut self,
        context: &mut Context<'_>,
        most: usize,
    ) -> Poll<Result<MoveStep, MoveError>> {
        let mut buffer = [MaybeUninit::uninit(); COPY];
        let mut buffer = ReadBuf::uninit(buffer.get_mut(..most.min(COPY)).unwrap_or_default());
        let Poll::Ready(read) = Pin::new(&mut *self.from).poll_read(context, &mut buffer) else {
            self.hold(context)?;
            return Poll::Pending;
        };
        match read {
            // TLS without close_notify. The protocol inside has its own end marker, so truncation
            // does not go unnoticed.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.way.state.is_cut = true;
            }
            read => read.map_err(MoveError::Source)?,
        }
        let bytes = buffer.filled();
        if bytes.is_empty() {
            return Poll::Ready(Ok(MoveStep::Ended));
        }
        match &mut self.way.watch {
            Some(watch) => self.way.rest.push_all(watch.run(bytes)),
            None => self.hand_on(context, bytes)?,
        }
        Poll::Ready(Ok(MoveStep::Took(bytes.len())))
    }

    /// Discards the byte that it reads.
    fn poll_beyond(&mut self, context: &mut Context<'_>) -> Poll<Result<MoveStep, MoveError>> {
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        let read = ready!(Pin::new(&mut *self.from).poll_read(context, &mut buffer));
        read.map_err(MoveError::Source)?;
        let is_end = buffer.filled().is_empty();
        Poll::Ready(Ok(if is_end { MoveStep::Ended } else { MoveStep::Took(1) }))
    }

    /// Flushes the destination.
    fn hold(&mut self, context: &mut Context<'_>) -> Result<(), MoveError> {
        if self.way.state.is_unflushed
            && let Poll::Ready(flushed) = Pin::new(&mut *self.to).poll_flush(context)
        {
            flushed.map_err(MoveError::Destination)?;
            self.way.state.is_unflushed = false;
        }
        Ok(())
    }

    fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.to).poll_shutdown(context)
    }

    fn note_credit(&mut self) {
        if let (Some(from), Some(to)) = (self.from.bare(), self.to.bare()) {
            self.way.credit.note(|| self.tally.count().total(), from, to);
        }
    }
}

impl<F, T: TunnelEnd> Copying<'_, F, T> {
    /// Writes what the destination accepts, and keeps the rest.
    fn hand_on(&mut self, context: &mut Context<'_>, mut bytes: &[u8]) -> Result<(), MoveError> {
        while !bytes.is_empty() {
            let Poll::Ready(wrote) = Pin::new(&mut *self.to).poll_write(context, bytes) else {
                break;
            };
            let wrote = wrote.map_err(MoveError::Destination)?;
            if wrote == 0 {
                return Err(MoveError::Destination(io::ErrorKind::WriteZero.into()));
            }
            self.way.state.is_unflushed = true;
            self.tally.copied(wrote);
            bytes = bytes.get(wrote..).unwrap_or_default();
        }
        self.way.rest.push(bytes);
        Ok(())
    }
}
