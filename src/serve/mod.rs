//! The gate as an HTTP/1.1 server of registry requests, as the mirror and inspected tunnels share it:
//! bodies that are recorded while they pass, refusals in the form of the OCI distribution spec, and
//! a stream that gives up on a client that takes nothing.

mod body;
mod delivery;
mod guarded;
mod head;
mod http;
mod refuse;

pub use body::{ResponseBody, Streamed};
pub use delivery::Delivery;
pub use guarded::{Guarded, StallTerms};
pub use head::{has_body, well_formed};
pub use http::{end_of, http1};
pub use refuse::{Refused, pong};
