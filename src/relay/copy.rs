//! Moves the bytes of a direction between any two streams: where a side is not a bare socket, such
//! as TLS to the client. Copies every byte once, through a buffer on the stack.
//!
//! TLS costs the same for every byte, but a system call, a wake-up and a record cost the same for
//! few bytes as for many. So a flow is read in pieces of several records, and batched as if it were
//! spliced. Nothing is read while the destination has not taken what was read before.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;
use tokio::net::TcpStream;

use super::layer::{Layer, TunnelEnd};
use super::meter::{Tally, Traffic};
use super::one_way::{MoveError, MoveStep, Mover, OneWay, poll_moves};
use super::shared::Relay;
use super::socket;
use super::tls::Found;

/// The most bytes that are read at once while a flow brings few at a time: a full record.
const FEW: usize = 16 * 1024;

/// The most bytes that are read at once while it brings many.
pub(super) const MANY: usize = 64 * 1024;

/// The fewest bytes that are read for a destination that accepts few.
const LEAST: usize = 4 * 1024;

/// What is remembered of the streams between two polls.
#[derive(Debug, Default)]
pub(super) struct CopyState {
    /// Whether the destination may buffer bytes until it is flushed.
    is_unflushed: bool,
    /// Whether the destination once accepted less than was read.
    is_pressed: bool,
    /// Whether the source ended without a close_notify.
    is_cut: bool,
    /// Whether the source brings many bytes at a time.
    brings_many: bool,
}

/// Makes an end accept as many bytes as are read at once.
pub(super) fn prepare(end: &mut impl TunnelEnd) {
    if let Layer::Tls(mut tls) = end.layer() {
        tls.accept_at_most(MANY);
    }
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
        relay: &Relay,
        traffic: &Traffic,
        (from, to): (&mut impl TunnelEnd, &mut impl TunnelEnd),
    ) -> Poll<Result<(), MoveError>> {
        let tally = self.tally(traffic);
        poll_moves(&mut Copying { way: self, relay, tally, from, to }, context, traffic)
    }
}

/// A direction between two streams.
struct Copying<'a, F, T> {
    way: &'a mut OneWay<CopyState>,
    relay: &'a Relay,
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

    fn poll_writable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(context))?;
        match self.to.layer() {
            Layer::Bare(socket) => socket.poll_write_ready(context),
            // They only say so when they are written to.
            Layer::Tls(_) | Layer::Stream => Poll::Ready(Ok(())),
        }
    }

    fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = match self.from.layer() {
            Layer::Bare(socket) => socket,
            Layer::Tls(mut tls) => {
                if tls.has_read() {
                    return Poll::Ready(Ok(()));
                }
                tls.into_socket()
            }
            // It only says so when it is read.
            Layer::Stream => return Poll::Ready(Ok(())),
        };
        self.way.wakeup.poll_readable(context, self.relay, socket)
    }

    fn wants(&mut self) -> usize {
        if self.way.state.brings_many { MANY } else { FEW }
    }

    fn poll_step(
        &mut self,
        context: &mut Context<'_>,
        mut most: usize,
    ) -> Poll<Result<MoveStep, MoveError>> {
        if let (true, Layer::Bare(socket)) = (self.way.state.is_pressed, self.to.layer()) {
            match socket::room(socket) {
                Ok(room) => most = most.min(room.max(LEAST)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.way.wakeup.hold();
                    return Poll::Ready(Ok(MoveStep::Nothing));
                }
                Err(error) => return Poll::Ready(Err(MoveError::Destination(error))),
            }
        }
        match self.way.state.brings_many {
            true => self.step::<MANY>(context, most),
            false => self.step::<FEW>(context, most),
        }
    }

    /// Discards the byte that it reads.
    fn poll_beyond(&mut self, context: &mut Context<'_>) -> Poll<Result<MoveStep, MoveError>> {
        let mut byte = [MaybeUninit::uninit()];
        let (found, took) = match self.from.layer() {
            Layer::Bare(socket) => received(socket, &mut byte).map(|(found, it)| (found, it.len())),
            Layer::Tls(_) | Layer::Stream => {
                let mut buffer = ReadBuf::uninit(&mut byte);
                let found = self.read(context, &mut buffer);
                found.map(|found| (found, buffer.filled().len()))
            }
        }
        .map_err(MoveError::Source)?;
        match (found, took) {
            (_, 1..) => Poll::Ready(Ok(MoveStep::Took(took))),
            (Found::Dry, 0) => self.dry(),
            // A step that counts, so that the turn ends.
            (Found::More, 0) => Poll::Ready(Ok(MoveStep::Took(0))),
            (Found::End, 0) => Poll::Ready(Ok(MoveStep::Ended)),
        }
    }

    /// Flushes the destination.
    fn hold(&mut self, context: &mut Context<'_>) -> Result<(), MoveError> {
        self.way.wakeup.hold();
        match self.poll_flush(context) {
            Poll::Ready(flushed) => flushed.map_err(MoveError::Destination),
            Poll::Pending => Ok(()),
        }
    }

    fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.way.wakeup.finish();
        Pin::new(&mut *self.to).poll_shutdown(context)
    }

    fn note_credit(&mut self) {
        if let (Some(from), Some(to)) = (self.from.bare(), self.to.bare()) {
            self.way.credit.note(|| self.tally.count().total(), from, to);
        }
    }
}

impl<F: TunnelEnd, T: TunnelEnd> Copying<'_, F, T> {
    /// Reads once, and delivers what was read. Not inlined, because only flows that bring many bytes
    /// should pay for a large stack frame.
    #[inline(never)]
    fn step<const SIZE: usize>(
        &mut self,
        context: &mut Context<'_>,
        most: usize,
    ) -> Poll<Result<MoveStep, MoveError>> {
        let mut buffer = [MaybeUninit::uninit(); SIZE];
        if let Layer::Bare(socket) = self.from.layer() {
            let buffer = buffer.get_mut(..most.min(SIZE)).unwrap_or_default();
            let (found, bytes) = received(socket, buffer).map_err(MoveError::Source)?;
            return self.deliver(context, found, bytes);
        }
        let mut buffer = ReadBuf::uninit(buffer.get_mut(..most.min(SIZE)).unwrap_or_default());
        let found = match self.read(context, &mut buffer) {
            // TLS without close_notify. The protocol inside has its own end marker, so truncation
            // does not go unnoticed.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.way.state.is_cut = true;
                Found::End
            }
            Ok(found) => found,
            Err(error) => {
                // What came before it goes on as far as it can.
                if !buffer.filled().is_empty() {
                    let _ = self.deliver(context, Found::More, buffer.filled())?;
                }
                return Poll::Ready(Err(MoveError::Source(error)));
            }
        };
        self.deliver(context, found, buffer.filled())
    }

    /// Reads once from a source that is not bare.
    fn read(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> io::Result<Found> {
        if let Layer::Tls(mut tls) = self.from.layer() {
            return tls.read(buffer);
        }
        let Poll::Ready(read) = Pin::new(&mut *self.from).poll_read(context, buffer) else {
            return Ok(Found::Dry);
        };
        read.map(|()| if buffer.filled().is_empty() { Found::End } else { Found::More })
    }

    /// Delivers what was read.
    fn deliver(
        &mut self,
        context: &mut Context<'_>,
        found: Found,
        bytes: &[u8],
    ) -> Poll<Result<MoveStep, MoveError>> {
        if !bytes.is_empty() {
            match &mut self.way.watch {
                Some(watch) => self.way.rest.push_all(watch.run(bytes)),
                None => self.hand_on(context, bytes)?,
            }
            self.way.wakeup.moved(bytes.len());
            self.way.state.brings_many |= bytes.len() >= FEW;
        }
        match (found, bytes.len()) {
            (Found::Dry, 0) => self.dry(),
            // A step that counts, so that the turn ends.
            (Found::More, 0) => Poll::Ready(Ok(MoveStep::Took(0))),
            (Found::End, 0) => Poll::Ready(Ok(MoveStep::Ended)),
            (found, took) => {
                if found == Found::Dry {
                    let _ = self.dry();
                }
                Poll::Ready(Ok(MoveStep::Took(took)))
            }
        }
    }

    /// The source is dry, which ends the turn. Pending if it has no socket: then it has the waker.
    fn dry(&mut self) -> Poll<Result<MoveStep, MoveError>> {
        let Some(socket) = self.from.layer().into_socket() else { return Poll::Pending };
        let moved = self.way.wakeup.wait(self.relay, socket);
        self.way.state.brings_many = moved >= FEW as u64;
        Poll::Ready(Ok(MoveStep::Nothing))
    }

    /// Ready when the destination holds nothing back.
    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.way.state.is_unflushed {
            ready!(Pin::new(&mut *self.to).poll_flush(context))?;
            self.way.state.is_unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

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
        // TLS accepts all that is read at once.
        self.way.state.is_pressed |= !bytes.is_empty();
        self.way.rest.push(bytes);
        Ok(())
    }
}

/// Receives what has arrived, without asking tokio first: it does not know of bytes below the
/// low-water mark.
fn received<'a>(
    socket: &TcpStream,
    buffer: &'a mut [MaybeUninit<u8>],
) -> io::Result<(Found, &'a [u8])> {
    let room = buffer.len();
    match socket::read(socket, buffer) {
        Ok([]) => Ok((Found::End, &[])),
        Ok(bytes) if bytes.len() < room => Ok((Found::Dry, bytes)),
        Ok(bytes) => Ok((Found::More, bytes)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok((Found::Dry, &[])),
        Err(error) => Err(error),
    }
}
