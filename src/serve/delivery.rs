//! What a connection has delivered to its client, as its stream, its bodies and its account share it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::policy::{Cause, Failure, Side, Stop};

/// What a connection has delivered to its client.
#[derive(Debug, Default)]
pub struct Delivery {
    /// Bytes of bodies.
    moved: AtomicU64,
    /// Kernel memory that the client's socket holds while the client does not read, in bytes.
    held: AtomicU64,
    ended_by: OnceLock<Cause>,
}

impl Delivery {
    /// Counts bytes of a body.
    pub fn add(&self, bytes: u64) {
        self.moved.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns the bytes of all bodies.
    #[must_use]
    pub fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Returns the kernel memory that the client's socket holds, in bytes; zero while the client reads.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Returns why the connection was given up, if the client did not read.
    #[must_use]
    pub fn stop(&self) -> Option<Stop> {
        let cause = *self.ended_by.get()?;
        Some(Failure { side: Side::Client, cause }.into())
    }

    pub(super) fn note_held(&self, bytes: u64) {
        self.held.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn end(&self, cause: Cause) {
        // The first cause holds.
        let _ = self.ended_by.set(cause);
    }
}
