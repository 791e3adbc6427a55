//! The byte counters of one tunnel, alive while it runs, and what bounds them.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::Bounds;

/// What one tunnel has delivered so far, each way. Shared with whoever watches it.
#[derive(Debug, Default)]
pub struct Traffic {
    /// From the client to the upstream.
    pub up: Tally,
    /// From the upstream to the client.
    pub down: Tally,
    /// How much may go up.
    pub bounds: Bounds,
}

/// A direction of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the client to the upstream.
    Up,
    /// From the upstream to the client.
    Down,
}

/// What one direction has delivered so far.
#[derive(Debug, Default)]
pub struct Tally {
    splice: AtomicU64,
    copy: AtomicU64,
}

/// The bytes of one direction, by the path that they took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Moved by splice(2), within the kernel.
    pub splice: u64,
    /// Moved through our memory.
    pub copy: u64,
}

impl Count {
    /// By either path.
    #[must_use]
    pub fn total(self) -> u64 {
        self.splice + self.copy
    }
}

impl Traffic {
    /// Counters at zero, within these bounds.
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

    /// By either path, both ways.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.up.count().total() + self.down.count().total()
    }
}

impl Tally {
    /// The bytes up to now.
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
