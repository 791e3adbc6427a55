//! Replays the fuzzers' corpora against their oracles, on stable.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test fails by panicking; clippy's exception for tests covers #[test] functions only"
)]

mod oracles;

use std::fs;
use std::path::Path;

fn replay(target: &str, oracle: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut replayed = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        oracle(&fs::read(&path).unwrap());
        replayed += 1;
    }
    assert!(replayed > 0, "{} is empty", folder.display());
}

#[test]
fn heads() {
    replay("head", oracles::head);
}

#[test]
fn hellos() {
    replay("hello", oracles::hello);
}

#[test]
fn flows() {
    replay("guard", oracles::guard);
}

#[test]
fn policy_files() {
    replay("policy_file", oracles::policy_file);
}

#[test]
fn az_output() {
    replay("az_json", oracles::az_json);
}

#[test]
fn registry_requests() {
    replay("registry_request", oracles::registry_request);
}
