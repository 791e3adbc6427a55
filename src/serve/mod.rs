//! The gate as an HTTP/1.1 server of registry requests, as the mirror and inspected tunnels share it:
//! bodies that are recorded while they pass, refusals in the form of the OCI distribution spec, and
//! a stream that gives up on a client that takes nothing.

mod body;
mod guarded;
mod refuse;

pub use body::{ResponseBody, Streamed};
pub use guarded::Guarded;
pub use refuse::{Refused, pong};
