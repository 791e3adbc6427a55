//! The upstream's connection where bytes are copied: a bare socket, or TLS to a parent proxy around
//! the tunnel.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

/// A stream of bytes with a socket below it.
pub trait Layered: AsyncRead + AsyncWrite + Unpin {
    /// The socket.
    fn socket(&self) -> &TcpStream;

    /// The socket, without what is above it.
    fn into_socket(self) -> TcpStream;
}

impl Layered for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }

    fn into_socket(self) -> TcpStream {
        self
    }
}

impl Layered for Either<TcpStream, Box<TlsStream<TcpStream>>> {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Left(socket) => socket,
            Self::Right(stream) => stream.get_ref().0,
        }
    }

    fn into_socket(self) -> TcpStream {
        match self {
            Self::Left(socket) => socket,
            Self::Right(stream) => stream.into_inner().0,
        }
    }
}
