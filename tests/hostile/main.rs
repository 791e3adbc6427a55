//! Sends the tables of hostile and legal bytes to a running gate: each sequence whole, byte by byte
//! and split at random. Queries to DNS and connections to the upstream are counted on the other
//! side.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    missing_docs,
    reason = "a test fails by panicking; clippy's exception for tests covers #[test] functions only"
)]

#[path = "../cases/mod.rs"]
mod cases;
mod clients;
#[path = "../../src/dial/tests/server.rs"]
#[allow(dead_code, reason = "it can do more than is needed here")]
mod dns;
mod exhaustion;
mod fault;
mod flows;
mod hellos;
mod requests;
mod site;

#[test]
fn the_tables_hold_more_than_250_sequences() {
    let hellos = cases::hellos::legal().len() + cases::hellos::hostile().len();
    let flows = cases::flows::passing().len() + cases::flows::offending().len();
    let heads = cases::heads::heads().len() + requests::DENIED.len();
    println!("{heads} requests, {hellos} hellos, {flows} two-way flows");
    assert!(heads + hellos + flows >= 250);
}
