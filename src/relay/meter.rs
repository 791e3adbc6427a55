//! The byte counters of one running tunnel, and its limits.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::limits::Bounds;

/// The bytes that one tunnel has delivered, in each direction. Shared with the account.
#[derive(Debug, Default)]
pub struct Traffic {
    /// From the client to the upstream.
    pub up: Tally,
    /// From the upstream to the client.
    pub down: Tally,
    /// The upload budget and quotas.
    pub bounds: Bounds,
    splice_refused: AtomicBool,
    held: AtomicU64,
}

/// A direction of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the client to the upstream.
    Up,
    /// From the upstream to the client.
    Down,
}

/// The bytes that one direction has delivered.
#[derive(Debug, Default)]
pub struct Tally {
    splice: AtomicU64,
    copy: AtomicU64,
}

/// The bytes of one direction, by path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Moved by splice(2), inside the kernel.
    pub splice: u64,
    /// Copied through memory of this process.
    pub copy: u64,
}

impl Count {
    /// Returns the sum over both paths.
    #[must_use]
    pub fn total(self) -> u64 {
        self.splice + self.copy
    }
}

impl Traffic {
    /// Creates counters at zero, with these limits.
    #[must_use]
    pub fn within(bounds: Bounds) -> Self {
        Self { bounds, ..Self::default() }
    }

    pub(super) fn tally(&self, direction: Direction) -> &Tally {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }

    /// Returns whether the kernel refused splice(2), so that the rest was copied.
    #[must_use]
    pub fn splice_was_refused(&self) -> bool {
        self.splice_refused.load(Ordering::Relaxed)
    }

    pub(super) fn refuse_splice(&self) {
        self.splice_refused.store(true, Ordering::Relaxed);
    }

    /// Returns how many bytes of kernel memory a stalled tunnel holds; zero while it is not stalled.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    pub(super) fn note_held(&self, bytes: u64) {
        self.held.store(bytes, Ordering::Relaxed);
    }

    /// Returns the sum over both paths and directions.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.up.count().total() + self.down.count().total()
    }
}

impl Tally {
    /// Returns the current counts.
    #[must_use]
    pub fn count(&self) -> Count {
        Count {
            splice: self.splice.load(Ordering::Relaxed),
            copy: self.copy.load(Ordering::Relaxed),
        }
    }

    pub(super) fn spliced(&self, bytes: usize) {
        self.splice.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn copied(&self, bytes: usize) {
        self.copy.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
