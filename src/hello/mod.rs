//! The TLS side of the gate: records, the ClientHello, the ServerHello, and the guard.
//!
//! Pure: bytes and facts go in, verdicts come out. No socket, clock or file is seen here, nothing
//! is decrypted, and no key is known; the deadlines are the caller's. The ClientHello is walked by
//! rules of our own, stricter than any peer's, and rustls is then asked for a second opinion.
//!
//! # The way through
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
//! # What is refused although some client sends it
//!
//! Encrypted ClientHello in any form, which includes the decoy (GREASE) that Chrome and Firefox
//! send: nobody outside can tell it from a real one. Container clients send neither. Early data,
//! which would pass before the server's reply. Anything at all behind a ClientHello before the
//! server's reply: without early data no client has anything to say there.

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
pub use client::{ClientHello, Hello, HelloReader, MOST_EXTENSIONS, Step};
pub use fault::{Cut, HelloFault, RecordFault, ReplyFault, UploadFault};
pub use guard::{Guard, Onward, Output};
pub use reassembler::{LARGEST_MESSAGE, LARGEST_RAW};
pub use record::{HEADER, RecordWatch};
#[cfg(test)]
mod tests;
