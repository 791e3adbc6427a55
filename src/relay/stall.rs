//! Notices that a peer does not read, and what its tunnel holds meanwhile.
//!
//! A look once a second, while a destination is full or confined. A peer that read little since the
//! last one is stalled: it is confined (see `credit`) and registered (see `limits`). It ends after
//! the stall timeout, or when its memory is needed. It is released when it reads again.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::credit::Credit;
use super::ends::TunnelTerms;
use super::meter::{Direction, Traffic};
use super::one_way::OneWay;
use super::socket;
use crate::limits::{StalledTunnel, Stalls};
use crate::policy::{Cause, Failure, Side, Stop};

/// Interval between two looks at a full destination.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// A peer is stalled if it reads fewer bytes than this between two looks, or less than one of this
/// many parts of what its tunnel holds.
const LEAST: u64 = 64 * 1024;
const PARTS: u64 = 16;

/// A stalled peer is released if it reads as many bytes as this between two looks. A window of
/// [`CONFINED`](super::credit) bytes is enough for that if a round trip takes less than a second.
const RELEASE: u64 = 192 * 1024;

/// A peer that reads fewer bytes than this within the stall timeout ends its tunnel.
const PROGRESS: u64 = 4 * 1024;

const BOTH: [Direction; 2] = [Direction::Down, Direction::Up];

/// What the watch needs to know of a tunnel, and does with it.
pub(super) trait Stallable {
    /// What its directions remember between two polls.
    type State;

    /// Returns one of its directions.
    fn way(&self, direction: Direction) -> &OneWay<Self::State>;

    /// Returns the sockets of the client, if it has one, and of the upstream.
    fn sockets(&self) -> (Option<&TcpStream>, &TcpStream);

    /// Changes what the destination of a direction can leave unread.
    fn limit(&mut self, direction: Direction, change: Change);

    /// Returns the direction whose destination accepts no bytes, the download first.
    fn full(&self) -> Option<Direction> {
        BOTH.into_iter().find(|direction| self.way(*direction).is_full())
    }
}

/// Changes the credit of a destination: takes the source, and the destination.
pub(super) type Change = fn(&mut Credit, &TcpStream, &TcpStream);

/// Returns the direction that must be watched: one that is full; or that is confined, while bytes
/// move.
pub(super) fn must_watch(tunnel: &impl Stallable, has_moved: bool) -> Option<Direction> {
    let is_confined = |direction: &Direction| has_moved && tunnel.way(*direction).is_confined();
    tunnel.full().or_else(|| BOTH.into_iter().find(is_confined))
}

/// A watch over a destination that is full.
#[derive(Debug)]
pub(super) struct StallWatch {
    /// When to look next.
    pub(super) next: Instant,
    direction: Direction,
    /// At the last look.
    seen: Sight,
    /// When the peer last made progress, and what was seen then.
    since: (Instant, Sight),
    stalled: Option<StalledTunnel>,
}

/// The bytes that a direction has delivered, and how many of them its destination has queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sight {
    delivered: u64,
    queued: u64,
}

impl Sight {
    /// Returns how many bytes the peer has read since an `earlier` sight.
    fn read_since(self, earlier: Self) -> u64 {
        (self.delivered + earlier.queued).saturating_sub(earlier.delivered + self.queued)
    }
}

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StallLook {
    /// The destination is still full.
    Again,
    /// It is not.
    Over,
}

/// Returns whether bytes wait for a client that has not read them.
pub(super) fn has_unread(tunnel: &impl Stallable) -> bool {
    let (client, _) = tunnel.sockets();
    client.is_some_and(|client| socket::memory(client).queued > LEAST)
}

impl StallWatch {
    /// Starts to watch a direction.
    pub(super) fn begin(
        tunnel: &impl Stallable,
        traffic: &Traffic,
        direction: Direction,
        now: Instant,
    ) -> Box<Self> {
        let seen = sight(tunnel, traffic, direction);
        Box::new(Self { next: now + LOOK, direction, seen, since: (now, seen), stalled: None })
    }

    /// Looks at the tunnel.
    ///
    /// # Errors
    /// If the tunnel must end.
    pub(super) fn look(
        &mut self,
        tunnel: &mut impl Stallable,
        traffic: &Traffic,
        (terms, stalls): (&TunnelTerms, &Arc<Stalls>),
        now: Instant,
    ) -> Result<StallLook, Stop> {
        self.next = now + LOOK;
        let full = tunnel.full();
        if let Some(other) = full.filter(|full| *full != self.direction) {
            *self = *Self::begin(tunnel, traffic, other, now);
            traffic.note_held(0);
            return Ok(StallLook::Again);
        }
        let seen = sight(tunnel, traffic, self.direction);
        let read = seen.read_since(std::mem::replace(&mut self.seen, seen));
        if seen.read_since(self.since.1) >= PROGRESS {
            self.since = (now, seen);
        }
        let held = held(tunnel);
        let has_read_all = full.is_none() && seen.queued <= LEAST;
        if has_read_all || read >= LEAST.max(held / PARTS) {
            self.stalled = None;
            traffic.note_held(0);
            if read >= RELEASE {
                tunnel.limit(self.direction, Credit::release);
            }
            return Ok(if has_read_all { StallLook::Over } else { StallLook::Again });
        }
        if now.duration_since(self.since.0) >= terms.stall {
            return Err(self.ended_by(Cause::StallTimeout));
        }
        let stalled = self.stalled.get_or_insert_with(|| {
            tunnel.limit(self.direction, Credit::confine);
            stalls.add(terms.client)
        });
        traffic.note_held(held);
        if stalled.holds(held) {
            return Err(self.ended_by(Cause::TcpMemory));
        }
        Ok(StallLook::Again)
    }

    fn ended_by(&self, cause: Cause) -> Stop {
        let side = match self.direction {
            Direction::Down => Side::Client,
            Direction::Up => Side::Upstream,
        };
        Stop::Failed(Failure { side, cause })
    }
}

fn sight(tunnel: &impl Stallable, traffic: &Traffic, direction: Direction) -> Sight {
    let (client, upstream) = tunnel.sockets();
    let to = if direction == Direction::Down { client } else { Some(upstream) };
    let queued = to.map_or(0, |to| socket::memory(to).queued);
    Sight { delivered: traffic.tally(direction).count().total(), queued }
}

/// Returns the bytes of kernel memory that the sockets of a tunnel hold.
fn held(tunnel: &impl Stallable) -> u64 {
    let (client, upstream) = tunnel.sockets();
    let held = |socket| socket::memory(socket).held;
    client.map_or(0, held) + held(upstream)
}
