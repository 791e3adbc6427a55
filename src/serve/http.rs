//! HTTP/1.1 with a client: its limits, and what its end means.

use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;

use super::delivery::Delivery;
use crate::policy::{Cause, Ending, Failure, Limits, Reason, Side, Stop};

/// The most bytes and lines of a request's head. Tokens are up to 16 KiB.
const LARGEST_HEAD: usize = 32 * 1024;
const MOST_HEADERS: usize = 64;

/// Bytes of answers that wait for the client to take them, beyond which nothing is added.
const LARGEST_BUFFER: usize = 64 * 1024;

/// Returns a server within these limits.
pub fn http1(limits: &Limits) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_header_size(LARGEST_HEAD)
        .max_buf_size(LARGEST_BUFFER)
        .max_headers(MOST_HEADERS);
    http
}

/// Returns what the end of HTTP means. `asked`: whether there was a request.
pub fn end_of(
    served: Result<(), hyper::Error>,
    asked: bool,
    delivery: &Delivery,
) -> Result<Ending, Stop> {
    if let Some(stop) = delivery.stop() {
        return Err(stop);
    }
    match served {
        Ok(()) => Ok(Ending::Closed),
        // What ended a body is in its request's line.
        Err(error) if error.is_user() => Ok(Ending::Closed),
        Err(error) if error.is_parse_too_large() => Err(Reason::HeadTooLarge.into()),
        Err(error) if error.is_parse() => Err(Reason::HeadMalformed.into()),
        Err(error) if error.is_timeout() && !asked => Err(Reason::HeadTimeout.into()),
        Err(error) if error.is_timeout() => Ok(Ending::Closed),
        Err(_) => Err(Failure { side: Side::Client, cause: Cause::ClientAborted }.into()),
    }
}
