//! The TLS side of the gate: records, the ClientHello, the ServerHello, and the guard.
//!
//! Pure: the input is bytes and facts, the output is verdicts. No sockets, clocks, files, keys or
//! decryption; the caller handles timeouts. Our own parser validates the ClientHello more strictly
//! than any peer, and rustls then checks it again.
//!
//! # Call sequence
//!
//! ```text
//! HelloReader::feed   until Complete(Hello); compare Hello.facts.server_name() with the policy
//! forward Hello.raw   to the server
//! Guard::new          with Hello.facts: client() and server() with what each side sends,
//!                     Output with what may pass on, until onward() is Some
//! Onward::Free        both directions may be spliced
//! Onward::Records     the download may be spliced; the upload's record headers are asked for life
//! ```
//!
//! # What is rejected although some clients send it
//!
//! - Encrypted ClientHello in any form, with the GREASE variant that Chrome and Firefox send: it
//!   is indistinguishable from a real one. Container clients send neither.
//! - Early data, because it would be forwarded before the server's reply.
//! - Any bytes between a ClientHello and the server's reply, because no client sends any without
//!   early data.

mod alert;
mod client;
mod cross_check;
mod fault;
mod guard;
mod reader;
mod reassembler;
mod record;
mod server;
mod upload;

pub use alert::{ACCESS_DENIED, INTERNAL_ERROR};
pub use client::{ClientHello, Hello, HelloReader, HelloStep, MOST_EXTENSIONS};
pub use fault::{Cut, HelloFault, RecordFault, ReplyFault, UploadFault};
pub use guard::{Guard, Onward, Output};
pub use reassembler::{LARGEST_MESSAGE, LARGEST_RAW};
pub use record::{HEADER, RecordWatch};
#[cfg(test)]
mod tests;
