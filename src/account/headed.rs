//! Where the client of a transparent listener was headed.

use std::net::SocketAddr;

use crate::policy::{OwnAddresses, canonical};

/// Where a client was headed: its own word, compared with DNS and never dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headed {
    to: SocketAddr,
    is_spoofed: bool,
}

impl Headed {
    /// To an address that is not compared yet.
    #[must_use]
    pub fn to(to: SocketAddr) -> Self {
        Self { to, is_spoofed: false }
    }

    /// Compares it with what the name in the hello resolved to. The gate's own addresses are
    /// nobody's lie: where DNS sends clients to the gate, they are headed there.
    pub fn compare(&mut self, found: &[SocketAddr], own: &OwnAddresses) {
        let to = canonical(self.to.ip());
        let is_found = found.iter().any(|address| canonical(address.ip()) == to);
        self.is_spoofed = !is_found && !own.interfaces.contains(&to);
    }

    /// The address.
    pub(super) fn address(self) -> SocketAddr {
        self.to
    }

    /// Whether the name has no such address, and neither has the gate.
    #[must_use]
    pub fn is_spoofed(self) -> bool {
        self.is_spoofed
    }
}
