//! The watch over a TLS 1.2 upload, fed from a stream: the header that is not whole yet, and how
//! much may pass until the next one. The judgement is `hello`'s.

use crate::hello::{HEADER, RecordWatch, UploadFault};
use crate::policy::Reason;

/// A [`RecordWatch`] and the bytes of the header that it waits for.
#[derive(Debug)]
pub(super) struct Watch {
    records: RecordWatch,
    header: [u8; HEADER],
    have: usize,
    /// Whether nothing has passed behind the last header yet.
    fresh: bool,
}

impl Watch {
    pub(super) fn new(records: RecordWatch) -> Self {
        Self { records, header: [0; HEADER], have: 0, fresh: false }
    }

    /// How many bytes of payload may pass now; none when a header is due.
    pub(super) fn passing(&self) -> usize {
        self.records.payload_left()
    }

    /// Whether a header has just been judged, and its payload follows.
    pub(super) fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// So many bytes of payload have passed.
    pub(super) fn passed(&mut self, count: usize) {
        self.records.moved(count);
        self.fresh = false;
    }

    /// How many bytes of a header it holds that is not whole.
    pub(super) fn held(&self) -> usize {
        self.have
    }

    /// How many bytes the header still lacks.
    pub(super) fn missing(&self) -> usize {
        HEADER - self.have
    }

    /// The next bytes of the header, at most [`missing`](Self::missing): the header once it is
    /// whole and may pass.
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
