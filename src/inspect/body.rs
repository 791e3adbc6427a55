//! The body of a request: read whole where it is judged or small, streamed where it is a blob.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderMap};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::limits::Bounds;
use crate::policy::{Cause, Denial, Failure, Reason, Side, Stop};

/// The most that a refused client may still send, and how long it may take.
const LAST_BYTES: usize = 4 * 1024 * 1024;
const LAST_WAIT: Duration = Duration::from_secs(2);

/// What has passed of a blob on its way to the registry.
#[derive(Debug, Default)]
pub(super) struct Passed {
    bytes: AtomicU64,
    /// Notified when the client's hour allows no more.
    over: Notify,
}

impl Passed {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Resolves when the blob may not go on: it has not moved for `idle`, or the client's hour allows
    /// no more.
    pub(super) async fn ended(&self, idle: Duration) -> Stop {
        let mut before = self.bytes();
        loop {
            tokio::select! {
                () = self.over.notified() => return over_quota().into(),
                () = sleep(idle) => {}
            }
            let now = self.bytes();
            if now == before {
                return Failure { side: Side::Client, cause: Cause::IdleTimeout }.into();
            }
            before = now;
        }
    }
}

/// The client's hour allows no more of a push.
pub(super) fn over_quota() -> Denial {
    Denial::with_remedy(Reason::UploadBudget, "its client's hourly quota is used up")
}

/// A blob on its way to the registry. Counted while it passes, so that it is seen whether it moves.
#[derive(Debug)]
pub(super) struct UploadBody {
    incoming: Incoming,
    passed: Arc<Passed>,
    /// All requests of the connection.
    all: Arc<AtomicU64>,
    bounds: Arc<Bounds>,
}

impl UploadBody {
    pub(super) fn new(
        incoming: Incoming,
        passed: Arc<Passed>,
        all: Arc<AtomicU64>,
        bounds: Arc<Bounds>,
    ) -> Self {
        Self { incoming, passed, all, bounds }
    }
}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            let frame = match ready!(Pin::new(&mut self.incoming).poll_frame(context)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(io::Error::other(error)))),
                Some(Ok(frame)) => frame,
            };
            // Trailers are nobody's business.
            let Ok(data) = frame.into_data() else { continue };
            if !self.bounds.count_push(data.len()) {
                // The request ends by this, with its reason.
                self.passed.over.notify_one();
                return Poll::Pending;
            }
            for count in [&self.passed.bytes, &*self.all] {
                count.fetch_add(u64::try_from(data.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// Reads a body of at most `most` bytes.
pub(super) async fn whole(body: &mut Incoming, most: usize, by: Instant) -> Result<Bytes, Stop> {
    let mut bytes = BytesMut::new();
    loop {
        let frame = match timeout_at(by, body.frame()).await {
            Err(_) => return Err(Failure { side: Side::Client, cause: Cause::IdleTimeout }.into()),
            Ok(None) => return Ok(bytes.freeze()),
            Ok(Some(Err(_))) => {
                return Err(Failure { side: Side::Client, cause: Cause::ClientAborted }.into());
            }
            Ok(Some(Ok(frame))) => frame,
        };
        if let Some(data) = frame.data_ref() {
            if bytes.len() + data.len() > most {
                let remedy = format!("the body is larger than {most} bytes");
                return Err(Denial::with_remedy(Reason::RequestMalformed, remedy).into());
            }
            bytes.extend_from_slice(data);
        }
    }
}

/// Reads what a refused client still sends, within limits: otherwise it might not read the answer. A
/// client that waits to be asked for its body (`Expect`) is not asked.
pub(super) async fn discard(body: &mut Incoming, headers: &HeaderMap) {
    if body.is_end_stream() || headers.contains_key(header::EXPECT) {
        return;
    }
    let read = async {
        let mut left = LAST_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(length) {
                Some(less) => left = less,
                None => return,
            }
        }
    };
    // The answer follows, whether or not all of it came.
    let _ = timeout(LAST_WAIT, read).await;
}
