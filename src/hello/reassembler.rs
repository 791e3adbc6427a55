//! The first handshake message of a side, rejoined from its records, bounded by what it declares.
//! What the message says is judged elsewhere.

use std::borrow::Cow;

use super::fault::JoinFault;
use super::record::{HANDSHAKE, HEADER, Header, Kind, LARGEST_CLEAR};

/// The largest handshake message that can be read, its header of four bytes included.
pub const LARGEST_MESSAGE: usize = 64 * 1024;

/// The version in the header of a ClientHello's record that had none of TLS (RFC 8446 §5.1).
const HELLO_VERSION: [u8; 2] = [3, 1];

/// The most bytes that the records of such a message may have together. A message of 21 KiB, more
/// than any client sends, may thus come in records of one byte each; one of 64 KiB in records of
/// five bytes or more.
pub const LARGEST_RAW: usize = 2 * LARGEST_MESSAGE;

/// The bytes of a handshake message's header: type and length (RFC 8446 §4).
pub(super) const MESSAGE_HEADER: usize = 4;

/// `client_hello` (RFC 8446 §4).
pub(super) const CLIENT_HELLO: u8 = 1;
/// `server_hello` (RFC 8446 §4).
pub(super) const SERVER_HELLO: u8 = 2;

/// Reads one message, in whatever records and chunks it comes.
#[derive(Debug, Clone)]
pub(super) struct MessageReader {
    /// The message's type, the only one that is accepted.
    wanted_type: u8,
    /// The most bytes that the message may have, its header included.
    largest: usize,
    /// The records as they came; of a ClientHello, which is framed anew, the first record's header
    /// and all payload.
    raw: Vec<u8>,
    /// How many bytes of records have come.
    received: usize,
    /// How many bytes of the record's header have come.
    header: usize,
    /// How many bytes of the record's payload are still to come.
    record_left: usize,
    records: usize,
    /// The message's header, as far as it has come.
    begun: [u8; MESSAGE_HEADER],
    /// How many bytes of the message have come.
    seen: usize,
    /// How many it declares, its header included, once that is known.
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

    /// Whether not a byte has come.
    pub(super) fn is_fresh(&self) -> bool {
        self.raw.is_empty()
    }

    /// Whether it still reads the first record.
    pub(super) fn is_in_first_record(&self) -> bool {
        self.records == 0
    }

    /// How many bytes the last record has behind the message.
    pub(super) fn record_left(&self) -> usize {
        self.record_left
    }

    /// The most bytes that the message may have, its header included.
    pub(super) fn largest(&self) -> usize {
        self.largest
    }

    /// The message in the fewest records, with a version of TLS in their headers: a router behind
    /// the gate may read the first record alone, or reject other versions. Record headers are no
    /// part of the handshake's transcript (RFC 8446 §4.4.1).
    pub(super) fn into_fewest_records(self) -> Vec<u8> {
        let version = match self.raw.get(1..3) {
            Some(&[3, minor @ 1..=3]) => [3, minor],
            _ => HELLO_VERSION,
        };
        let header = |payload: usize| {
            // At most 2^14, which fits.
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

    /// The records as they came, up to the message's last byte.
    pub(super) fn into_raw(self) -> Vec<u8> {
        self.raw
    }

    /// Takes bytes up to the end of the message and not one more; whether it is whole.
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

    /// The message, its header included; copied only where it came in several records.
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
        // Before the rest of the header, so that the fault is the same in any chunking.
        if begun.first().is_some_and(|&byte| Kind::of(byte) != Some(Kind::Handshake)) {
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
            // Always fits: 24 bits.
            let whole =
                usize::try_from(length).unwrap_or(usize::MAX).saturating_add(MESSAGE_HEADER);
            if whole > self.largest {
                return Err(JoinFault::TooLarge(length));
            }
            self.declared = Some(whole);
        }
        Ok(())
    }

    /// Moves at most `count` bytes over, and gives them.
    fn take<'a>(&mut self, input: &mut &'a [u8], count: usize) -> &'a [u8] {
        let (taken, rest) = input.split_at(count.min(input.len()));
        self.raw.extend_from_slice(taken);
        self.received += taken.len();
        *input = rest;
        taken
    }
}
