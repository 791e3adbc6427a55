//! Detects whether a socket could not be opened or connected because the gate lacks resources,
//! whatever the remote end.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

/// A resource of the gate or its host that is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shortage {
    /// Descriptors or memory.
    Resources,
    /// Local ports for connections to one address and port.
    Ports,
}

impl fmt::Display for Shortage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Resources => "no descriptor or memory is left",
            Self::Ports => "no local port is left",
        })
    }
}

impl std::error::Error for Shortage {}

impl Shortage {
    /// Returns the shortage that an error indicates; `None` if it indicates none.
    pub(super) fn of(error: &io::Error) -> Option<Self> {
        if let Some(shortage) = error.get_ref().and_then(|error| error.downcast_ref::<Self>()) {
            return Some(*shortage);
        }
        let resources = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
        let is_short = Errno::from_io_error(error).is_some_and(|errno| resources.contains(&errno));
        is_short.then_some(Self::Resources)
    }

    /// Distinguishes the two meanings of EADDRNOTAVAIL from connect(2): all local ports to this
    /// address are in use, or this host has no source address for it, for example because IPv6 is
    /// disabled.
    pub(super) fn explain(error: io::Error, to: SocketAddr) -> io::Error {
        let is_unavailable = Errno::from_io_error(&error) == Some(Errno::ADDRNOTAVAIL);
        if is_unavailable && has_source_address(to) { io::Error::other(Self::Ports) } else { error }
    }
}

/// Returns whether this host has a source address for `address`. Connecting a UDP socket selects
/// one, uses no TCP port and sends nothing.
fn has_source_address(to: SocketAddr) -> bool {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = Socket::new(Domain::for_address(any), Type::DGRAM, Some(Protocol::UDP));
    socket.is_ok_and(|socket| socket.connect(&to.into()).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortages_are_distinguished_from_network_errors() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert_eq!(Shortage::of(&errno.into()), Some(Shortage::Resources));
        }
        for errno in [Errno::CONNREFUSED, Errno::ADDRNOTAVAIL, Errno::NETUNREACH, Errno::PERM] {
            assert_eq!(Shortage::of(&errno.into()), None);
        }
    }

    #[test]
    fn an_address_that_is_not_available_is_a_shortage_of_ports_only_where_there_is_a_source() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let unavailable = || Errno::ADDRNOTAVAIL.into();
        let explained = |error, to| Shortage::of(&Shortage::explain(error, at(to)));
        assert_eq!(explained(unavailable(), "127.0.0.1:443"), Some(Shortage::Ports));
        // No interface of this index: there is no source address.
        assert_eq!(explained(unavailable(), "[fe80::1%4000000]:443"), None);
        assert_eq!(explained(Errno::CONNREFUSED.into(), "127.0.0.1:443"), None);
    }
}
