//! How many bytes a peer can leave unread: few, until it has read many.
//!
//! The kernel lets a send buffer grow to megabytes, and the receive buffer of the source with it. A
//! peer that does not read would hold both for as long as it likes.

use tokio::net::TcpStream;

use super::socket;

/// Bytes after which a new destination is confined. Most tunnels end before.
const FRESH: u64 = 64 * 1024;

/// Bytes that a new destination must take to be free, and the receive window of its source until
/// then. In slow start (RFC 5681 §3.1), a sender does not need more until this many have arrived.
const PROOF: u32 = 512 * 1024;

/// The unsent bytes that are queued for a confined destination, and the receive window of its
/// source once the destination has stalled. A confined destination that is writable accepts half.
const CONFINED: u32 = 256 * 1024;

/// Limits the unsent bytes that the kernel queues for a client, in connections that are not tunnels.
pub fn confine_unsent(to: &TcpStream) {
    socket::limit_unsent(to, CONFINED);
}

/// What a destination can leave unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Credit {
    /// It has not got enough bytes to need a limit.
    Fresh,
    /// It and the source are confined until it has got [`PROOF`].
    Confined,
    /// It stalled. It and the source are confined until it is released.
    Stalled,
    /// As much as the kernel allows.
    Free,
}

impl Credit {
    /// Returns whether the destination is confined.
    pub(super) fn is_short(self) -> bool {
        matches!(self, Self::Confined | Self::Stalled)
    }

    /// Notes that the destination `to` has got `delivered` bytes in all.
    pub(super) fn note(&mut self, delivered: impl Fn() -> u64, from: &TcpStream, to: &TcpStream) {
        match self {
            Self::Free | Self::Stalled => {}
            Self::Fresh if delivered() >= FRESH => {
                *self = Self::Confined;
                limit(CONFINED, PROOF, from, to);
            }
            Self::Confined if delivered() >= u64::from(PROOF) => self.free(from, to),
            Self::Fresh | Self::Confined => {}
        }
    }

    /// Confines a destination that has stalled.
    pub(super) fn confine(&mut self, from: &TcpStream, to: &TcpStream) {
        if *self != Self::Stalled {
            *self = Self::Stalled;
            limit(CONFINED, CONFINED, from, to);
        }
    }

    /// Frees a destination that stalled, and reads again.
    pub(super) fn release(&mut self, from: &TcpStream, to: &TcpStream) {
        if *self == Self::Stalled {
            self.free(from, to);
        }
    }

    fn free(&mut self, from: &TcpStream, to: &TcpStream) {
        *self = Self::Free;
        limit(0, i32::MAX.cast_unsigned(), from, to);
    }
}

fn limit(unsent: u32, window: u32, from: &TcpStream, to: &TcpStream) {
    socket::limit_unsent(to, unsent);
    socket::limit_window(from, window);
}
