//! The long phase of a tunnel: what ends it, whichever way its bytes are moved.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::pump::Pump;
use super::watch::Watch;
use super::way::{Broken, Flow, Way};
use super::{Relay, Traffic};
use crate::policy::{Cause, Ending, Failure, Side, Stop};

/// The peer on `side` has reset its connection.
pub(super) fn aborted(side: Side) -> Stop {
    let cause = match side {
        Side::Client => Cause::ClientAborted,
        Side::Upstream => Cause::UpstreamAborted,
        Side::Gate => Cause::Internal,
    };
    Stop::Failed(Failure { side, cause })
}

/// What the handshake left behind.
#[derive(Debug)]
pub(super) struct Open {
    /// How far the upload has come; the download is open.
    pub(super) upload: Flow,
    /// What still judges the upload.
    pub(super) watch: Option<Box<Watch>>,
}

impl Relay {
    /// Polls `ways` until they or `stop` end the tunnel, or nothing has moved for too long.
    pub(super) async fn until_over(
        &self,
        traffic: &Traffic,
        mut stop: Pin<&mut impl Future<Output = Stop>>,
        mut ways: impl FnMut(&mut Context<'_>) -> Poll<Result<Ending, Stop>>,
    ) -> Result<Ending, Stop> {
        let mut moved = traffic.total();
        let mut last = Instant::now();
        // Set when it fires, not with every byte.
        let mut idle = pin!(sleep_until(last + self.settings.idle));
        poll_fn(|context| {
            if let Poll::Ready(stop) = stop.as_mut().poll(context) {
                return Poll::Ready(Err(stop));
            }
            if let Poll::Ready(over) = ways(context) {
                return Poll::Ready(over);
            }
            let total = traffic.total();
            if total != moved {
                moved = total;
                last = Instant::now();
            }
            while idle.as_mut().poll(context).is_ready() {
                let limit = last + self.settings.idle;
                if limit <= Instant::now() {
                    let failure = Failure { side: Side::Client, cause: Cause::IdleTimeout };
                    return Poll::Ready(Err(failure.into()));
                }
                idle.as_mut().reset(limit);
            }
            Poll::Pending
        })
        .await
    }

    /// Both directions between two bare sockets.
    pub(super) async fn splice_both(
        &self,
        client: &TcpStream,
        upstream: &TcpStream,
        open: Open,
        traffic: &Traffic,
        stop: Pin<&mut impl Future<Output = Stop>>,
    ) -> Result<Ending, Stop> {
        let now = self.now();
        let mut up = Way::new(now, open.upload, open.watch);
        let mut down = Way::new(now, Flow::Open, None);
        self.until_over(traffic, stop, |context| {
            let ended = (up.has_ended(), down.has_ended());
            let sent = up.poll(context, self, &traffic.up, client, upstream);
            let received = down.poll(context, self, &traffic.down, upstream, client);
            judge(sent, received, ended)
        })
        .await
    }

    /// Both directions where the client is no bare socket.
    pub(super) async fn copy_both<C: AsyncRead + AsyncWrite + Unpin>(
        &self,
        client: &mut C,
        upstream: &mut TcpStream,
        open: Open,
        traffic: &Traffic,
        stop: Pin<&mut impl Future<Output = Stop>>,
    ) -> Result<Ending, Stop> {
        let mut up = Pump::new(open.upload, open.watch);
        let mut down = Pump::new(Flow::Open, None);
        self.until_over(traffic, stop, |context| {
            let ended = (up.has_ended(), down.has_ended());
            let sent = up.poll(context, &traffic.up, client, upstream);
            let received = down.poll(context, &traffic.down, upstream, client);
            judge(sent, received, ended)
        })
        .await
    }
}

/// What the two directions come to; `ended`: whether client and upstream had said before that they
/// are done (once one direction has met an error, the other may read it as an end). A peer that is done and then refuses what is still sent has closed, it has not aborted:
/// many TLS clients do not wait for the server's close_notify.
fn judge(
    sent: Poll<Result<(), Broken>>,
    received: Poll<Result<(), Broken>>,
    ended: (bool, bool),
) -> Poll<Result<Ending, Stop>> {
    let side = match (sent, received) {
        (Poll::Ready(Err(Broken::Cut(reason))), _) => return Poll::Ready(Err(reason.into())),
        (_, Poll::Ready(Err(Broken::Cut(reason)))) => return Poll::Ready(Err(reason.into())),
        (Poll::Ready(Err(Broken::Source(_))), _) => Side::Client,
        (Poll::Ready(Err(Broken::Destination(_))), _) => Side::Upstream,
        (_, Poll::Ready(Err(Broken::Source(_)))) => Side::Upstream,
        (_, Poll::Ready(Err(Broken::Destination(_)))) => Side::Client,
        (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Ok(Ending::Closed)),
        _ => return Poll::Pending,
    };
    Poll::Ready(match (side, ended) {
        (Side::Client, (true, _)) | (Side::Upstream, (_, true)) => Ok(Ending::Closed),
        _ => Err(aborted(side)),
    })
}
