//! The two connections of a tunnel.

use std::net::IpAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::limits::SecondHellos;

/// The two connections of a tunnel. The relay borrows them, because a future stores both an
/// argument and the place that it is moved to for as long as the tunnel lives.
#[derive(Debug)]
pub struct TunnelEnds<C, U = TcpStream> {
    /// The client connection, read up to the end of its ClientHello. It should use TCP_NODELAY,
    /// because bytes are forwarded as they arrive.
    pub client: C,
    /// The upstream connection, on which nothing was sent.
    pub upstream: U,
    /// What the tunnel is subject to.
    pub terms: Box<TunnelTerms>,
}

/// What a tunnel is subject to.
#[derive(Debug, Clone)]
pub struct TunnelTerms {
    /// Timeout for a second ClientHello, from the server's request to its last byte.
    pub second_hello: Duration,
    /// Counts it meanwhile; `None` where nothing limits it.
    pub second_hellos: Option<SecondHellos>,
    /// Idle timeout: how long neither side may send a byte.
    pub idle: Duration,
    /// Stall timeout: how long a side may not read what is queued for it.
    pub stall: Duration,
    /// The address of the client, which shares its socket memory with its other tunnels.
    pub client: IpAddr,
}
