//! Rejects a request: records it first, then answers with an error of the OCI distribution spec.

use bytes::Bytes;
use hyper::ext::ReasonPhrase;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use super::body::ResponseBody;
use crate::account::OpenRequest;
use crate::listen::http::answer::{RefusalAnswer, status_of};
use crate::oci::{ErrorCode, error_body};
use crate::policy::{Cause, Reason, Stop};

/// What clients know a registry by.
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const VERSION: &str = "registry/2.0";

/// A request that gets no answer of the registry.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub stop: Stop,
    /// What beside it.
    pub detail: Option<String>,
    /// What the message begins with: a repository, a registry.
    pub subject: String,
}

impl<T: Into<Stop>> From<T> for Refused {
    fn from(stop: T) -> Self {
        Self { stop: stop.into(), detail: None, subject: "the request".to_owned() }
    }
}

impl Refused {
    /// With what the message begins with.
    pub fn of(self, subject: &str) -> Self {
        Self { subject: subject.to_owned(), ..self }
    }

    /// Writes the account, and answers.
    pub fn answer(self, account: &mut OpenRequest) -> Response<ResponseBody> {
        let status = status(&self.stop);
        account.status = status.as_u16();
        let id = account.close(&Err(self.stop.clone()));
        let id = id.map(|id| id.to_string()).unwrap_or_default();
        let refusal = RefusalAnswer { stop: &self.stop, host: Some(&self.subject), id: &id };
        let message = refusal.message(self.detail.as_deref());
        let text = error_body(code(status), &message);
        let mut response = Response::new(ResponseBody::whole(Bytes::from(text)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(API_VERSION, HeaderValue::from_static(VERSION));
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Basic realm=\"pullgate\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        // An answer to HEAD has no body, and Go's clients print the phrase.
        if let Ok(phrase) = ReasonPhrase::try_from(refusal.phrase().into_bytes()) {
            response.extensions_mut().insert(phrase);
        }
        response
    }
}

/// The answer to `/v2/`.
pub fn pong() -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::whole(Bytes::from_static(b"{}")));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(API_VERSION, HeaderValue::from_static(VERSION));
    response
}

fn status(stop: &Stop) -> StatusCode {
    match stop {
        Stop::Denied(denial) if denial.reason == Reason::CredentialsRequired => {
            StatusCode::UNAUTHORIZED
        }
        Stop::Denied(denial) if denial.reason == Reason::HostMismatch => {
            StatusCode::MISDIRECTED_REQUEST
        }
        Stop::Failed(failure) if failure.cause == Cause::IdleTimeout => StatusCode::GATEWAY_TIMEOUT,
        _ => status_of(stop),
    }
}

fn code(status: StatusCode) -> ErrorCode {
    match status {
        StatusCode::UNAUTHORIZED => ErrorCode::Unauthorized,
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::BAD_REQUEST => ErrorCode::Unsupported,
        StatusCode::TOO_MANY_REQUESTS => ErrorCode::TooManyRequests,
        status if status.is_server_error() => ErrorCode::Unavailable,
        _ => ErrorCode::Denied,
    }
}
