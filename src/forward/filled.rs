//! A registry's TLS stream that is read in large pieces.
//!
//! TLS returns a record at a time, at most 16 KiB. A reader that takes all that is there needs fewer
//! steps from the registry to the client: each piece costs a wake-up and a system call or two.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream whose reads return all that is there, as far as there is room.
#[derive(Debug)]
pub(super) struct FilledStream<S> {
    stream: S,
    /// What ended it, after the bytes before it.
    error: Option<io::Error>,
}

impl<S> FilledStream<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, error: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FilledStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(error) = self.error.take() {
            return Poll::Ready(Err(error));
        }
        let start = into.filled().len();
        while into.remaining() > 0 {
            let before = into.filled().len();
            match Pin::new(&mut self.stream).poll_read(context, into) {
                Poll::Pending if before == start => return Poll::Pending,
                Poll::Ready(Err(error)) if before == start => return Poll::Ready(Err(error)),
                Poll::Ready(Err(error)) => {
                    self.error = Some(error);
                    break;
                }
                // The end of a stream stays: the next read finds it again.
                Poll::Ready(Ok(())) if into.filled().len() > before => {}
                Poll::Pending | Poll::Ready(Ok(())) => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FilledStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// Returns these pieces, one for each read; `None` is a wait.
    struct Pieces(VecDeque<Option<io::Result<Vec<u8>>>>);

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            match self.0.pop_front() {
                None => Poll::Ready(Ok(())),
                Some(None) => {
                    context.waker().wake_by_ref();
                    Poll::Pending
                }
                Some(Some(Err(error))) => Poll::Ready(Err(error)),
                Some(Some(Ok(bytes))) => {
                    into.put_slice(&bytes);
                    Poll::Ready(Ok(()))
                }
            }
        }
    }

    #[tokio::test]
    async fn a_read_returns_all_that_is_there() {
        let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
        let piece = |byte| Some(Ok(vec![byte; 4]));
        let pieces = [piece(1), piece(2), None, piece(3), Some(Err(reset())), piece(4)];
        let mut filled = FilledStream::new(Pieces(pieces.into_iter().collect()));
        let mut bytes = [0; 64];
        assert_eq!(filled.read(&mut bytes).await.unwrap(), 8);
        assert_eq!(filled.read(&mut bytes).await.unwrap(), 4);
        let error = filled.read(&mut bytes).await.map_err(|error| error.kind());
        assert_eq!(error, Err(io::ErrorKind::ConnectionReset));
        assert_eq!(filled.read(&mut bytes).await.unwrap(), 4);
        assert_eq!(filled.read(&mut bytes).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_read_takes_no_more_than_there_is_room_for() {
        let pieces = std::iter::repeat_with(|| Some(Ok(vec![7; 4]))).take(4);
        let mut filled = FilledStream::new(Pieces(pieces.collect()));
        let mut bytes = [0; 8];
        assert_eq!(filled.read(&mut bytes).await.unwrap(), 8);
        assert_eq!(filled.read(&mut bytes).await.unwrap(), 8);
        assert_eq!(filled.read(&mut bytes).await.unwrap(), 0);
    }
}
