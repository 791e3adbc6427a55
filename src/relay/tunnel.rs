//! The second phase of a tunnel: what ends it, with splice or with copying.

use crate::relay::layer::Layered;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::copy::Pump;
use super::meter::Traffic;
use super::shared::Relay;
use super::socket;
use super::splice::{Flow, Splice, SpliceError};
use super::watch::Watch;
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

/// Age at which a tunnel counts as long-lived. Most end before, and do not need
/// [`socket::keep_alive`].
const GROWN: Duration = Duration::from_secs(30);

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
struct Parting(Option<Box<Kept>>);

/// The error, and until when it is deferred.
type Kept = (SpliceError, Pin<Box<Sleep>>);

impl Parting {
    /// Returns whether the upstream must not be polled again.
    fn has_begun(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the result of the download, deferred if it is such an error. `is_over`: the client
    /// sends no more. `given`: the client got all that the upstream sent.
    fn keep_back(
        &mut self,
        context: &mut Context<'_>,
        received: Poll<Result<(), SpliceError>>,
        is_over: bool,
        given: impl FnOnce() -> bool,
    ) -> Poll<Result<(), SpliceError>> {
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

impl SpliceError {
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
fn combine(
    sent: Poll<Result<(), SpliceError>>,
    received: &Poll<Result<(), SpliceError>>,
    has_ended: bool,
    said_so: bool,
) -> (Poll<Result<(), SpliceError>>, bool) {
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
        Poll::Ready(Err(SpliceError::Source(_))) if refusal.is_some() => (Poll::Pending, done),
        sent => (sent, done),
    }
}

/// The state after the handshake.
#[derive(Debug)]
pub(super) struct AfterHandshake {
    /// Bytes that the upload has forwarded; the download is open.
    pub(super) upload: Flow,
    /// The watch over the upload.
    pub(super) watch: Option<Box<Watch>>,
}

/// The parameters of a tunnel, except its two sides.
pub(super) struct TunnelContext<'a, S> {
    /// Counts delivered bytes.
    pub(super) traffic: &'a Traffic,
    /// Idle timeout.
    pub(super) idle: Duration,
    /// Ends the tunnel immediately.
    pub(super) stop: Pin<&'a mut S>,
}

impl<S: Future<Output = Stop>> TunnelContext<'_, S> {
    /// Polls `ways` until they, the stop or the idle timeout end the tunnel. Passes them once that
    /// the tunnel is long-lived.
    ///
    /// Not `async fn`, here and below, because that would store its arguments twice.
    fn until_over(
        self,
        mut ways: impl FnMut(&mut Context<'_>, Age) -> Poll<Result<Ending, Stop>>,
    ) -> impl Future<Output = Result<Ending, Stop>> {
        let Self { traffic, idle, mut stop } = self;
        async move {
            let mut moved = traffic.total();
            let mut last = Instant::now();
            let mut is_young = true;
            // Set when the timer fires, not with every byte.
            let mut timer = pin!(sleep_until(last + idle.min(GROWN)));
            poll_fn(|context| {
                if let Poll::Ready(stop) = stop.as_mut().poll(context) {
                    return Poll::Ready(Err(stop));
                }
                if let Poll::Ready(over) = ways(context, Age::AsBefore) {
                    return Poll::Ready(over);
                }
                let total = traffic.total();
                if total != moved {
                    moved = total;
                    last = Instant::now();
                }
                while timer.as_mut().poll(context).is_ready() {
                    if std::mem::take(&mut is_young)
                        && let Poll::Ready(over) = ways(context, Age::Grown)
                    {
                        return Poll::Ready(over);
                    }
                    let limit = last + idle;
                    if limit <= Instant::now() {
                        return Poll::Ready(Err(idle_for_too_long()));
                    }
                    timer.as_mut().reset(limit);
                }
                Poll::Pending
            })
            .await
        }
    }
}

/// Whether the tunnel became long-lived since the last poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    AsBefore,
    Grown,
}

impl Relay {
    /// Runs both directions between two bare sockets.
    pub(super) fn splice_both(
        &self,
        client: &TcpStream,
        upstream: &TcpStream,
        open: AfterHandshake,
        life: TunnelContext<'_, impl Future<Output = Stop>>,
    ) -> impl Future<Output = Result<Ending, Stop>> {
        let traffic = life.traffic;
        let mut ways = Ways::new(self.now(), open);
        life.until_over(move |context, age| {
            if age == Age::Grown {
                socket::keep_alive(upstream);
            }
            ways.poll(context, self, traffic, client, upstream)
        })
    }
}

/// Both directions between two bare sockets.
pub(super) struct Ways {
    pub(super) up: Splice,
    pub(super) down: Splice,
    parting: Parting,
}

impl Ways {
    pub(super) fn new(now: Duration, open: AfterHandshake) -> Self {
        let AfterHandshake { upload, watch } = open;
        let (up, down) = (Splice::up(now, upload, watch), Splice::down(now));
        Self { up, down, parting: Parting::default() }
    }

    /// Moves all available bytes in both directions.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        relay: &Relay,
        traffic: &Traffic,
        client: &TcpStream,
        upstream: &TcpStream,
    ) -> Poll<Result<Ending, Stop>> {
        let Self { up, down, parting } = self;
        let upstream_done = down.has_ended();
        let before = (traffic.up.count(), traffic.down.count());
        let sent = up.poll(context, relay, traffic, (client, upstream), down.flow());
        if traffic.up.count() != before.0 {
            down.spoken_to(relay, upstream);
        }
        let received = match parting.has_begun() {
            true => Poll::Pending,
            false => down.poll(context, relay, traffic, (upstream, client), up.flow()),
        };
        if traffic.down.count() != before.1 {
            up.spoken_to(relay, client);
        }
        let given = || down.has_delivered() && socket::is_dry(upstream);
        let received =
            parting.keep_back(context, received, sent.is_ready() || up.has_ended(), given);
        let (sent, done) = combine(sent, &received, up.has_ended(), false);
        let ended = (done, upstream_done);
        judge(sent, received, ended, given)
    }
}

/// Both directions where a side is not a bare socket.
pub(super) async fn copy_both<C: AsyncRead + AsyncWrite + Unpin, U: Layered>(
    client: &mut C,
    upstream: &mut U,
    open: AfterHandshake,
    life: TunnelContext<'_, impl Future<Output = Stop>>,
) -> Result<Ending, Stop> {
    let traffic = life.traffic;
    let mut up = Pump::up(open.upload, open.watch);
    let mut down = Pump::down();
    let mut parting = Parting::default();
    life.until_over(|context, age| {
        if age == Age::Grown {
            socket::keep_alive(upstream.socket());
        }
        let upstream_done = down.has_ended();
        let sent = up.poll(context, traffic, client, upstream);
        let received = match parting.has_begun() {
            true => Poll::Pending,
            false => down.poll(context, traffic, upstream, client),
        };
        let given = || down.has_delivered() && socket::is_dry(upstream.socket());
        let received =
            parting.keep_back(context, received, sent.is_ready() || up.has_ended(), given);
        let (sent, done) = combine(sent, &received, up.has_ended(), up.has_said_so());
        let ended = (done, upstream_done);
        judge(sent, received, ended, given)
    })
    .await
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
    sent: Poll<Result<(), SpliceError>>,
    received: Poll<Result<(), SpliceError>>,
    ended: (bool, bool),
    given: impl FnOnce() -> bool,
) -> Poll<Result<Ending, Stop>> {
    let (side, error) = match (sent, received) {
        (Poll::Ready(Err(SpliceError::Cut(reason))), _)
        | (_, Poll::Ready(Err(SpliceError::Cut(reason)))) => {
            return Poll::Ready(Err(reason.into()));
        }
        (Poll::Ready(Err(SpliceError::Source(error))), _) if !is_ours(&error) && given() => {
            return Poll::Ready(Ok(Ending::Closed));
        }
        (Poll::Ready(Err(SpliceError::Source(error))), _)
        | (_, Poll::Ready(Err(SpliceError::Destination(error)))) => (Side::Client, error),
        (Poll::Ready(Err(SpliceError::Destination(error))), _)
        | (_, Poll::Ready(Err(SpliceError::Source(error)))) => (Side::Upstream, error),
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
