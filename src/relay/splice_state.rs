//! What a spliced direction remembers between two polls: how much it moves at once.

/// Size of the first fill after a pause, in bytes. It needs no query of the free space.
pub(super) const FIRST_FILL: usize = 64 * 1024;

/// Pieces smaller than this are copied, in bytes: copying is cheaper, and a short read shows that
/// the source is dry, which a splice does not.
pub(super) const SMALL: usize = 4 * 1024;

/// What is remembered of the sockets between two polls.
#[derive(Debug)]
pub(super) struct SpliceState {
    pub(super) fill: Fill,
    /// Whether the destination once accepted less than expected.
    pub(super) is_pressed: bool,
}

impl Default for SpliceState {
    fn default() -> Self {
        Self { fill: Fill::Small, is_pressed: false }
    }
}

/// The size of the next fill. It adapts to the flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fill {
    /// Nothing is spliced: the last turn brought only a small piece, or none happened yet.
    Small,
    /// [`FIRST_FILL`].
    First,
    /// Four times the one before, this many times from the first. A pipe may hold less.
    Grown(u8),
}

impl Fill {
    /// Returns the number of bytes.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Small | Self::First => FIRST_FILL,
            Self::Grown(times) => FIRST_FILL << (2 * times),
        }
    }

    /// Returns the next size in a turn whose source has more.
    pub(super) fn grown(self) -> Self {
        match self {
            Self::Small | Self::First => Self::Grown(1),
            Self::Grown(times) => Self::Grown(times + 1),
        }
    }

    /// Returns the next size once a turn has moved `moved` bytes.
    pub(super) fn after_turn(self, moved: u64) -> Self {
        match self {
            Self::Small if moved == 0 => Self::Small,
            _ if (1..SMALL as u64).contains(&moved) => Self::Small,
            _ if moved < FIRST_FILL as u64 => Self::First,
            same => same,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_fill_follows_what_a_turn_has_moved() {
        let (few, some, many) = (1, SMALL as u64, FIRST_FILL as u64);
        let grown = Fill::First.grown();
        assert_eq!((grown.bytes(), grown.grown().bytes()), (4 * FIRST_FILL, 16 * FIRST_FILL));
        for (fill, moved, next) in [
            (Fill::Small, 0, Fill::Small),
            (Fill::First, 0, Fill::First),
            (grown, 0, Fill::First),
            (Fill::First, few, Fill::Small),
            (grown, some - 1, Fill::Small),
            (Fill::First, some, Fill::First),
            (grown, some, Fill::First),
            (grown, many - 1, Fill::First),
            (Fill::First, many, Fill::First),
            (grown, many, grown),
        ] {
            assert_eq!(fill.after_turn(moved), next, "{fill:?} {moved}");
        }
    }
}
