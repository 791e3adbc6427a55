//! The connections of a tunnel where bytes are copied: a bare socket, TLS to the gate, or TLS to a
//! parent proxy.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};
use tokio_util::either::Either;

/// A stream of bytes with a socket below it.
pub trait Layered: AsyncRead + AsyncWrite + Unpin {
    /// The socket.
    fn socket(&self) -> &TcpStream;
}

impl Layered for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Layered for server::TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

impl Layered for client::TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

impl<L: Layered, R: Layered> Layered for Either<L, Box<R>> {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Left(stream) => stream.socket(),
            Self::Right(stream) => stream.socket(),
        }
    }
}

/// A stream of bytes, which in tests need not have a socket below it.
pub trait TunnelEnd: AsyncRead + AsyncWrite + Unpin {
    /// The socket; `None` if there is none.
    fn bare(&self) -> Option<&TcpStream>;
}

impl<T: Layered> TunnelEnd for T {
    fn bare(&self) -> Option<&TcpStream> {
        Some(self.socket())
    }
}

#[cfg(test)]
impl TunnelEnd for tokio::io::DuplexStream {
    fn bare(&self) -> Option<&TcpStream> {
        None
    }
}
