//! A cursor over bytes that others wrote: every step may fail, and none panics or allocates.

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

/// The 65,536 extension types, to tell which have been seen: 8 KiB of stack, so that each
/// costs one step however many there are.
pub(super) struct Seen([u64; 1024]);

impl Seen {
    pub(super) fn none() -> Self {
        Self([0; 1024])
    }

    /// Marks one; whether it had not been marked before.
    pub(super) fn is_new(&mut self, kind: u16) -> bool {
        let bit = 1_u64 << (kind % 64);
        // The index is at most 65535 / 64 = 1023; `None` cannot be, and would deny.
        let Some(word) = self.0.get_mut(usize::from(kind / 64)) else { return false };
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }
}
