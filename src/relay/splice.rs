//! Moves the bytes of a direction between two bare sockets: splices, and copies what cannot be
//! spliced.
//!
//! The splice law: a pipe is filled only when it is empty, and drained completely before it is
//! filled again. A turn takes a pipe only if the source has bytes and the destination accepts
//! bytes, and returns it before it waits. The free space of the destination is an estimate; bytes
//! that do not fit are read from the pipe into a small buffer, and count as copied. After that, the
//! free space is queried before every fill.

use std::io;
use std::mem::MaybeUninit;
use std::task::{Context, Poll};

use tokio::net::TcpStream;

use super::meter::{Tally, Traffic};
use super::one_way::{COPY, Flow, MoveError, MoveStep, Mover, OneWay, poll_moves};
use super::pipe_pool::{Drained, Filled, Pipe};
use super::shared::Relay;
use super::socket;
use super::splice_state::{Fill, SMALL, SpliceState};

/// Minimum size of a fill, in bytes.
const LEAST_FILL: usize = 4 * 1024;

/// The result of one read.
enum Read {
    /// This many bytes, the most that were asked for.
    Took(usize),
    /// This many bytes, and the source seems to be dry.
    TookAll(usize),
    /// This many bytes, and the source is dry.
    Emptied(usize),
    /// The source has no bytes now.
    Dry,
    /// The destination accepts no bytes now.
    Full,
    /// The source has ended.
    Ended,
}

impl Read {
    /// Returns the number of bytes.
    fn took(&self) -> usize {
        match self {
            Self::Took(count) | Self::TookAll(count) | Self::Emptied(count) => *count,
            Self::Dry | Self::Full | Self::Ended => 0,
        }
    }
}

impl OneWay<SpliceState> {
    /// Moves all available bytes. Ready once the end was forwarded, or is left to the closing of
    /// `to` because the `other` direction is over.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        relay: &Relay,
        traffic: &Traffic,
        (from, to): (&TcpStream, &TcpStream),
        other: Flow,
    ) -> Poll<Result<(), MoveError>> {
        let tally = self.tally(traffic);
        let mut splicing = Splicing { way: self, relay, traffic, tally, from, to, other };
        poll_moves(&mut splicing, context, traffic)
    }
}

/// A direction between two bare sockets.
struct Splicing<'a> {
    way: &'a mut OneWay<SpliceState>,
    relay: &'a Relay,
    traffic: &'a Traffic,
    tally: &'a Tally,
    from: &'a TcpStream,
    to: &'a TcpStream,
    /// How far the other direction is.
    other: Flow,
}

impl Mover for Splicing<'_> {
    type State = SpliceState;

    fn way(&mut self) -> &mut OneWay<SpliceState> {
        self.way
    }

    fn poll_rest(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.way.rest.poll_socket(context, self.to)
    }

    fn poll_writable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.to.poll_write_ready(context)
    }

    fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.way.wakeup.poll_readable(context, self.relay, self.from)
    }

    fn wants(&mut self) -> usize {
        self.way.state.fill.bytes()
    }

    fn poll_step(&mut self, _: &mut Context<'_>, most: usize) -> Poll<Result<MoveStep, MoveError>> {
        let read = self.read(most)?;
        let OneWay { state, wakeup, .. } = &mut *self.way;
        let took = read.took();
        wakeup.moved(took);
        if took > 0 && state.fill == Fill::Small {
            state.fill = Fill::First;
        }
        match read {
            Read::Took(_) => {}
            // If more bytes arrive, the next tick finds them. Without a tick, the source must be
            // seen to be dry, which arms the next event.
            Read::TookAll(_) if wakeup.is_look() => self.wait(),
            Read::TookAll(_) if socket::has_emptied(self.from) => self.wait(),
            Read::TookAll(_) => {}
            Read::Emptied(_) | Read::Dry => self.wait(),
            Read::Full => wakeup.hold(),
            Read::Ended => return Poll::Ready(Ok(MoveStep::Ended)),
        }
        Poll::Ready(Ok(if took > 0 { MoveStep::Took(took) } else { MoveStep::Nothing }))
    }

    fn poll_beyond(&mut self, _: &mut Context<'_>) -> Poll<Result<MoveStep, MoveError>> {
        match socket::peek(self.from) {
            Ok(0) => Poll::Ready(Ok(MoveStep::Ended)),
            Ok(waiting) => Poll::Ready(Ok(MoveStep::Took(waiting))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.wait();
                Poll::Ready(Ok(MoveStep::Nothing))
            }
            Err(error) => Poll::Ready(Err(MoveError::Source(error))),
        }
    }

    fn hold(&mut self, _: &mut Context<'_>) -> Result<(), MoveError> {
        self.way.wakeup.hold();
        Ok(())
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.way.wakeup.finish();
        Poll::Ready(if self.other == Flow::Passed { Ok(()) } else { socket::finish(self.to) })
    }

    fn note_credit(&mut self) {
        self.way.credit.note(|| self.tally.count().total(), self.from, self.to);
    }
}

impl Splicing<'_> {
    /// The source is dry, which ends the turn.
    fn wait(&mut self) {
        let OneWay { state, wakeup, .. } = &mut *self.way;
        let moved = wakeup.wait(self.relay, self.from);
        state.fill = state.fill.after_turn(moved);
    }

    /// Reads once, at most `length` bytes, and delivers what the destination accepts.
    fn read(&mut self, mut length: usize) -> Result<Read, MoveError> {
        if let Some(run) = self.way.watch.as_ref().and_then(|watch| watch.next_run()) {
            return self.copy::<COPY>(length.min(run));
        }
        let SpliceState { fill, is_pressed, .. } = self.way.state;
        if fill == Fill::Small {
            return self.copy::<SMALL>(length);
        }
        if is_pressed || fill != Fill::First {
            match socket::room(self.to) {
                Ok(room) => length = length.min(room.max(LEAST_FILL)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Read::Full),
                Err(error) => return Err(MoveError::Destination(error)),
            }
        }
        let is_refused = self.traffic.splice_was_refused();
        let pipe = if is_refused { None } else { self.relay.pipes.take() };
        let Some(mut pipe) = pipe else { return self.copy::<COPY>(length) };
        if self.way.watch.is_some() && !pipe.shows_records() {
            self.relay.pipes.give_back(pipe);
            return self.copy::<COPY>(length);
        }
        let length = length.min(fill.bytes()).min(pipe.size());
        let read = self.splice(&mut pipe, length);
        let is_whole = length == fill.bytes() && matches!(read, Ok(Read::Took(_)));
        if is_whole && fill.bytes() < pipe.size() {
            self.way.state.fill = fill.grown();
        }
        self.relay.pipes.give_back(pipe);
        read
    }

    fn splice(&mut self, pipe: &mut Pipe, length: usize) -> Result<Read, MoveError> {
        let filled = match pipe.fill(self.from, length) {
            Ok(Filled::Bytes(0)) => return Ok(Read::Ended),
            Ok(Filled::Bytes(filled)) => filled,
            Ok(Filled::Refused) => {
                self.traffic.refuse_splice();
                return self.copy::<COPY>(length);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Read::Dry),
            Err(error) => return Err(MoveError::Source(error)),
        };
        let accepted = match &mut self.way.watch {
            Some(watch) => pipe.accepted_by(watch),
            None => filled,
        };
        let Drained { moved, mut rest, is_refused } =
            pipe.drain(self.to, accepted).map_err(MoveError::Destination)?;
        if is_refused {
            self.traffic.refuse_splice();
        }
        self.tally.spliced(moved);
        self.way.state.is_pressed |= moved < accepted;
        let unseen = rest.split_off(rest.len().min(accepted.saturating_sub(moved)));
        self.way.rest.push_all(rest);
        if let Some(watch) = &mut self.way.watch
            && !unseen.is_empty()
        {
            self.way.rest.push_all(watch.run(&unseen));
        }
        Ok(if filled < length { Read::TookAll(filled) } else { Read::Took(filled) })
    }

    /// Copies what the watch accepts. The rest keeps the bytes that the destination does not.
    fn copy<const MOST: usize>(&mut self, length: usize) -> Result<Read, MoveError> {
        let mut buffer = [MaybeUninit::uninit(); MOST];
        let buffer = buffer.get_mut(..length.min(MOST)).unwrap_or_default();
        let room = buffer.len();
        let bytes = match received(self.from, buffer)? {
            Ok(bytes) => bytes,
            Err(none) => return Ok(none),
        };
        match &mut self.way.watch {
            Some(watch) => self.way.rest.push_all(watch.run(bytes)),
            None => {
                let wrote = match socket::write(self.to, bytes) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                    answer => answer.map_err(MoveError::Destination)?,
                };
                self.tally.copied(wrote);
                self.way.rest.push(bytes.get(wrote..).unwrap_or_default());
            }
        }
        let took = bytes.len();
        Ok(if took < room { Read::Emptied(took) } else { Read::Took(took) })
    }
}

/// Reads what has arrived, or returns what the lack of it means.
fn received<'a>(
    from: &TcpStream,
    buffer: &'a mut [MaybeUninit<u8>],
) -> Result<Result<&'a [u8], Read>, MoveError> {
    match socket::read(from, buffer) {
        Ok([]) => Ok(Err(Read::Ended)),
        Ok(bytes) => Ok(Ok(bytes)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Err(Read::Dry)),
        Err(error) => Err(MoveError::Source(error)),
    }
}
