//! Bytes that were read from the source and must reach the destination before any later ones.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

use super::socket;

/// The bytes, and how many of them were written. Holds no memory while it is empty.
#[derive(Debug, Default)]
pub(super) struct Leftover {
    bytes: Vec<u8>,
    gone: usize,
}

impl Leftover {
    /// Returns whether all bytes were written.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends `bytes`.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends `bytes`.
    pub(super) fn push_all(&mut self, bytes: Vec<u8>) {
        if self.bytes.is_empty() && !bytes.is_empty() {
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

    /// Writes what `to` accepts and returns the number of bytes. Ready even if some are left.
    pub(super) fn poll_socket(
        &mut self,
        context: &mut Context<'_>,
        to: &TcpStream,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(to.poll_write_ready(context))?;
            match socket::write(to, self.left()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(count) => {
                    self.wrote(count);
                    return Poll::Ready(Ok(count));
                }
            }
        }
    }

    /// Variant of [`Self::poll_write`] for any stream.
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
