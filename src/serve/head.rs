//! Judges the head of a registry request, apart from its method and its target.

use hyper::header::{self, HeaderMap};
use hyper::{Request, Version};

use crate::oci::RequestFault;
use crate::policy::{Denial, Reason, denial_of_request};

/// Judges the form of a request, and returns its target as it was received.
///
/// # Errors
/// `request-malformed`.
pub fn well_formed<B>(request: &Request<B>) -> Result<&str, Denial> {
    let malformed = |remedy: &str| Denial::with_remedy(Reason::RequestMalformed, remedy);
    let (uri, headers) = (request.uri(), request.headers());
    if uri.scheme().is_some() || uri.authority().is_some() {
        return Err(denial_of_request(RequestFault::Form));
    }
    let hosts = headers.get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return Err(malformed("the Host header is missing, or there is more than one"));
    }
    let reads = matches!(request.method(), &hyper::Method::GET | &hyper::Method::HEAD);
    if reads && has_body(headers) {
        return Err(malformed("a request that reads has a body"));
    }
    if headers.get_all(header::AUTHORIZATION).iter().count() > 1 {
        return Err(malformed("there is more than one Authorization header"));
    }
    Ok(uri.path_and_query().map_or("", |target| target.as_str()))
}

/// Whether headers announce a body.
#[must_use]
pub fn has_body(headers: &HeaderMap) -> bool {
    let mut length = headers.get_all(header::CONTENT_LENGTH).iter();
    let has_length = length.any(|value| value.as_bytes() != b"0");
    has_length || headers.contains_key(header::TRANSFER_ENCODING)
}
