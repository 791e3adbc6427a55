//! The original destination of a transparent connection.

use std::net::SocketAddr;

use crate::policy::{OwnAddresses, canonical};

/// The original destination. It is compared with DNS and never dialled, because the client chose
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headed {
    to: SocketAddr,
    is_spoofed: bool,
}

impl Headed {
    /// Creates a destination that was not compared yet.
    #[must_use]
    pub fn to(to: SocketAddr) -> Self {
        Self { to, is_spoofed: false }
    }

    /// Compares it with the addresses of the server name. The gate's own addresses are accepted,
    /// because DNS can direct clients to the gate.
    pub fn compare(&mut self, found: &[SocketAddr], own: &OwnAddresses) {
        let to = canonical(self.to.ip());
        let is_found = found.iter().any(|address| canonical(address.ip()) == to);
        self.is_spoofed = !is_found && !own.interfaces.contains(&to);
    }

    /// Returns the address.
    pub(super) fn address(self) -> SocketAddr {
        self.to
    }

    /// Returns whether neither the name nor the gate has this address.
    #[must_use]
    pub fn is_spoofed(self) -> bool {
        self.is_spoofed
    }
}
