//! What an error of a connection or a datagram shows about the way.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::verdict::{Found, Verdict, describe, found};

/// The error of the kernel for a packet that a rule of this machine dropped.
const EPERM: i32 = rustix::io::Errno::PERM.raw_os_error();

/// Interprets a failed connection or datagram. Only silence, and errors of this machine, show that
/// a connection is closed: any response shows that packets get through, and its sender may be
/// beyond the gate.
pub(super) fn judge_error(error: &io::Error, leads_out: bool) -> Found {
    let seen = describe(error);
    match error.kind() {
        io::ErrorKind::TimedOut => found(Verdict::Closed, seen),
        _ if !leads_out || error.raw_os_error() == Some(EPERM) => found(Verdict::Closed, seen),
        io::ErrorKind::ConnectionRefused => {
            found(Verdict::Unsure, "refused, by the far end or by a machine on the way")
        }
        _ => found(Verdict::Unsure, format!("{seen}, says a machine on the way")),
    }
}

/// Returns whether this machine forwards packets for an address to another. Sends nothing.
pub(super) fn leads_out(to: SocketAddr) -> bool {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let routed = std::net::UdpSocket::bind((any, 0)).and_then(|socket| socket.connect(to));
    !to.ip().is_loopback() && routed.is_ok()
}

/// Returns whether this machine has no route to an address.
pub(super) fn has_no_route(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrNotAvailable, NetworkUnreachable};
    matches!(error.kind(), NetworkUnreachable | AddrNotAvailable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_from_elsewhere_is_not_shown_to_be_closed() {
        use io::ErrorKind::{
            ConnectionRefused, HostUnreachable, NetworkUnreachable, PermissionDenied, TimedOut,
        };
        for (kind, here, elsewhere) in [
            (TimedOut, Verdict::Closed, Verdict::Closed),
            (ConnectionRefused, Verdict::Closed, Verdict::Unsure),
            (HostUnreachable, Verdict::Closed, Verdict::Unsure),
            (NetworkUnreachable, Verdict::Closed, Verdict::Unsure),
            // ICMPv6: administratively prohibited.
            (PermissionDenied, Verdict::Closed, Verdict::Unsure),
        ] {
            assert_eq!(judge_error(&kind.into(), false).0, here, "{kind}");
            assert_eq!(judge_error(&kind.into(), true).0, elsewhere, "{kind}");
        }
        let dropped = io::Error::from_raw_os_error(EPERM);
        assert_eq!(judge_error(&dropped, true).0, Verdict::Closed);
        assert!(!leads_out(SocketAddr::from((Ipv4Addr::LOCALHOST, 9))));
    }
}
