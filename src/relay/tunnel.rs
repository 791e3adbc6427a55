//! The long phase of a tunnel: what ends it, whichever way its bytes are moved.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::copy::Pump;
use super::socket;
use super::splice::{Broken, Flow, Way};
use super::watch::Watch;
use super::{Relay, Traffic};
use crate::policy::{Cause, Ending, Failure, Side, Stop};

/// The peer on `side` has reset its connection, or the gate has lost it.
pub(super) fn aborted(side: Side) -> Stop {
    let cause = match side {
        Side::Client => Cause::ClientAborted,
        Side::Upstream => Cause::UpstreamAborted,
        Side::Gate => Cause::Internal,
    };
    Stop::Failed(Failure { side, cause })
}

/// Nothing has moved for too long. It counts as the client's doing, who keeps the tunnel open.
pub(super) fn idle_for_too_long() -> Stop {
    Stop::Failed(Failure { side: Side::Client, cause: Cause::IdleTimeout })
}

/// How old a tunnel is when it counts as one that stays. Most end before, and are spared what only
/// those need: see [`socket::keep_alive`].
const GROWN: Duration = Duration::from_secs(30);

/// How long a fault of the download is kept back for what the client says last.
const PARTING: Duration = Duration::from_millis(500);

/// A fault of the download that the upload may put in another light: the client is asked what it
/// did, before it hears of it.
///
/// An upstream that has reset, when the client had been given all that it sent: nginx may answer a
/// close_notify with a reset, and between that record and its client's end there is a moment. If the
/// client ends within that moment, it was done; if it sends more, or stays, the upstream has aborted.
///
/// A client that refuses what is sent to it: what it said last, its end among it, may not have been
/// seen yet.
///
/// A tunnel's memory has one word for it.
#[derive(Default)]
struct Parting(Option<Box<Kept>>);

/// The fault, and until when it is kept back.
type Kept = (Broken, Pin<Box<Sleep>>);

impl Parting {
    /// Whether the upstream is to be asked no more.
    fn has_begun(&self) -> bool {
        self.0.is_some()
    }

    /// What has come of the download, kept back for a while if it is such a fault. `is_over`: whether
    /// the client has nothing more to say. `given`: whether it had been given all that the upstream
    /// has sent.
    fn keep_back(
        &mut self,
        context: &mut Context<'_>,
        received: Poll<Result<(), Broken>>,
        is_over: bool,
        given: impl FnOnce() -> bool,
    ) -> Poll<Result<(), Broken>> {
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

impl Broken {
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

/// How a peer refuses what is sent to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// Its connection had ended in order before: EPIPE.
    AfterItsEnd,
    /// It had not: ECONNRESET. A client that closes with bytes unread does so, too. Reading ends
    /// then as if it had.
    Reset,
}

/// What has become of both directions, once the download's fault is not kept back any more: `sent`
/// as far as it counts, and whether the client had ended. `said_so`: whether in its own words.
fn told(
    sent: Poll<Result<(), Broken>>,
    received: &Poll<Result<(), Broken>>,
    has_ended: bool,
    said_so: bool,
) -> (Poll<Result<(), Broken>>, bool) {
    let refusal = match received {
        Poll::Ready(Err(broken)) => broken.refusal(),
        _ => None,
    };
    let done = match refusal {
        None | Some(Refusal::AfterItsEnd) => has_ended,
        Some(Refusal::Reset) => said_so,
    };
    match sent {
        // That it can be read no more is the refusal over again.
        Poll::Ready(Err(Broken::Source(_))) if refusal.is_some() => (Poll::Pending, done),
        sent => (sent, done),
    }
}

/// What the handshake left behind.
#[derive(Debug)]
pub(super) struct Open {
    /// How far the upload has come; the download is open.
    pub(super) upload: Flow,
    /// What still judges the upload.
    pub(super) watch: Option<Box<Watch>>,
}

/// What a tunnel's life depends on, but for its two sides.
pub(super) struct Life<'a, S> {
    /// Counts what is delivered.
    pub(super) traffic: &'a Traffic,
    /// How long nothing may be.
    pub(super) idle: Duration,
    /// Ends it at once.
    pub(super) stop: Pin<&'a mut S>,
}

impl<S: Future<Output = Stop>> Life<'_, S> {
    /// Polls `ways` until they or the stop end the tunnel, or nothing has moved for too long. They are
    /// told once that the tunnel has grown old.
    ///
    /// Not `async fn`, here and below, which would keep its arguments twice.
    fn until_over(
        self,
        mut ways: impl FnMut(&mut Context<'_>, Age) -> Poll<Result<Ending, Stop>>,
    ) -> impl Future<Output = Result<Ending, Stop>> {
        let Self { traffic, idle, mut stop } = self;
        async move {
            let mut moved = traffic.total();
            let mut last = Instant::now();
            let mut is_young = true;
            // Set when it fires, not with every byte.
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

/// Whether a tunnel has grown old since it was last polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    AsBefore,
    Grown,
}

impl Relay {
    /// Both directions between two bare sockets.
    pub(super) fn splice_both(
        &self,
        client: &TcpStream,
        upstream: &TcpStream,
        open: Open,
        life: Life<'_, impl Future<Output = Stop>>,
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
    pub(super) up: Way,
    pub(super) down: Way,
    parting: Parting,
}

impl Ways {
    pub(super) fn new(now: Duration, open: Open) -> Self {
        let Open { upload, watch } = open;
        let (up, down) = (Way::up(now, upload, watch), Way::down(now));
        Self { up, down, parting: Parting::default() }
    }

    /// Moves what can be moved now, both ways.
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
        let (sent, done) = told(sent, &received, up.has_ended(), false);
        let ended = (done, upstream_done);
        judge(sent, received, ended, given)
    }
}

/// Both directions where the client is no bare socket.
pub(super) async fn copy_both<C: AsyncRead + AsyncWrite + Unpin>(
    client: &mut C,
    upstream: &mut TcpStream,
    open: Open,
    life: Life<'_, impl Future<Output = Stop>>,
) -> Result<Ending, Stop> {
    let traffic = life.traffic;
    let mut up = Pump::up(open.upload, open.watch);
    let mut down = Pump::down();
    let mut parting = Parting::default();
    life.until_over(|context, age| {
        if age == Age::Grown {
            socket::keep_alive(upstream);
        }
        let upstream_done = down.has_ended();
        let sent = up.poll(context, traffic, client, upstream);
        let received = match parting.has_begun() {
            true => Poll::Pending,
            false => down.poll(context, traffic, upstream, client),
        };
        let given = || down.has_delivered() && socket::is_dry(upstream);
        let received =
            parting.keep_back(context, received, sent.is_ready() || up.has_ended(), given);
        let (sent, done) = told(sent, &received, up.has_ended(), up.has_said_so());
        let ended = (done, upstream_done);
        judge(sent, received, ended, given)
    })
    .await
}

/// What the two directions come to.
///
/// `ended`: whether the client, and before this turn the upstream, had said that they are done (once
/// one direction has met an error, the other may read it as an end). A peer that is done and then
/// refuses what is still sent has closed, it has not aborted: many TLS clients do not wait for the
/// server's close_notify. `given`: whether the client had been given all that the upstream has sent. One
/// that resets then has closed too: it did not read that close_notify, or a session ticket, and
/// the kernel resets a connection that is closed with bytes unread.
fn judge(
    sent: Poll<Result<(), Broken>>,
    received: Poll<Result<(), Broken>>,
    ended: (bool, bool),
    given: impl FnOnce() -> bool,
) -> Poll<Result<Ending, Stop>> {
    let (side, error) = match (sent, received) {
        (Poll::Ready(Err(Broken::Cut(reason))), _) | (_, Poll::Ready(Err(Broken::Cut(reason)))) => {
            return Poll::Ready(Err(reason.into()));
        }
        (Poll::Ready(Err(Broken::Source(error))), _) if !is_ours(&error) && given() => {
            return Poll::Ready(Ok(Ending::Closed));
        }
        (Poll::Ready(Err(Broken::Source(error))), _)
        | (_, Poll::Ready(Err(Broken::Destination(error)))) => (Side::Client, error),
        (Poll::Ready(Err(Broken::Destination(error))), _)
        | (_, Poll::Ready(Err(Broken::Source(error)))) => (Side::Upstream, error),
        (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Ok(Ending::Closed)),
        _ => return Poll::Pending,
    };
    Poll::Ready(match (side, ended) {
        _ if is_ours(&error) => Err(aborted(Side::Gate)),
        // A client that is done waits for no more, so that a server which then resets (nginx does,
        // on bytes behind a close_notify) takes nothing away.
        (_, (true, _)) | (Side::Upstream, (_, true)) => Ok(Ending::Closed),
        _ => Err(aborted(side)),
    })
}

/// Whether no peer can have caused `error`.
fn is_ours(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, OutOfMemory, Unsupported};
    matches!(error.kind(), InvalidInput | OutOfMemory | Unsupported)
}
