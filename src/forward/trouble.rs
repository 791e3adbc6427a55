//! Why a request has no answer.

use std::net::SocketAddr;
use std::time::Duration;

use crate::policy::{Cause, Failure, Side, Stop};

/// The longest that a registry may take for the head of its answer, and for a body that is read whole.
/// A shorter `idle-timeout-ms` holds here, too.
pub(super) const LONGEST_ANSWER: Duration = Duration::from_secs(60);

/// Why a request has no answer.
#[derive(Debug)]
pub struct Trouble {
    /// For the account.
    pub stop: Stop,
    /// A description for operators, besides the stop.
    pub detail: Option<String>,
    /// Who was dialled, if anybody.
    pub upstream: Option<SocketAddr>,
}

impl<T: Into<Stop>> From<T> for Trouble {
    fn from(stop: T) -> Self {
        Self { stop: stop.into(), detail: None, upstream: None }
    }
}

impl Trouble {
    pub(super) fn failed(cause: Cause, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..Self::from(failure(cause)) }
    }

    pub(super) fn at(self, upstream: Option<SocketAddr>) -> Self {
        Self { upstream, ..self }
    }
}

pub(super) fn failure(cause: Cause) -> Failure {
    Failure { side: Side::Upstream, cause }
}

/// What an error of the HTTP client means.
pub(super) fn broken(error: &hyper::Error) -> Trouble {
    let cause = match error.is_parse() {
        true => Cause::UpstreamMalformed,
        false => Cause::UpstreamAborted,
    };
    Trouble::failed(cause, error.to_string())
}

pub(super) fn late() -> Trouble {
    Trouble::failed(Cause::IdleTimeout, "it did not answer in time")
}
