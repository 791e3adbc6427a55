//! Reassembles the first handshake message of a side from its records, up to its declared length.
//! Other modules validate the message.

use std::borrow::Cow;

use super::fault::JoinFault;
use super::record::{ContentType, HANDSHAKE, HEADER, Header, LARGEST_CLEAR};

/// The maximum length of a handshake message, in bytes, with its header of four bytes.
pub const LARGEST_MESSAGE: usize = 64 * 1024;

/// The record version for a ClientHello whose own is not a TLS version (RFC 8446 §5.1).
const HELLO_VERSION: [u8; 2] = [3, 1];

/// The maximum total size of the records of such a message, in bytes. A message of 21 KiB, more
/// than any client sends, can use records of one byte each; a message of 64 KiB can use records of
/// five bytes or more.
pub const LARGEST_RAW: usize = 2 * LARGEST_MESSAGE;

/// Length of a handshake message header: type and length (RFC 8446 §4).
pub(super) const MESSAGE_HEADER: usize = 4;

/// `client_hello` (RFC 8446 §4).
pub(super) const CLIENT_HELLO: u8 = 1;
/// `server_hello` (RFC 8446 §4).
pub(super) const SERVER_HELLO: u8 = 2;

/// Reads one message from any records and chunks.
#[derive(Debug, Clone)]
pub(super) struct MessageReader {
    /// The only accepted message type.
    wanted_type: u8,
    /// Maximum length of the message, in bytes, with its header.
    largest: usize,
    /// The records as received. For a ClientHello, which gets new records, the header of the first
    /// record and all payload.
    raw: Vec<u8>,
    /// Number of bytes of records that were read.
    received: usize,
    /// Number of bytes of the record header that were read.
    header: usize,
    /// Number of payload bytes of the record that are missing.
    record_left: usize,
    records: usize,
    /// The part of the message header that was read.
    begun: [u8; MESSAGE_HEADER],
    /// Number of bytes of the message that were read.
    seen: usize,
    /// Declared length of the message with its header; unknown until the header is complete.
    declared: Option<usize>,
}

impl MessageReader {
    /// A reader of one message of this type, of at most `largest` bytes with its header.
    pub(super) fn new(wanted_type: u8, largest: usize) -> Self {
        Self {
            wanted_type,
            largest: largest.min(LARGEST_MESSAGE),
            raw: Vec::new(),
            received: 0,
            header: 0,
            record_left: 0,
            records: 0,
            begun: [0; MESSAGE_HEADER],
            seen: 0,
            declared: None,
        }
    }

    /// Returns whether no byte was read.
    pub(super) fn is_fresh(&self) -> bool {
        self.raw.is_empty()
    }

    /// Returns the size of its buffer, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.raw.capacity()
    }

    /// Returns whether the first record is incomplete.
    pub(super) fn is_in_first_record(&self) -> bool {
        self.records == 0
    }

    /// Returns the number of bytes after the message in the last record.
    pub(super) fn record_left(&self) -> usize {
        self.record_left
    }

    /// Maximum length of the message, in bytes, with its header.
    pub(super) fn largest(&self) -> usize {
        self.largest
    }

    /// Returns the message in as few records as possible, with a TLS version in their headers: a router
    /// behind the gate may read only the first record, or reject other versions. Record headers are not
    /// part of the handshake transcript (RFC 8446 §4.4.1).
    pub(super) fn into_fewest_records(self) -> Vec<u8> {
        let version = match self.raw.get(1..3) {
            Some(&[3, minor @ 1..=3]) => [3, minor],
            _ => HELLO_VERSION,
        };
        let header = |payload: usize| {
            // At most 2^14, so the conversion cannot fail.
            let [high, low] = u16::try_from(payload).unwrap_or(u16::MAX).to_be_bytes();
            let [major, minor] = version;
            [HANDSHAKE, major, minor, high, low]
        };
        if self.seen <= LARGEST_CLEAR {
            let mut raw = self.raw;
            if let Some(first) = raw.first_chunk_mut::<HEADER>() {
                *first = header(self.seen);
            }
            return raw;
        }
        let mut framed = Vec::with_capacity(self.seen + 4 * HEADER);
        for payload in self.message().chunks(LARGEST_CLEAR) {
            framed.extend_from_slice(&header(payload.len()));
            framed.extend_from_slice(payload);
        }
        framed
    }

    /// Returns the records as received, up to the last byte of the message.
    pub(super) fn into_raw(self) -> Vec<u8> {
        self.raw
    }

    /// Consumes bytes up to the end of the message. Returns whether the message is complete.
    pub(super) fn feed(&mut self, input: &mut &[u8]) -> Result<bool, JoinFault> {
        self.raw.reserve(input.len().min(LARGEST_CLEAR));
        while self.declared != Some(self.seen) {
            if input.is_empty() {
                return Ok(false);
            }
            if self.record_left == 0 {
                self.read_header(input)?;
            } else {
                self.read_payload(input)?;
            }
        }
        Ok(true)
    }

    /// Returns the message with its header. Copies it only if it spans several records.
    pub(super) fn message(&self) -> Cow<'_, [u8]> {
        if self.records == 1 || self.wanted_type == CLIENT_HELLO {
            return Cow::Borrowed(self.raw.get(HEADER..).unwrap_or_default());
        }
        let mut joined = Vec::with_capacity(self.seen);
        let mut rest = self.raw.as_slice();
        while let Some((&[_, _, _, high, low], behind)) = rest.split_first_chunk::<HEADER>() {
            let length = usize::from(u16::from_be_bytes([high, low])).min(behind.len());
            let (payload, next) = behind.split_at(length);
            joined.extend_from_slice(payload);
            rest = next;
        }
        Cow::Owned(joined)
    }

    fn read_header(&mut self, input: &mut &[u8]) -> Result<(), JoinFault> {
        self.header += self.take(input, HEADER - self.header).len();
        let begun = self.raw.get(self.raw.len() - self.header..).unwrap_or_default();
        // Checked before the rest of the header, so that the error does not depend on the chunks.
        if begun.first().is_some_and(|&byte| ContentType::of(byte) != Some(ContentType::Handshake))
        {
            return Err(JoinFault::OtherRecord);
        }
        let header = match self.wanted_type {
            CLIENT_HELLO => Header::judge_any_version(begun, LARGEST_CLEAR)?,
            _ => Header::judge(begun, LARGEST_CLEAR)?,
        };
        let Some(header) = header else { return Ok(()) };
        if self.received + header.length > LARGEST_RAW {
            return Err(JoinFault::TooManyRecords);
        }
        self.header = 0;
        if self.wanted_type == CLIENT_HELLO && self.records > 0 {
            self.raw.truncate(self.raw.len() - HEADER);
        }
        self.record_left = header.length;
        self.records += 1;
        Ok(())
    }

    fn read_payload(&mut self, input: &mut &[u8]) -> Result<(), JoinFault> {
        let end = self.declared.unwrap_or(MESSAGE_HEADER);
        let at = self.seen;
        let wanted = (end - at).min(self.record_left);
        let taken = self.take(input, wanted);
        let count = taken.len();
        self.seen += count;
        self.record_left -= count;
        if self.declared.is_some() {
            return Ok(());
        }
        if let Some(slot) = self.begun.get_mut(at..at + count) {
            slot.copy_from_slice(taken);
        }
        let [kind, high, middle, low] = self.begun;
        if kind != self.wanted_type {
            return Err(JoinFault::OtherMessage(kind));
        }
        if self.seen == MESSAGE_HEADER {
            let length = u32::from_be_bytes([0, high, middle, low]);
            // 24 bits always fit.
            let whole =
                usize::try_from(length).unwrap_or(usize::MAX).saturating_add(MESSAGE_HEADER);
            if whole > self.largest {
                return Err(JoinFault::TooLarge(length));
            }
            self.declared = Some(whole);
        }
        Ok(())
    }

    /// Moves at most `count` bytes and returns them.
    fn take<'a>(&mut self, input: &mut &'a [u8], count: usize) -> &'a [u8] {
        let (taken, rest) = input.split_at(count.min(input.len()));
        self.raw.extend_from_slice(taken);
        self.received += taken.len();
        *input = rest;
        taken
    }
}
