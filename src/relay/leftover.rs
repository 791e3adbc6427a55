//! Bytes that have left the source and must reach the destination before any that follow.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

use super::socket::{self, Then};

/// The bytes, and how many of them have gone. It holds no memory while it is empty.
#[derive(Debug, Default)]
pub(super) struct Rest {
    bytes: Vec<u8>,
    gone: usize,
}

impl Rest {
    /// Whether all have gone.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Keeps `bytes`, behind those that it has.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Keeps `bytes`, behind those that it has.
    pub(super) fn push_all(&mut self, bytes: Vec<u8>) {
        if self.bytes.is_empty() {
            self.bytes = bytes;
        } else {
            self.push(&bytes);
        }
    }

    fn left(&self) -> &[u8] {
        self.bytes.get(self.gone..).unwrap_or_default()
    }

    fn wrote(&mut self, count: usize) {
        self.gone += count;
        if self.gone >= self.bytes.len() {
            *self = Self::default();
        }
    }

    /// Writes what `to` takes: how many bytes went this time, ready even when some are left.
    pub(super) fn poll_socket(
        &mut self,
        context: &mut Context<'_>,
        to: &TcpStream,
        then: Then,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(to.poll_write_ready(context))?;
            match socket::write(to, self.left(), then) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(count) => {
                    self.wrote(count);
                    return Poll::Ready(Ok(count));
                }
            }
        }
    }

    /// The same for any stream.
    pub(super) fn poll_stream(
        &mut self,
        context: &mut Context<'_>,
        to: Pin<&mut impl AsyncWrite>,
    ) -> Poll<io::Result<usize>> {
        let count = ready!(to.poll_write(context, self.left()))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.wrote(count);
        Poll::Ready(Ok(count))
    }
}
