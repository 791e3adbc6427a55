//! A cursor over untrusted bytes: every read can fail, none panics. Also a set of the extension
//! types already read.

/// The unread bytes.
#[derive(Clone, Copy)]
pub(super) struct Walk<'a>(&'a [u8]);

impl<'a> Walk<'a> {
    pub(super) fn over(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Returns whether every byte was read.
    pub(super) fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the number of unread bytes.
    pub(super) fn left(&self) -> usize {
        self.0.len()
    }

    /// Reads the next `count` bytes.
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// Reads a big-endian 16-bit integer.
    pub(super) fn short(&mut self) -> Option<u16> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*first))
    }

    /// Reads a vector with a length of one byte.
    pub(super) fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = self.byte()?;
        self.take(usize::from(length))
    }

    /// Reads a vector with a length of two bytes.
    pub(super) fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.short()?;
        self.take(usize::from(length))
    }
}

/// Number of extension types that are searched linearly. Browsers send 18.
const FEW: usize = 32;

/// A set of extension types. A few are searched linearly; more are stored in a bitmap of 65,536
/// types, so that each insertion costs the same.
pub(super) struct ExtensionSet {
    few: [u16; FEW],
    count: usize,
    marks: Option<Box<[u64; 1024]>>,
}

impl ExtensionSet {
    pub(super) fn none() -> Self {
        Self { few: [0; FEW], count: 0, marks: None }
    }

    /// Adds a type. Returns whether it is new.
    pub(super) fn is_new(&mut self, kind: u16) -> bool {
        if let Some(marks) = &mut self.marks {
            return mark(marks, kind);
        }
        let few = self.few.get(..self.count).unwrap_or(&self.few);
        if few.contains(&kind) {
            return false;
        }
        if let Some(free) = self.few.get_mut(self.count) {
            *free = kind;
            self.count += 1;
            return true;
        }
        let mut marks = Box::new([0; 1024]);
        for kind in self.few {
            mark(&mut marks, kind);
        }
        mark(self.marks.insert(marks), kind)
    }
}

/// Sets the bit of a type. Returns whether it was clear.
fn mark(marks: &mut [u64; 1024], kind: u16) -> bool {
    let bit = 1_u64 << (kind % 64);
    // The index is at most 65535 / 64 = 1023. `None` is impossible and would deny.
    let Some(word) = marks.get_mut(usize::from(kind / 64)) else { return false };
    let fresh = *word & bit == 0;
    *word |= bit;
    fresh
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_new_was_not_seen_before(
            kinds in prop_oneof![
                proptest::collection::vec(0_u16..60, 0..100),
                proptest::collection::vec(any::<u16>(), 0..100),
            ],
        ) {
            let (mut seen, mut set) = (ExtensionSet::none(), HashSet::new());
            for kind in kinds {
                prop_assert_eq!(seen.is_new(kind), set.insert(kind));
            }
        }
    }
}
