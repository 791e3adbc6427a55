//! pullgate: an egress-filtering forward proxy for container registries.
//!
//! # The house
//!
//! Arrows run down only; modules on one floor do not import one another; `tests/tidy.rs` holds it.
//!
//! ```text
//! main.rs
//! cli/        one file per command
//! app/        bind, accept, workers, shutdown, systemd, sandbox, descriptors, status
//! tools/      demo, doctor, nftables
//! session/    the story of one connection
//! admin reload
//! dns/        the DNS server for the clients of a gateway
//! listen/     how clients come in: PROXY header, TLS, HTTP head, transparent destination
//! relay/      two directions, half-close, idle limit, byte counts, revocation; splice
//! limits/     sessions and their rate, pending connections, passwords, the bytes of tunnels
//! dial/       resolve, connect with a staggered second try
//! account/    Record, written once at the end: one audit line, and the counters
//! config/     files -> Settings and PolicySet; what the az command prints         pure
//! hello/      TLS records, ClientHello, ServerHello; the guard                    pure
//! policy/     names, targets, clouds, registries, addresses, reasons; the judge   pure
//! oci/        registry requests and responses of the OCI distribution spec        pure
//! ```
//!
//! # Invariants, above all absences
//!
//! - `oci`, `policy`, `hello` and `config` see no socket, no clock and no file.
//! - There is no unsafe code, and no global state.
//! - Nothing is dialled without a [`policy::Permit`], which only `policy` makes, and which carries
//!   the addresses that were judged: what is checked is what is dialled. There is no second look-up.
//! - Nothing is relayed without a [`policy::Cleared`].
//! - Only an allowed name is ever looked up.
//! - No host name, and nothing else that a client chooses, stands in a metric label.
//! - Logic touches no counter and writes no log line about a session; it fills one `Record`.
//! - Nothing fails open: unknown, late, malformed and absent are each a [`policy::Reason`].
#![forbid(unsafe_code)]
// `println!` panics when the reader of a pipe has gone: commands print through `cli::print`.
#![warn(clippy::print_stdout)]

// The tests share tables with those outside the crate, which name it so.
#[cfg(test)]
extern crate self as pullgate;
#[cfg(test)]
#[path = "../tests/cases/mod.rs"]
mod cases;

pub mod account;
pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod dial;
pub mod dns;
#[cfg(feature = "mirror")]
pub mod forward;
pub mod hello;
pub mod limits;
pub mod listen;
#[cfg(feature = "mirror")]
pub mod mirror;
pub mod oci;
pub mod policy;
pub mod relay;
pub mod reload;
pub mod session;
pub mod tools;
