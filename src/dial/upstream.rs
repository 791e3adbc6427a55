//! A connection towards a registry: a bare socket, or TLS to a parent proxy around the tunnel.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

/// The bytes of a registry's host: directly or through an `http://` parent on a bare socket, which can
/// be spliced; through an `https://` parent inside TLS.
pub type Upstream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// A connection that was made.
#[derive(Debug)]
pub struct Connection {
    /// Its bytes.
    pub upstream: Upstream,
    /// The registry's address. `None` if the parent has chosen it.
    pub address: Option<SocketAddr>,
    /// The address of the parent that it leads through, as it is configured.
    pub parent: Option<Arc<str>>,
}
