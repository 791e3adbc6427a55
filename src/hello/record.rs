//! TLS records: their headers, reading one whole record, and the watch over a TLS 1.2 upload. Other
//! modules validate the payload.

use super::fault::{RecordFault, UploadFault};

/// Length of a record header: type, version, length (RFC 8446 §5.1).
pub const HEADER: usize = 5;

/// The content type of a handshake record (RFC 8446 §5.1).
pub(super) const HANDSHAKE: u8 = 22;

/// Maximum payload of an unencrypted record, in bytes (RFC 8446 §5.1, RFC 5246 §6.2.1).
pub(super) const LARGEST_CLEAR: usize = 1 << 14;

/// Maximum payload of an encrypted TLS 1.2 record, in bytes (RFC 5246 §6.2.3).
const LARGEST_CIPHERTEXT: usize = LARGEST_CLEAR + 2048;

/// The content type of a record (RFC 8446 §5.1). Heartbeats (24) and other registered types are
/// unknown here, and so denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ContentType {
    ChangeCipherSpec,
    Alert,
    Handshake,
    ApplicationData,
}

impl ContentType {
    /// Returns the content type for the first byte of a record.
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

/// A valid header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: ContentType,
    /// Length of the payload in bytes, at least 1.
    pub(super) length: usize,
}

impl Header {
    /// Validates the available bytes of a header. Checks each byte as early as possible, so that
    /// the result does not depend on the chunks. Returns `None` while the header is incomplete.
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
        let kind = ContentType::of(first).ok_or(RecordFault::Kind(first))?;
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

/// Moves bytes from `input` to `held` until it is one whole record, and returns its header. Holds
/// at most a header and `largest` bytes.
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

/// Moves bytes from `input` to `held` until it has `wanted` bytes.
pub(super) fn fill(held: &mut Vec<u8>, input: &mut &[u8], wanted: usize) {
    let missing = wanted.saturating_sub(held.len()).min(input.len());
    let (taken, rest) = input.split_at(missing);
    held.extend_from_slice(taken);
    *input = rest;
}

/// Watches a TLS 1.2 upload after the client's Finished. Application data and alerts are accepted;
/// a record of another type is a renegotiation. Only headers are inspected, so payloads can be
/// spliced.
///
/// The caller repeats: forward up to [`payload_left`](Self::payload_left) bytes, reporting each
/// part with [`moved`](Self::moved). When none are left, read a header of five bytes, call
/// [`header`](Self::header) and, on `Ok`, forward the header. The watch can start inside a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordWatch {
    left: usize,
}

impl RecordWatch {
    pub(crate) fn at_boundary() -> Self {
        Self { left: 0 }
    }

    /// Returns the number of payload bytes before the next header.
    #[must_use]
    pub fn payload_left(&self) -> usize {
        self.left
    }

    /// Records that `count` payload bytes were forwarded.
    pub fn moved(&mut self, count: usize) {
        self.left = self.left.saturating_sub(count);
    }

    /// Validates the next record header. Returns the length of its payload, in bytes.
    ///
    /// # Errors
    /// An invalid header, which must not be forwarded: the tunnel must end. The same error if
    /// payload is left, because caller and watch disagree then.
    pub fn header(&mut self, header: [u8; HEADER]) -> Result<usize, UploadFault> {
        if self.left > 0 {
            return Err(UploadFault::OutOfStep);
        }
        let Some(judged) = Header::judge(&header, LARGEST_CIPHERTEXT)? else {
            return Err(UploadFault::OutOfStep);
        };
        match judged.kind {
            ContentType::ApplicationData | ContentType::Alert => {}
            ContentType::Handshake | ContentType::ChangeCipherSpec => {
                return Err(UploadFault::Renegotiation);
            }
        }
        self.left = judged.length;
        Ok(judged.length)
    }
}
