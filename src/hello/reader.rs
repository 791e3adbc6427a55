//! A cursor over bytes that others wrote: every step may fail, and none panics. Beside it, what has
//! been seen on the way.

/// What is left to read.
#[derive(Clone, Copy)]
pub(super) struct Walk<'a>(&'a [u8]);

impl<'a> Walk<'a> {
    pub(super) fn over(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether every byte has been read.
    pub(super) fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.0.len()
    }

    /// The next `count` bytes.
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

    /// Two bytes, the high one first, as everywhere in TLS.
    pub(super) fn short(&mut self) -> Option<u16> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*first))
    }

    /// A vector behind one byte of length.
    pub(super) fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = self.byte()?;
        self.take(usize::from(length))
    }

    /// A vector behind two bytes of length.
    pub(super) fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.short()?;
        self.take(usize::from(length))
    }
}

/// How many extension types a hello has at most, in general: browsers send 18.
const FEW: usize = 32;

/// The extension types that have been seen: a few are looked through. Where there are more, they are
/// marked among all 65,536, so that each costs one step however many there are.
pub(super) struct Seen {
    few: [u16; FEW],
    count: usize,
    marks: Option<Box<[u64; 1024]>>,
}

impl Seen {
    pub(super) fn none() -> Self {
        Self { few: [0; FEW], count: 0, marks: None }
    }

    /// Notes one; whether it had not been seen before.
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

/// Marks a type; whether it had no mark.
fn mark(marks: &mut [u64; 1024], kind: u16) -> bool {
    let bit = 1_u64 << (kind % 64);
    // The index is at most 65535 / 64 = 1023; `None` cannot be, and would deny.
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
            let (mut seen, mut set) = (Seen::none(), HashSet::new());
            for kind in kinds {
                prop_assert_eq!(seen.is_new(kind), set.insert(kind));
            }
        }
    }
}
