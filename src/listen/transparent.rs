//! Redirected traffic: the original destination from the kernel. It is only recorded and never
//! dialled, because the client chose it.

use std::io;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};

use nix::sys::socket::{getsockopt, sockopt};
use socket2::Socket;
use tokio::net::TcpStream;

use crate::config::Capture;
use crate::policy::canonical;

/// Allows a listening socket to accept connections to foreign addresses. An inherited one may allow
/// it already (systemd's `Transparent=`).
///
/// # Errors
/// If the process lacks the capability. The error names the alternatives.
pub fn accept_foreign(socket: &Socket, at: SocketAddr) -> io::Result<()> {
    let is_set = match at {
        SocketAddr::V4(_) => socket.ip_transparent_v4(),
        SocketAddr::V6(_) => socket.ip_transparent_v6(),
    };
    if is_set.unwrap_or(false) {
        return Ok(());
    }
    let set = match at {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true),
        SocketAddr::V6(_) => socket.set_ip_transparent_v6(true),
    };
    set.map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => io::Error::new(error.kind(), LACKS_CAPABILITY),
        _ => error,
    })
}

const LACKS_CAPABILITY: &str = "capture = \"tproxy\" takes the capability CAP_NET_ADMIN: give it \
    to the process (AmbientCapabilities=CAP_NET_ADMIN in its unit), or write \
    capture = \"redirect\", which takes none";

/// Returns the original destination of a connection; `None` if it was not redirected. A v4-mapped
/// address is returned as IPv4.
#[must_use]
pub fn original_destination(
    socket: &TcpStream,
    capture: Capture,
    listener: SocketAddr,
) -> Option<SocketAddr> {
    let local = || Some(plain(socket.local_addr().ok()?));
    let (original, own) = match capture {
        Capture::Redirect => {
            let is_v4 = listener.is_ipv4() || local()?.is_ipv4();
            // The kernel is not queried for connections to the listener itself.
            (replaced(socket, is_v4)?, local()?)
        }
        Capture::Tproxy => {
            let original = local()?;
            // With TPROXY the kernel keeps the destination; a wildcard listener has no address to
            // compare.
            let everywhere = listener.ip().is_unspecified();
            let own = SocketAddr::new(original.ip(), listener.port());
            (original, if everywhere { own } else { plain(listener) })
        }
    };
    (original != own).then_some(original)
}

/// Returns the destination that connection tracking stores for a redirected connection
/// (`SO_ORIGINAL_DST`); `None` if it is not tracked.
fn replaced(socket: &TcpStream, is_v4: bool) -> Option<SocketAddr> {
    Some(if is_v4 {
        let found = getsockopt(socket, sockopt::OriginalDst).ok()?;
        let ip = u32::from_be(found.sin_addr.s_addr).into();
        SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(found.sin_port)))
    } else {
        let found = getsockopt(socket, sockopt::Ip6tOriginalDst).ok()?;
        let ip = found.sin6_addr.s6_addr.into();
        SocketAddr::V6(SocketAddrV6::new(ip, u16::from_be(found.sin6_port), 0, 0))
    })
}

/// Removes zone and flow from an IPv6 address, and unwraps a v4-mapped one.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(canonical(address.ip()), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn who_comes_by_itself_was_headed_nowhere_else() {
        for address in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "[::]:0"] {
            let listener = TcpListener::bind(address).await.unwrap();
            let at = listener.local_addr().unwrap();
            let (client, accepted) = tokio::join!(TcpStream::connect(at), listener.accept());
            let accepted = accepted.unwrap().0;
            for capture in [Capture::Redirect, Capture::Tproxy] {
                let headed = original_destination(&accepted, capture, at);
                assert_eq!(headed, None, "{address} {capture:?}");
            }
            drop(client);
        }
    }

    #[tokio::test]
    async fn the_original_destination_is_returned() {
        // To a listener that is elsewhere, as TPROXY would have it.
        let listener = TcpListener::bind("[::]:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for (to, elsewhere) in [("127.0.0.2", "[::]:3129"), ("127.0.0.2", "127.0.0.1:3129")] {
            let to = SocketAddr::new(to.parse().unwrap(), port);
            let (client, accepted) = tokio::join!(TcpStream::connect(to), listener.accept());
            let elsewhere = elsewhere.parse().unwrap();
            let headed = original_destination(&accepted.unwrap().0, Capture::Tproxy, elsewhere);
            assert_eq!(headed, Some(to), "reported as IPv4");
            drop(client);
        }
    }
}
