//! When the source of a direction is read: when it becomes readable, or at a tick while its flow is
//! batched. `pacing` decides which of the two.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep_until};

use super::bulk::Look;
use super::pacing::{LOW_WATER, Pace, SILENCE, Wait, Woken};
use super::shared::Relay;
use super::socket;

/// What is remembered of the source between two polls.
#[derive(Debug)]
pub(super) struct Wakeup {
    pace: Pace,
    /// The next tick, while batching.
    tick: Option<Pin<Box<Sleep>>>,
    turn: ReadTurn,
    /// The bytes moved in this turn.
    moved: u64,
}

/// Why the source is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReadTurn {
    /// It became readable, or is not yet.
    Event,
    /// Its bytes had to wait, and a bulk flow gets no event for the bytes below the low-water mark.
    Resumed,
    /// A look at a tick found bytes.
    Look,
}

impl Wakeup {
    /// Creates the state at `now`.
    pub(super) fn new(now: Duration) -> Self {
        Self { pace: Pace::new(now), tick: None, turn: ReadTurn::Event, moved: 0 }
    }

    /// Puts it into the middle of a bulk flow.
    #[cfg(test)]
    pub(super) fn make_bulk(&mut self, pace: Pace, relay: &Relay, from: &TcpStream) {
        let now = relay.now();
        let at = relay.next_tick(now, pace.look_interval(now));
        self.pace = pace;
        socket::set_low_water(from, LOW_WATER);
        self.tick = Some(Box::pin(sleep_until(at)));
    }

    /// Returns whether a look at a tick found the bytes that are read now.
    pub(super) fn is_look(&self) -> bool {
        self.turn == ReadTurn::Look
    }

    /// Ready when the source should be read.
    pub(super) fn poll_readable(
        &mut self,
        context: &mut Context<'_>,
        relay: &Relay,
        from: &TcpStream,
    ) -> Poll<io::Result<()>> {
        if self.turn != ReadTurn::Event {
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
                    self.turn = ReadTurn::Look;
                    return Poll::Ready(Ok(()));
                }
                Look::Again => {
                    tick.as_mut().reset(relay.next_tick(now, self.pace.look_interval(now)));
                }
                Look::Rest => self.wait_for_a_byte(from),
            }
        }
        Poll::Pending
    }

    /// Records that bytes were moved.
    pub(super) fn moved(&mut self, bytes: usize) {
        self.moved += bytes as u64;
    }

    /// The kernel signals at once if bytes arrived in the meantime.
    fn wait_for_a_byte(&mut self, from: &TcpStream) {
        self.tick = None;
        socket::set_low_water(from, 1);
    }

    /// No more bytes will come.
    pub(super) fn finish(&mut self) {
        self.tick = None;
    }

    /// Bytes must wait. While batching, bytes below the low-water mark raise no event, so the source
    /// must be read when they can go on.
    pub(super) fn hold(&mut self) {
        self.turn = match (self.pace.waits_for(), self.turn) {
            (Wait::Byte, _) => ReadTurn::Event,
            (Wait::Batch, ReadTurn::Look) => ReadTurn::Look,
            (Wait::Batch, ReadTurn::Event | ReadTurn::Resumed) => ReadTurn::Resumed,
        };
    }

    /// The source is dry, which ends the turn: decides what to wait for. Returns how many bytes the
    /// turn has moved.
    pub(super) fn wait(&mut self, relay: &Relay, from: &TcpStream) -> u64 {
        let now = relay.now();
        let before = self.pace.waits_for();
        let woken = if self.is_look() { Woken::Tick } else { Woken::Ready };
        let moved = std::mem::take(&mut self.moved);
        if relay.settings.batch.is_some() {
            self.pace.dry(woken, moved, now, relay.batch());
        }
        self.turn = ReadTurn::Event;
        match (before, self.pace.waits_for()) {
            (Wait::Byte, Wait::Byte) => {}
            (Wait::Batch, Wait::Byte) => self.wait_for_a_byte(from),
            (before, Wait::Batch) => {
                if before == Wait::Byte {
                    socket::set_low_water(from, LOW_WATER);
                }
                let at = relay.next_tick(now, self.pace.look_interval(now));
                match &mut self.tick {
                    Some(tick) => tick.as_mut().reset(at),
                    None => self.tick = Some(Box::pin(sleep_until(at))),
                }
            }
        }
        moved
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
}
