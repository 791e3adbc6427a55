//! What a TLS 1.2 client can send between the server's ServerHello and its own Finished: the rest
//! of one handshake, and nothing that could start another.

use super::fault::{RecordFault, UploadFault};
use super::reassembler::{CLIENT_HELLO, MESSAGE_HEADER};
use super::record::{self, ContentType, HEADER, Header, LARGEST_CLEAR};

/// Returns the maximum payload, in bytes, of the record with the client's Finished (16
/// bytes) with a cipher suite.
///
/// There must be no room after the Finished for the ClientHello of a renegotiation. The smallest
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

/// Progress of the client's handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UploadPhase {
    /// Unencrypted handshake messages.
    Clear,
    /// The change_cipher_spec was forwarded; the Finished is due.
    Changed,
}

/// The messages of a client's handshake, in order (RFC 5246 §7.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum UploadStage {
    Nothing,
    Certificate,
    KeyExchange,
    CertificateVerify,
}

/// Reads this part of the upload.
#[derive(Debug)]
pub(super) struct ClearUpload {
    phase: UploadPhase,
    progress: UploadStage,
    /// Maximum payload of the record with the Finished, in bytes.
    largest_finished: usize,
    /// The incomplete record.
    held: Vec<u8>,
    /// The incomplete message header, and the number of its bytes that were read.
    begun: [u8; MESSAGE_HEADER],
    have: usize,
    /// Number of bytes of the message body that are missing.
    left: usize,
}

/// The result of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UploadStep {
    /// More records are due.
    More,
    /// The Finished was forwarded.
    Finished,
}

impl ClearUpload {
    /// The upload of a session whose server chose this cipher suite.
    pub(super) fn new(suite: u16) -> Self {
        Self {
            phase: UploadPhase::Clear,
            progress: UploadStage::Nothing,
            largest_finished: largest_finished(suite),
            held: Vec::new(),
            begun: [0; MESSAGE_HEADER],
            have: 0,
            left: 0,
        }
    }

    /// Consumes bytes up to the end of the next record, and adds the record to `out` if it is
    /// allowed.
    pub(super) fn advance(
        &mut self,
        input: &mut &[u8],
        out: &mut Vec<u8>,
    ) -> Result<UploadStep, UploadFault> {
        let largest = match self.phase {
            UploadPhase::Clear => LARGEST_CLEAR,
            UploadPhase::Changed => self.largest_finished,
        };
        let header = match record::collect(&mut self.held, input, largest) {
            Ok(Some(header)) => header,
            Ok(None) => return Ok(UploadStep::More),
            Err(RecordFault::TooLong(length)) if self.phase == UploadPhase::Changed => {
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

    fn judge(&mut self, header: Header, payload: &[u8]) -> Result<UploadStep, UploadFault> {
        match (self.phase, header.kind) {
            (UploadPhase::Clear, ContentType::Handshake) => self.messages(payload)?,
            (UploadPhase::Clear, ContentType::ChangeCipherSpec) => self.change(payload)?,
            (UploadPhase::Clear, ContentType::Alert) if payload.len() != 2 => {
                return Err(UploadFault::Alert);
            }
            (UploadPhase::Clear | UploadPhase::Changed, ContentType::Alert) => {}
            (UploadPhase::Changed, ContentType::Handshake) => return Ok(UploadStep::Finished),
            (UploadPhase::Clear, ContentType::ApplicationData)
            | (
                UploadPhase::Changed,
                ContentType::ApplicationData | ContentType::ChangeCipherSpec,
            ) => {
                return Err(UploadFault::OutOfOrder);
            }
        }
        Ok(UploadStep::More)
    }

    /// Validates the messages in a record. A message can span records.
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

    /// Starts a message of this type.
    fn begin(&mut self, kind: u8) -> Result<(), UploadFault> {
        // RFC 5246 §7.4: certificate, client_key_exchange, certificate_verify.
        let step = match kind {
            11 => UploadStage::Certificate,
            16 => UploadStage::KeyExchange,
            15 => UploadStage::CertificateVerify,
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
        // A resumed session has no client_key_exchange, but a client with a certificate always
        // sends one.
        if payload != [1] || !between_messages || self.progress == UploadStage::Certificate {
            return Err(UploadFault::ChangeCipherSpec);
        }
        self.phase = UploadPhase::Changed;
        Ok(())
    }
}
