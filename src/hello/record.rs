//! TLS records: their headers, one record collected whole, and the watch over a TLS 1.2 upload.
//! What stands in a record is others' business.

use super::fault::{RecordFault, UploadFault};

/// The bytes of a record's header: type, version, length (RFC 8446 §5.1).
pub const HEADER: usize = 5;

/// The content type of a handshake record (RFC 8446 §5.1).
pub(super) const HANDSHAKE: u8 = 22;

/// The most that a record in the clear may carry (RFC 8446 §5.1, RFC 5246 §6.2.1).
pub(super) const LARGEST_CLEAR: usize = 1 << 14;

/// The most that an encrypted record of TLS 1.2 may carry (RFC 5246 §6.2.3).
const LARGEST_CIPHERTEXT: usize = LARGEST_CLEAR + 2048;

/// What a record carries (RFC 8446 §5.1). Heartbeats (24) and what else is registered are unknown
/// here, and thus denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    ChangeCipherSpec,
    Alert,
    Handshake,
    ApplicationData,
}

impl Kind {
    /// The kind that a record's first byte names.
    pub(super) fn of(byte: u8) -> Option<Self> {
        match byte {
            20 => Some(Self::ChangeCipherSpec),
            21 => Some(Self::Alert),
            HANDSHAKE => Some(Self::Handshake),
            23 => Some(Self::ApplicationData),
            _ => None,
        }
    }
}

/// A header that was found right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// Bytes of payload, 1 or more.
    pub(super) length: usize,
}

impl Header {
    /// Judges as much of a header as has come, each byte as early as it can be judged, so that the
    /// verdict is the same however the bytes were cut. `None` while it is not whole.
    pub(super) fn judge(begun: &[u8], largest: usize) -> Result<Option<Self>, RecordFault> {
        // RFC 8446 §5.1: 0x0303, or 0x0301 on what follows an initial ClientHello.
        let (kind_and_major, _) = begun.split_at(begun.len().min(2));
        Self::judge_any_version(kind_and_major, largest)?;
        match begun.get(2) {
            None | Some(1..=3) => Self::judge_any_version(begun, largest),
            Some(0) => Err(RecordFault::Ssl3),
            Some(&minor) => Err(RecordFault::Minor(minor)),
        }
    }

    /// Judges the header of a ClientHello's record: servers must accept any minor version there
    /// (RFC 5246 E.1), and must ignore it altogether (RFC 8446 §5.1).
    pub(super) fn judge_any_version(
        begun: &[u8],
        largest: usize,
    ) -> Result<Option<Self>, RecordFault> {
        let Some(&first) = begun.first() else { return Ok(None) };
        let kind = Kind::of(first).ok_or(RecordFault::Kind(first))?;
        if let Some(&major) = begun.get(1)
            && major != 3
        {
            return Err(RecordFault::Major(major));
        }
        let Some(&[.., high, low]) = begun.first_chunk::<HEADER>() else { return Ok(None) };
        let length = u16::from_be_bytes([high, low]);
        if length == 0 {
            return Err(RecordFault::Empty);
        }
        if usize::from(length) > largest {
            return Err(RecordFault::TooLong(length));
        }
        Ok(Some(Self { kind, length: usize::from(length) }))
    }
}

/// Moves bytes from `input` to `held` until that is one whole record, whose header is then given.
/// Never holds more than a header and `largest` bytes.
pub(super) fn collect(
    held: &mut Vec<u8>,
    input: &mut &[u8],
    largest: usize,
) -> Result<Option<Header>, RecordFault> {
    fill(held, input, HEADER);
    let Some(header) = Header::judge(held, largest)? else { return Ok(None) };
    let whole = HEADER + header.length;
    fill(held, input, whole);
    Ok((held.len() == whole).then_some(header))
}

/// Moves bytes from `input` to `held` until that has `wanted` of them.
pub(super) fn fill(held: &mut Vec<u8>, input: &mut &[u8], wanted: usize) {
    let missing = wanted.saturating_sub(held.len()).min(input.len());
    let (taken, rest) = input.split_at(missing);
    held.extend_from_slice(taken);
    *input = rest;
}

/// The watch over a TLS 1.2 upload after the client's Finished: application data and alerts pass,
/// and a record of another type is another handshake. It sees the headers only, so that the
/// payloads may be spliced.
///
/// The caller repeats: move [`payload_left`](Self::payload_left) bytes (each time some have gone,
/// [`moved`](Self::moved)); when none are left, read the five bytes of a header, ask
/// [`header`](Self::header), and on `Ok` send these five on. It may begin in the midst of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordWatch {
    left: usize,
}

impl RecordWatch {
    pub(crate) fn at_boundary() -> Self {
        Self { left: 0 }
    }

    /// How many bytes may pass before the next header is due.
    #[must_use]
    pub fn payload_left(&self) -> usize {
        self.left
    }

    /// So many bytes of payload have passed.
    pub fn moved(&mut self, count: usize) {
        self.left = self.left.saturating_sub(count);
    }

    /// Judges the next record's header; how many bytes of payload may pass behind it.
    ///
    /// # Errors
    /// What is wrong with it. The header must not be sent on, and the tunnel must end. The same
    /// where payload is still left, which means that caller and watch are out of step.
    pub fn header(&mut self, header: [u8; HEADER]) -> Result<usize, UploadFault> {
        if self.left > 0 {
            return Err(UploadFault::OutOfStep);
        }
        let Some(judged) = Header::judge(&header, LARGEST_CIPHERTEXT)? else {
            return Err(UploadFault::OutOfStep);
        };
        match judged.kind {
            Kind::ApplicationData | Kind::Alert => {}
            Kind::Handshake | Kind::ChangeCipherSpec => return Err(UploadFault::Renegotiation),
        }
        self.left = judged.length;
        Ok(judged.length)
    }
}
