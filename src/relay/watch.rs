//! The watch over a TLS 1.2 upload, fed from a stream: the incomplete header, and the number of
//! payload bytes until the next one. `hello` validates the headers.

use crate::hello::{HEADER, RecordWatch, UploadFault};
use crate::policy::Reason;

/// A [`RecordWatch`] and the bytes of the header that it waits for.
#[derive(Debug)]
pub(super) struct Watch {
    records: RecordWatch,
    header: [u8; HEADER],
    have: usize,
    /// Whether no payload followed the last header yet.
    fresh: bool,
}

impl Watch {
    pub(super) fn new(records: RecordWatch) -> Self {
        Self { records, header: [0; HEADER], have: 0, fresh: false }
    }

    /// Returns the number of payload bytes that can be forwarded; zero when a header is due.
    pub(super) fn passing(&self) -> usize {
        self.records.payload_left()
    }

    /// Returns whether a header was just accepted and its payload follows.
    pub(super) fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Records that `count` payload bytes were forwarded.
    pub(super) fn passed(&mut self, count: usize) {
        self.records.moved(count);
        self.fresh = false;
    }

    /// Returns the number of bytes of an incomplete header.
    pub(super) fn held(&self) -> usize {
        self.have
    }

    /// Returns the number of missing header bytes.
    pub(super) fn missing(&self) -> usize {
        HEADER - self.have
    }

    /// Consumes the next header bytes, at most [`missing`](Self::missing). Returns the header once
    /// it is complete and accepted.
    pub(super) fn header(&mut self, bytes: &[u8]) -> Result<Option<[u8; HEADER]>, Reason> {
        for (slot, byte) in self.header.iter_mut().skip(self.have).zip(bytes) {
            *slot = *byte;
        }
        self.have = (self.have + bytes.len()).min(HEADER);
        if self.have < HEADER {
            return Ok(None);
        }
        self.records.header(self.header).map_err(UploadFault::reason)?;
        self.have = 0;
        self.fresh = true;
        Ok(Some(self.header))
    }
}
