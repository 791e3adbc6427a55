//! What a client of TLS 1.2 may send from the server's ServerHello to its own Finished: the rest of
//! one handshake, and nothing that could begin another.

use super::fault::{RecordFault, UploadFault};
use super::reassembler::{CLIENT_HELLO, MESSAGE_HEADER};
use super::record::{self, HEADER, Header, Kind, LARGEST_CLEAR};

/// The largest record that can hold a Finished of 16 bytes and no more: with AES-CBC and
/// HMAC-SHA-384 and the least padding 16 (IV) + 16 + 48 + 16. In the shortest encrypted form, of
/// ChaCha20-Poly1305 (16 bytes for the tag), that leaves 64 bytes behind a Finished: the very least
/// that a ClientHello of a renegotiation takes (4 of header, 41 up to the extensions, 19 with
/// renegotiation_info), and no room for a name. Whoever sends that gets no further: the rest of
/// that handshake would need records of a handshake, which are cut.
const LARGEST_FINISHED: usize = 96;

/// How far the client's handshake has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Its messages, in the clear.
    Clear,
    /// The change_cipher_spec has passed; the Finished is due.
    Changed,
}

/// The steps of a client's handshake, in their order (RFC 5246 §7.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    Nothing,
    Certificate,
    KeyExchange,
    CertificateVerify,
}

/// The reader of that part of the upload.
#[derive(Debug)]
pub(super) struct ClearUpload {
    phase: Phase,
    progress: Progress,
    /// The record that is not whole yet.
    held: Vec<u8>,
    /// The header of the message that is not whole yet, and how many bytes of it have come.
    begun: [u8; MESSAGE_HEADER],
    have: usize,
    /// How many bytes of that message's body are still to come.
    left: usize,
}

/// What a step of the upload came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// It goes on.
    More,
    /// The Finished has passed.
    Finished,
}

impl ClearUpload {
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Clear,
            progress: Progress::Nothing,
            held: Vec::new(),
            begun: [0; MESSAGE_HEADER],
            have: 0,
            left: 0,
        }
    }

    /// Takes bytes up to the end of the next record, and lets it pass to `out` if it may.
    pub(super) fn advance(
        &mut self,
        input: &mut &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Then, UploadFault> {
        let largest = match self.phase {
            Phase::Clear => LARGEST_CLEAR,
            Phase::Changed => LARGEST_FINISHED,
        };
        let header = match record::collect(&mut self.held, input, largest) {
            Ok(Some(header)) => header,
            Ok(None) => return Ok(Then::More),
            Err(RecordFault::TooLong(length)) if self.phase == Phase::Changed => {
                return Err(UploadFault::Finished(length));
            }
            Err(fault) => return Err(fault.into()),
        };
        let held = std::mem::take(&mut self.held);
        let then = self.judge(header, held.get(HEADER..).unwrap_or_default())?;
        out.extend_from_slice(&held);
        self.held = held;
        self.held.clear();
        Ok(then)
    }

    fn judge(&mut self, header: Header, payload: &[u8]) -> Result<Then, UploadFault> {
        match (self.phase, header.kind) {
            (Phase::Clear, Kind::Handshake) => self.messages(payload)?,
            (Phase::Clear, Kind::ChangeCipherSpec) => self.change(payload)?,
            (Phase::Clear, Kind::Alert) if payload.len() != 2 => return Err(UploadFault::Alert),
            (Phase::Clear | Phase::Changed, Kind::Alert) => {}
            (Phase::Changed, Kind::Handshake) => return Ok(Then::Finished),
            (Phase::Clear, Kind::ApplicationData)
            | (Phase::Changed, Kind::ApplicationData | Kind::ChangeCipherSpec) => {
                return Err(UploadFault::OutOfOrder);
            }
        }
        Ok(Then::More)
    }

    /// Walks the messages of a record. They may go on from the one before, and into the next.
    fn messages(&mut self, mut payload: &[u8]) -> Result<(), UploadFault> {
        while !payload.is_empty() {
            if self.left > 0 {
                let (_, rest) = payload.split_at(self.left.min(payload.len()));
                self.left -= payload.len() - rest.len();
                payload = rest;
                continue;
            }
            let (&byte, rest) = payload.split_first().ok_or(UploadFault::OutOfOrder)?;
            payload = rest;
            if self.have == 0 {
                self.begin(byte)?;
            }
            if let Some(slot) = self.begun.get_mut(self.have) {
                *slot = byte;
            }
            self.have += 1;
            if self.have == MESSAGE_HEADER {
                let [_, high, middle, low] = self.begun;
                let length = u32::from_be_bytes([0, high, middle, low]);
                self.left = usize::try_from(length).unwrap_or(usize::MAX);
                self.have = 0;
            }
        }
        Ok(())
    }

    /// A message of this type begins.
    fn begin(&mut self, kind: u8) -> Result<(), UploadFault> {
        // RFC 5246 §7.4: certificate, client_key_exchange, certificate_verify.
        let step = match kind {
            11 => Progress::Certificate,
            16 => Progress::KeyExchange,
            15 => Progress::CertificateVerify,
            CLIENT_HELLO => return Err(UploadFault::Renegotiation),
            _ => return Err(UploadFault::Message(kind)),
        };
        if step <= self.progress {
            return Err(UploadFault::Message(kind));
        }
        self.progress = step;
        Ok(())
    }

    fn change(&mut self, payload: &[u8]) -> Result<(), UploadFault> {
        let between_messages = self.have == 0 && self.left == 0;
        // A resumed session has no client_key_exchange; but who shows a certificate has one.
        if payload != [1] || !between_messages || self.progress == Progress::Certificate {
            return Err(UploadFault::ChangeCipherSpec);
        }
        self.phase = Phase::Changed;
        Ok(())
    }
}
