//! pullgate: an egress-filtering forward proxy for container registries.
//!
//! `docs/architecture.md` lists the modules, the floors that they are on, and what each is
//! responsible for. It follows one connection through the code.
//!
//! # Invariants
//!
//! - `oci`, `policy`, `hello` and `config` use no socket, clock or file.
//! - There is no unsafe code and no global state.
//! - Dialling requires a [`policy::Permit`], which only `policy` creates. It carries the addresses that
//!   were judged, so what is checked is what is dialled. The name is not resolved again.
//! - Relaying requires a [`policy::Cleared`].
//! - Only allowed names are resolved.
//! - Metric labels contain no host names and no other text from clients.
//! - Sessions change no counter and write no log line; each fills in one `Record`.
//! - Nothing fails open: unknown, late, malformed and missing input has a [`policy::Reason`].
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
#[cfg(feature = "inspect")]
pub mod inspect;
pub mod limits;
pub mod listen;
#[cfg(feature = "mirror")]
pub mod mirror;
pub mod oci;
pub mod policy;
pub mod relay;
pub mod reload;
#[cfg(feature = "mirror")]
pub mod serve;
pub mod session;
pub mod tools;
