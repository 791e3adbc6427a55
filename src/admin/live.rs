//! The status page: its assets and its event stream.
//!
//! The page is embedded and loads only from its own origin, which a strict content security policy
//! enforces. Text from clients is sent as JSON and shown as text only.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Response, header};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::MissedTickBehavior;

use super::snapshot::WithHistory;
use super::source::Admin;
use crate::account::STEP;

/// Interval between two snapshots.
const PERIOD: Duration = Duration::from_secs(1);

/// Number of snapshots after which the history is sent again.
const HISTORY_EVERY: u64 = STEP.as_secs() / PERIOD.as_secs();

/// Maximum duration of a stream. The page then reconnects.
pub(super) const LONGEST: Duration = Duration::from_secs(600);

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'; require-trusted-types-for 'script'";

/// Returns the content type and text of a file of the page; `None` for other paths.
pub(super) fn asset(path: &str) -> Option<(&'static str, &'static str)> {
    Some(match path {
        "/" => ("text/html; charset=utf-8", include_str!("assets/page.html")),
        "/page.css" => ("text/css; charset=utf-8", include_str!("assets/page.css")),
        "/page.js" => ("text/javascript; charset=utf-8", include_str!("assets/page.js")),
        _ => return None,
    })
}

/// Adds headers that forbid the browser everything that the page does not need.
pub(super) fn fence<B>(response: &mut Response<B>) {
    let headers = response.headers_mut();
    for (name, value) in [
        ("content-security-policy", POLICY),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
}

/// A stream of server-sent events.
#[derive(Debug)]
pub(super) struct Events {
    events: mpsc::Receiver<Bytes>,
    /// Its permit among the streams.
    _place: OwnedSemaphorePermit,
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.events.poll_recv(context).map(|event| event.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Returns a stream of snapshots, one per second, until the reader closes it or [`LONGEST`] has
/// passed.
pub(super) fn events(admin: Arc<Admin>, place: OwnedSemaphorePermit) -> Response<Events> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut due = tokio::time::interval(PERIOD);
        for number in 0u64.. {
            due.tick().await;
            let admin = admin.clone();
            let history = match number % HISTORY_EVERY {
                0 => WithHistory::Yes,
                _ => WithHistory::No,
            };
            // Serialising many sessions takes time, so it runs on a blocking thread.
            let event = tokio::task::spawn_blocking(move || admin.event(history)).await;
            let Ok(Some(event)) = event else { return };
            if sender.send(event).await.is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(Events { events: receiver, _place: place });
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("text/event-stream");
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Writes the history of the last hour as time passes. It does not end.
pub(super) async fn remember(admin: Arc<Admin>) {
    let mut due = tokio::time::interval(STEP);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    due.tick().await;
    loop {
        due.tick().await;
        let admin = admin.clone();
        // Gathering the counters of many registries takes time.
        let _ = tokio::task::spawn_blocking(move || admin.account.remember()).await;
    }
}
