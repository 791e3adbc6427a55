//! The connections of a tunnel where bytes are copied: a bare socket, TLS to the gate, or TLS to a
//! parent proxy.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};
use tokio_util::either::Either;

use super::tls::TlsEnd;

/// A stream of bytes with a socket below it.
pub trait Layered: AsyncRead + AsyncWrite + Unpin {
    /// The socket.
    fn socket(&self) -> &TcpStream;

    /// What is on it.
    fn layer(&mut self) -> Layer<'_>;
}

/// What is between the relay and the network.
pub enum Layer<'a> {
    /// Nothing but the socket.
    Bare(&'a TcpStream),
    /// TLS that the relay drives itself.
    Tls(TlsEnd<'a>),
    /// Anything else, which is only a stream of bytes.
    Stream,
}

impl<'a> Layer<'a> {
    /// Returns the socket, if the relay can wait for it: it shows whether there is something to read.
    pub(super) fn into_socket(self) -> Option<&'a TcpStream> {
        match self {
            Self::Bare(socket) => Some(socket),
            Self::Tls(tls) => Some(tls.into_socket()),
            Self::Stream => None,
        }
    }
}

impl Layered for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }

    fn layer(&mut self) -> Layer<'_> {
        Layer::Bare(self)
    }
}

impl Layered for server::TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }

    fn layer(&mut self) -> Layer<'_> {
        let (socket, session) = self.get_mut();
        Layer::Tls(TlsEnd::new(socket, &mut **session))
    }
}

impl Layered for client::TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }

    fn layer(&mut self) -> Layer<'_> {
        let (socket, session) = self.get_mut();
        Layer::Tls(TlsEnd::new(socket, &mut **session))
    }
}

impl<L: Layered, R: Layered> Layered for Either<L, Box<R>> {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Left(stream) => stream.socket(),
            Self::Right(stream) => stream.socket(),
        }
    }

    fn layer(&mut self) -> Layer<'_> {
        match self {
            Self::Left(stream) => stream.layer(),
            Self::Right(stream) => stream.layer(),
        }
    }
}

/// A stream of bytes, which in tests need not have a socket below it.
pub trait TunnelEnd: AsyncRead + AsyncWrite + Unpin {
    /// The socket; `None` if there is none.
    fn bare(&self) -> Option<&TcpStream>;

    /// What is between the relay and the network.
    fn layer(&mut self) -> Layer<'_> {
        Layer::Stream
    }
}

impl<T: Layered> TunnelEnd for T {
    fn bare(&self) -> Option<&TcpStream> {
        Some(self.socket())
    }

    fn layer(&mut self) -> Layer<'_> {
        Layered::layer(self)
    }
}

#[cfg(test)]
impl TunnelEnd for tokio::io::DuplexStream {
    fn bare(&self) -> Option<&TcpStream> {
        None
    }
}
