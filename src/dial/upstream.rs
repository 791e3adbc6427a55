//! A connection towards a registry: a bare socket, or TLS to a parent proxy around the tunnel.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::AsyncBufReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::policy::{Cause, ParentFailure};

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

impl Connection {
    /// Looks, without waiting, whether a parent has closed the tunnel that it has just opened: some
    /// answer 200 first, and close if the registry cannot be reached. Takes no byte of the tunnel.
    ///
    /// # Errors
    /// `parent-refused` if it has.
    pub async fn check_parent(&mut self) -> Result<(), ParentFailure> {
        if self.parent.is_none() {
            return Ok(());
        }
        let mut byte = [0];
        let looks = async {
            match &mut self.upstream {
                Either::Left(socket) => socket.peek(&mut byte).await,
                Either::Right(stream) => stream.fill_buf().await.map(<[u8]>::len),
            }
        };
        tokio::select! {
            biased;
            seen = looks => match seen {
                Ok(0) | Err(_) => Err(ParentFailure {
                    cause: Cause::ParentRefused,
                    detail: "it opened the tunnel and closed it at once".to_owned(),
                }),
                Ok(_) => Ok(()),
            },
            () = std::future::ready(()) => Ok(()),
        }
    }
}
