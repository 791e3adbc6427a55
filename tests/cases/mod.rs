//! Hostile and legal byte sequences as data. The unit tests of the pure modules include this
//! folder, and `tests/hostile` sends them to a gate.
#![allow(dead_code, reason = "each test takes what it needs")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a test fails by panicking; clippy's exception for tests covers #[test] functions only"
)]

pub mod drafts;
pub mod flows;
pub mod heads;
pub mod hellos;
pub mod registry_requests;

/// Splits bytes at positions that `seed` determines.
pub fn cut(mut bytes: &[u8], mut seed: u64) -> Vec<&[u8]> {
    let mut chunks = Vec::new();
    while !bytes.is_empty() {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let most = if seed & (1 << 40) == 0 { 7 } else { 700 };
        let length = (1 + (seed >> 33) as usize % most).min(bytes.len());
        let (chunk, rest) = bytes.split_at(length);
        chunks.push(chunk);
        bytes = rest;
    }
    chunks
}
