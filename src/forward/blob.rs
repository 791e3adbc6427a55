//! A blob on its way to the client: checked while it passes, in bounded memory.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use tokio::time::{Instant, Sleep, sleep};

use super::pool::Connection;
use super::trouble::failure;
use crate::oci::{Digest, DigestVerifier};
use crate::policy::{Cause, Stop};

/// The body of a blob. Its last bytes are held back until it has ended upstream: the digest of all
/// bytes is known then, so that a client never has a whole blob whose bytes are not those that it
/// asked for; and the connection can be used again.
#[derive(Debug)]
pub struct BlobBody {
    incoming: Incoming,
    /// Given back at the end; closed when the body is dropped before.
    connection: Option<Connection>,
    check: Option<(DigestVerifier, Digest)>,
    held: Option<Bytes>,
    idle: Pin<Box<Sleep>>,
    idle_timeout: Duration,
    is_over: bool,
}

impl BlobBody {
    pub(super) fn new(
        incoming: Incoming,
        connection: Connection,
        digest: Option<&Digest>,
        idle_timeout: Duration,
    ) -> Self {
        let check = digest.map(|digest| (DigestVerifier::new(digest.algorithm()), digest.clone()));
        Self {
            incoming,
            connection: Some(connection),
            check,
            held: None,
            idle: Box::pin(sleep(idle_timeout)),
            idle_timeout,
            is_over: false,
        }
    }

    /// Whether all bytes have been returned.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.is_over && self.held.is_none()
    }

    /// Returns the next bytes; `None` at the end.
    ///
    /// # Errors
    /// `digest-mismatch`, `upstream-aborted`, `idle-timeout`.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Stop>>> {
        loop {
            if self.is_over {
                return Poll::Ready(self.held.take().map(Ok));
            }
            match Pin::new(&mut self.incoming).poll_frame(context) {
                Poll::Pending => {
                    if self.idle.as_mut().poll(context).is_ready() {
                        return self.fail(Cause::IdleTimeout);
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Some(Err(_))) => return self.fail(Cause::UpstreamAborted),
                Poll::Ready(None) => {
                    let check = self.check.take();
                    if check.is_some_and(|(verifier, digest)| !verifier.finds(&digest)) {
                        return self.fail(Cause::DigestMismatch);
                    }
                    self.is_over = true;
                    if let Some(connection) = self.connection.take() {
                        connection.release();
                    }
                }
                Poll::Ready(Some(Ok(frame))) => {
                    self.idle.as_mut().reset(Instant::now() + self.idle_timeout);
                    // Trailers are nobody's business.
                    let Ok(data) = frame.into_data() else { continue };
                    if let Some((verifier, _)) = &mut self.check {
                        verifier.update(&data);
                    }
                    if let Some(before) = self.held.replace(data) {
                        return Poll::Ready(Some(Ok(before)));
                    }
                }
            }
        }
    }

    fn fail(&mut self, cause: Cause) -> Poll<Option<Result<Bytes, Stop>>> {
        self.is_over = true;
        self.held = None;
        self.connection = None;
        Poll::Ready(Some(Err(failure(cause).into())))
    }
}
