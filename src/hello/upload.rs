//! What a client of TLS 1.2 may send from the server's ServerHello to its own Finished: the rest of
//! one handshake, and nothing that could begin another.

use super::fault::{RecordFault, UploadFault};
use super::reassembler::{CLIENT_HELLO, MESSAGE_HEADER};
use super::record::{self, HEADER, Header, Kind, LARGEST_CLEAR};

/// Returns the largest record, in bytes behind its header, that may hold the client's Finished (16
/// bytes) under a cipher suite.
///
/// Behind the Finished there must be no room for the ClientHello of a renegotiation. The smallest
/// that names a server has 57 bytes: 4 of header, 41 up to the extensions, and 12 for a name of one
/// character. Overheads are those of RFC 5246 §6.2.3, RFC 5288, RFC 6655 and RFC 7905.
fn largest_finished(suite: u16) -> usize {
    match suite {
        // ChaCha20-Poly1305: a tag of 16 bytes. AES-CCM-8: a nonce of 8 and a tag of 8. Nothing else fits.
        0xcca8..=0xccae | 0xc0a0..=0xc0a3 | 0xc0a8..=0xc0ab | 0xc0ae..=0xc0af => 32,
        // NULL and RC4: a MAC of 16 to 48 bytes.
        0x0000..=0x0005
        | 0x0017..=0x0018
        | 0x0020
        | 0x0024
        | 0x0028
        | 0x002b..=0x002e
        | 0x003b
        | 0x008a
        | 0x008e
        | 0x0092
        | 0x00b0..=0x00b1
        | 0x00b4..=0x00b5
        | 0x00b8..=0x00b9
        | 0xc001..=0xc002
        | 0xc006..=0xc007
        | 0xc00b..=0xc00c
        | 0xc010..=0xc011
        | 0xc015..=0xc016
        | 0xc033
        | 0xc039..=0xc03b => 64,
        // At least 24 bytes of overhead: AES-GCM (8 and 16), or CBC, which needs 96 bytes with
        // HMAC-SHA-384 and the least padding. 56 bytes remain at most.
        _ => 96,
    }
}

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
    /// The largest record that the Finished may come in.
    largest_finished: usize,
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
    /// The upload of a session whose server chose this cipher suite.
    pub(super) fn new(suite: u16) -> Self {
        Self {
            phase: Phase::Clear,
            progress: Progress::Nothing,
            largest_finished: largest_finished(suite),
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
            Phase::Changed => self.largest_finished,
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
