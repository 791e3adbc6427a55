//! What a spliced direction remembers between two polls: when its source is read, and how much at
//! once.

use std::pin::Pin;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep_until};

use super::pacing::{LOW_WATER, Pace, Wait, Woken};
use super::shared::Relay;
use super::socket;

/// Size of the first fill after a pause, in bytes. It needs no query of the free space.
pub(super) const FIRST_FILL: usize = 64 * 1024;

/// Pieces smaller than this are copied, in bytes: copying is cheaper, and a short read shows that
/// the source is dry, which a splice does not.
pub(super) const SMALL: usize = 4 * 1024;

/// What is remembered of the sockets between two polls.
#[derive(Debug)]
pub(super) struct SpliceState {
    pub(super) pace: Pace,
    /// The next tick, while batching.
    pub(super) tick: Option<Pin<Box<Sleep>>>,
    pub(super) turn: ReadTurn,
    /// The bytes moved in this turn.
    pub(super) moved: u64,
    pub(super) fill: Fill,
    /// Whether the destination once accepted less than expected.
    pub(super) is_pressed: bool,
}

/// Why the source is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadTurn {
    /// It became readable, or is not yet.
    Event,
    /// Its bytes had to wait, and a bulk flow gets no event for the bytes below the low-water mark.
    Resumed,
    /// A look at a tick found bytes.
    Look,
}

/// The size of the next fill. It adapts to the flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fill {
    /// Nothing is spliced: the last turn brought only a small piece, or none happened yet.
    Small,
    /// [`FIRST_FILL`].
    First,
    /// Four times the one before, this many times from the first. A pipe may hold less.
    Grown(u8),
}

impl Fill {
    /// Returns the number of bytes.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Small | Self::First => FIRST_FILL,
            Self::Grown(times) => FIRST_FILL << (2 * times),
        }
    }

    /// Returns the next size in a turn whose source has more.
    pub(super) fn grown(self) -> Self {
        match self {
            Self::Small | Self::First => Self::Grown(1),
            Self::Grown(times) => Self::Grown(times + 1),
        }
    }

    /// Returns the next size once a turn has moved `moved` bytes.
    fn after_turn(self, moved: u64) -> Self {
        match self {
            Self::Small if moved == 0 => Self::Small,
            _ if (1..SMALL as u64).contains(&moved) => Self::Small,
            _ if moved < FIRST_FILL as u64 => Self::First,
            same => same,
        }
    }
}

impl SpliceState {
    /// Creates the state at `now`.
    pub(super) fn new(now: Duration) -> Self {
        Self {
            pace: Pace::new(now),
            tick: None,
            turn: ReadTurn::Event,
            moved: 0,
            fill: Fill::Small,
            is_pressed: false,
        }
    }

    /// Puts it into the middle of a bulk flow.
    #[cfg(test)]
    pub(super) fn make_bulk(&mut self, pace: Pace, relay: &Relay, from: &TcpStream) {
        self.pace = pace;
        socket::set_low_water(from, LOW_WATER);
        self.tick = Some(Box::pin(sleep_until(relay.next_tick(relay.now(), false))));
    }

    /// The kernel signals at once if bytes arrived in the meantime.
    pub(super) fn wait_for_a_byte(&mut self, from: &TcpStream) {
        self.tick = None;
        socket::set_low_water(from, 1);
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

    /// The source is dry, which ends the turn: decides what to wait for.
    pub(super) fn wait(&mut self, relay: &Relay, from: &TcpStream) {
        let now = relay.now();
        let before = self.pace.waits_for();
        let woken = if self.turn == ReadTurn::Look { Woken::Tick } else { Woken::Ready };
        let moved = std::mem::take(&mut self.moved);
        if relay.settings.batch.is_some() {
            self.pace.dry(woken, moved, now, relay.batch());
        }
        self.fill = self.fill.after_turn(moved);
        self.turn = ReadTurn::Event;
        match (before, self.pace.waits_for()) {
            (Wait::Byte, Wait::Byte) => {}
            (Wait::Batch, Wait::Byte) => self.wait_for_a_byte(from),
            (before, Wait::Batch) => {
                if before == Wait::Byte {
                    socket::set_low_water(from, LOW_WATER);
                }
                let at = relay.next_tick(now, self.pace.is_young(now));
                match &mut self.tick {
                    Some(tick) => tick.as_mut().reset(at),
                    None => self.tick = Some(Box::pin(sleep_until(at))),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_fill_follows_what_a_turn_has_moved() {
        let (few, some, many) = (1, SMALL as u64, FIRST_FILL as u64);
        let grown = Fill::First.grown();
        assert_eq!((grown.bytes(), grown.grown().bytes()), (4 * FIRST_FILL, 16 * FIRST_FILL));
        for (fill, moved, next) in [
            (Fill::Small, 0, Fill::Small),
            (Fill::First, 0, Fill::First),
            (grown, 0, Fill::First),
            (Fill::First, few, Fill::Small),
            (grown, some - 1, Fill::Small),
            (Fill::First, some, Fill::First),
            (grown, some, Fill::First),
            (grown, many - 1, Fill::First),
            (Fill::First, many, Fill::First),
            (grown, many, grown),
        ] {
            assert_eq!(fill.after_turn(moved), next, "{fill:?} {moved}");
        }
    }
}
