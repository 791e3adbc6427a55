//! The upstream's connection where bytes are copied: a bare socket, or TLS to a parent proxy around
//! the tunnel.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};
use tokio_util::either::Either;

/// The client's connection: a socket, or TLS to the gate.
pub trait ClientEnd: AsyncRead + AsyncWrite + Unpin {
    /// The socket; `None` if there is none.
    fn bare(&self) -> Option<&TcpStream>;
}

impl ClientEnd for TcpStream {
    fn bare(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl ClientEnd for server::TlsStream<TcpStream> {
    fn bare(&self) -> Option<&TcpStream> {
        Some(self.get_ref().0)
    }
}

impl ClientEnd for Either<TcpStream, Box<server::TlsStream<TcpStream>>> {
    fn bare(&self) -> Option<&TcpStream> {
        match self {
            Self::Left(socket) => Some(socket),
            Self::Right(stream) => stream.bare(),
        }
    }
}

#[cfg(test)]
impl ClientEnd for tokio::io::DuplexStream {
    fn bare(&self) -> Option<&TcpStream> {
        None
    }
}

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

impl Layered for Either<TcpStream, Box<client::TlsStream<TcpStream>>> {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Left(socket) => socket,
            Self::Right(stream) => stream.get_ref().0,
        }
    }
}
