//! What a redirected connection still knows of where it was headed. A fact for the record: the
//! address is the client's word, and never dialled.

use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};

use nix::sys::socket::{getsockopt, sockopt};
use tokio::net::TcpStream;

/// Where nftables' REDIRECT took the connection from (`SO_ORIGINAL_DST`); nothing for one that
/// came here by itself.
#[must_use]
pub fn original_destination(socket: &TcpStream) -> Option<SocketAddr> {
    let local = socket.local_addr().ok()?;
    let original = if local.is_ipv4() {
        let found = getsockopt(socket, sockopt::OriginalDst).ok()?;
        let ip = u32::from_be(found.sin_addr.s_addr).into();
        SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(found.sin_port)))
    } else {
        let found = getsockopt(socket, sockopt::Ip6tOriginalDst).ok()?;
        let ip = found.sin6_addr.s6_addr.into();
        SocketAddr::V6(SocketAddrV6::new(ip, u16::from_be(found.sin6_port), 0, 0))
    };
    (original != local).then_some(original)
}

#[cfg(test)]
mod tests {
    use super::original_destination;
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn who_comes_by_itself_was_headed_nowhere_else() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).await.unwrap();
            let at = listener.local_addr().unwrap();
            let (client, accepted) = tokio::join!(TcpStream::connect(at), listener.accept());
            assert_eq!(original_destination(&accepted.unwrap().0), None);
            drop(client);
        }
    }
}
