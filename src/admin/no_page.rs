//! What stands in for the status page where the gate was built without it (`admin-page`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Response, StatusCode};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use super::Admin;

/// How long one stream lasts. None is begun.
pub(super) const LONGEST: Duration = Duration::from_secs(600);

/// Server-sent events: none.
pub(super) type Events = Empty<Bytes>;

/// What the box is told: nothing.
#[derive(Debug, Serialize)]
pub(super) struct Explanation {}

/// A file of the page: there is none.
pub(super) fn asset(_: &str) -> Option<(&'static str, &'static str)> {
    None
}

/// Forbids a browser whatever the page does not need: there is no page.
pub(super) fn fence<B>(_: &mut Response<B>) {}

/// In place of a stream: not found.
pub(super) fn events(_: Arc<Admin>, _: OwnedSemaphorePermit) -> Response<Events> {
    let mut response = Response::new(Empty::new());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

impl Admin {
    /// In place of an explanation: nothing. `pullgate explain` explains.
    pub(super) fn explain(&self, _: &str) -> Explanation {
        Explanation {}
    }
}
