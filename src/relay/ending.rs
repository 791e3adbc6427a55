//! How a tunnel ends, from the results of its two directions.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use super::one_way::MoveError;
use crate::policy::{Cause, Ending, Failure, Side, Stop};

/// The peer on `side` reset its connection, or the gate lost it.
pub(super) fn aborted(side: Side) -> Stop {
    let cause = match side {
        Side::Client => Cause::ClientAborted,
        Side::Upstream => Cause::UpstreamAborted,
        Side::Gate => Cause::Internal,
    };
    Stop::Failed(Failure { side, cause })
}

/// The idle timeout expired. It counts as caused by the client, which keeps the tunnel open.
pub(super) fn idle_for_too_long() -> Stop {
    Stop::Failed(Failure { side: Side::Client, cause: Cause::IdleTimeout })
}

/// How long an error of the download is deferred for the client's last bytes.
const PARTING: Duration = Duration::from_millis(500);

/// An error of the download whose meaning depends on what the client sent. The client is read
/// before it sees the error.
///
/// Case 1: the upstream reset after the client got all that it sent. nginx can answer a
/// close_notify with a reset, and the client's FIN can follow its close_notify after a moment. If
/// the client ends in that moment, it was finished. If it sends more or stays, the upstream
/// aborted.
///
/// Case 2: the client rejects what is sent to it. Its last bytes, including its end, may be unread.
///
/// A tunnel stores at most one such error.
#[derive(Default)]
pub(super) struct Parting(Option<Box<Kept>>);

/// The error, and until when it is deferred.
type Kept = (MoveError, Pin<Box<Sleep>>);

/// The result of a direction.
pub(super) type Done = Poll<Result<(), MoveError>>;

/// What the two sides have sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HasEnded {
    /// The client has sent its end.
    pub(super) client: bool,
    /// It has sent a close_notify or FIN itself, where the two can be distinguished.
    pub(super) said_so: bool,
    /// The upstream had sent its end before this turn: after an error in one direction, the other
    /// can read it as an end.
    pub(super) upstream: bool,
}

impl Parting {
    /// Returns how the tunnel ends, if it does: from what came of the upload and the download.
    /// `given`: the client got all that the upstream sent.
    pub(super) fn outcome(
        &mut self,
        context: &mut Context<'_>,
        (sent, received): (Done, Done),
        ended: HasEnded,
        given: impl Fn() -> bool,
    ) -> Poll<Result<Ending, Stop>> {
        let is_over = sent.is_ready() || ended.client;
        let received = self.keep_back(context, received, is_over, &given);
        let (sent, done) = combine(sent, &received, ended.client, ended.said_so);
        judge(sent, received, (done, ended.upstream), given)
    }

    /// Returns whether the upstream must not be polled again.
    pub(super) fn has_begun(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the result of the download, deferred if it is such an error. `is_over`: the client
    /// sends no more. `given`: the client got all that the upstream sent.
    fn keep_back(
        &mut self,
        context: &mut Context<'_>,
        received: Done,
        is_over: bool,
        given: impl FnOnce() -> bool,
    ) -> Done {
        match received {
            Poll::Ready(Err(broken)) if broken.may_be_an_end(given) => {
                self.0 = Some(Box::new((broken, Box::pin(sleep(PARTING)))));
            }
            Poll::Pending => {}
            ended => return ended,
        }
        let Some(mut kept) = self.0.take() else { return Poll::Pending };
        if !is_over && kept.1.as_mut().poll(context).is_pending() {
            self.0 = Some(kept);
            return Poll::Pending;
        }
        Poll::Ready(Err(kept.0))
    }
}

impl MoveError {
    fn may_be_an_end(&self, given: impl FnOnce() -> bool) -> bool {
        match self {
            Self::Source(error) => !is_ours(error) && given(),
            Self::Destination(_) => self.refusal().is_some(),
            Self::Cut(_) => false,
        }
    }

    fn refusal(&self) -> Option<Refusal> {
        let Self::Destination(error) = self else { return None };
        match error.kind() {
            io::ErrorKind::BrokenPipe => Some(Refusal::AfterItsEnd),
            io::ErrorKind::ConnectionReset => Some(Refusal::Reset),
            _ => None,
        }
    }
}

/// How a peer rejects what is sent to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// Its connection had ended in order before: EPIPE.
    AfterItsEnd,
    /// It had not: ECONNRESET. A client that closes with unread bytes does the same. Reading then
    /// reports an end.
    Reset,
}

/// Returns the result of both directions once the error is no longer deferred: `sent` as far as it
/// counts, and whether the client had ended. `said_so`: it sent a close_notify or FIN itself.
fn combine(sent: Done, received: &Done, has_ended: bool, said_so: bool) -> (Done, bool) {
    let refusal = match received {
        Poll::Ready(Err(broken)) => broken.refusal(),
        _ => None,
    };
    let done = match refusal {
        None | Some(Refusal::AfterItsEnd) => has_ended,
        Some(Refusal::Reset) => said_so,
    };
    match sent {
        // The failed read is the same rejection.
        Poll::Ready(Err(MoveError::Source(_))) if refusal.is_some() => (Poll::Pending, done),
        sent => (sent, done),
    }
}

/// Combines the results of the two directions.
///
/// `ended`: whether the client, and before this turn the upstream, had sent its end (after an error
/// in one direction, the other can read it as an end). A peer that has ended and then rejects data
/// has closed, not aborted: many TLS clients do not wait for the server's close_notify. `given`:
/// whether the client got all that the upstream sent. A client that resets then has closed too: it
/// did not read a close_notify or session ticket, and the kernel resets a connection that is closed
/// with unread bytes.
fn judge(
    sent: Done,
    received: Done,
    ended: (bool, bool),
    given: impl FnOnce() -> bool,
) -> Poll<Result<Ending, Stop>> {
    let (side, error) = match (sent, received) {
        (Poll::Ready(Err(MoveError::Cut(reason))), _)
        | (_, Poll::Ready(Err(MoveError::Cut(reason)))) => {
            return Poll::Ready(Err(reason.into()));
        }
        (Poll::Ready(Err(MoveError::Source(error))), _) if !is_ours(&error) && given() => {
            return Poll::Ready(Ok(Ending::Closed));
        }
        (Poll::Ready(Err(MoveError::Source(error))), _)
        | (_, Poll::Ready(Err(MoveError::Destination(error)))) => (Side::Client, error),
        (Poll::Ready(Err(MoveError::Destination(error))), _)
        | (_, Poll::Ready(Err(MoveError::Source(error)))) => (Side::Upstream, error),
        (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Ok(Ending::Closed)),
        _ => return Poll::Pending,
    };
    Poll::Ready(match (side, ended) {
        _ if is_ours(&error) => Err(aborted(Side::Gate)),
        // A client that has ended waits for nothing, so a server reset then loses no data. nginx
        // resets on bytes after a close_notify.
        (_, (true, _)) | (Side::Upstream, (_, true)) => Ok(Ending::Closed),
        _ => Err(aborted(side)),
    })
}

/// Returns whether no peer can have caused `error`.
fn is_ours(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, OutOfMemory, Unsupported};
    matches!(error.kind(), InvalidInput | OutOfMemory | Unsupported)
}
