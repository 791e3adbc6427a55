//! Replaces `live` in builds without the status page (feature `admin-page`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Response, StatusCode};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use super::source::Admin;

/// Maximum duration of a stream. None exists in this build.
pub(super) const LONGEST: Duration = Duration::from_secs(600);

/// Server-sent events: none.
pub(super) type Events = Empty<Bytes>;

/// The answer of `/explain`: empty.
#[derive(Debug, Serialize)]
pub(super) struct PageExplanation {}

/// Returns `None`: the page has no files.
pub(super) fn asset(_: &str) -> Option<(&'static str, &'static str)> {
    None
}

/// Adds no headers, because the page does not exist.
pub(super) fn fence<B>(_: &mut Response<B>) {}

/// Returns 404 instead of a stream.
pub(super) fn events(_: Arc<Admin>, _: OwnedSemaphorePermit) -> Response<Events> {
    let mut response = Response::new(Empty::new());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

/// Writes no history, because no page shows it.
pub(super) async fn remember(_: Arc<Admin>) {
    std::future::pending::<()>().await;
}

impl Admin {
    /// Returns an empty explanation. Use `pullgate explain` instead.
    pub(super) fn explain(&self, _: &str) -> PageExplanation {
        PageExplanation {}
    }
}
