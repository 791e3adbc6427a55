//! The guard inspects a tunnel from the first ClientHello until neither side can select another
//! server. It gets the bytes of both sides, forwards what is allowed, holds what is incomplete, and
//! closes the tunnel on a violation.
//!
//! # Why it exists
//!
//! A server can answer a ClientHello with a HelloRetryRequest, and the second ClientHello can name
//! another server. In TLS 1.2, a client can renegotiate within the session. In both cases the
//! second name would select the host, although the policy checked the first.
//!
//! # What it forwards
//!
//! 1. Between a hello and the server's reply: nothing from the client.
//! 2. From the server: alerts or a ServerHello. Warnings can precede it (for example
//!    `unrecognized_name`, RFC 6066 §3). After a fatal alert or a close_notify, both sides can only
//!    send alerts, because the handshake is over.
//! 3. After a HelloRetryRequest: from the server, one dummy change_cipher_spec (RFC 8446 D.4) and
//!    alerts; from the client, the same and then one valid ClientHello that names the same server and
//!    repeats the first up to the extensions.
//! 4. After a TLS 1.3 ServerHello: everything. The rest is encrypted with keys of this handshake.
//! 5. After a TLS 1.2 ServerHello: everything from the server. From the client, the rest of this
//!    handshake, then application data and alerts until the tunnel ends ([`RecordWatch`]).
//!
//! Records are forwarded whole, after inspection, so no part of an invalid record is forwarded.
//! Only payload whose header the [`RecordWatch`] has accepted is forwarded as it arrives.

use super::client::{ClientHello, Hello, HelloReader, HelloStep};
use super::fault::{Cut, JoinFault, ReplyFault, UploadFault};
use super::reassembler::{LARGEST_MESSAGE, MESSAGE_HEADER, MessageReader, SERVER_HELLO};
use super::record::{self, ContentType, HEADER, Header, RecordWatch};
use super::server::{self, ServerReply};
use super::upload::{ClearUpload, UploadStep};

/// The maximum payload of a small record: an alert (2) or a change_cipher_spec (1).
const LARGEST_SMALL: usize = 2;

/// The bytes that can be forwarded. The caller sends and clears them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// Bytes for the server.
    pub to_server: Vec<u8>,
    /// Bytes for the client.
    pub to_client: Vec<u8>,
}

/// How the tunnel continues after the handshake. The guard holds no bytes then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Onward {
    /// TLS 1.3: both directions are unrestricted.
    Free,
    /// TLS 1.2: the download is unrestricted; every record header of the upload must be checked.
    Records(RecordWatch),
}

/// The guard of one tunnel. It is created after the first ClientHello was accepted; the caller
/// forwards that itself. It holds at most one ClientHello and one reply.
#[derive(Debug)]
pub struct Guard {
    hello: ClientHello,
    stage: GuardStage,
    reply: MessageReader,
    /// An incomplete small record from the server.
    server_held: Vec<u8>,
    /// An incomplete small record or record header from the client.
    client_held: Vec<u8>,
    /// Whether the server's dummy change_cipher_spec is allowed.
    server_dummy: Dummy,
    served: bool,
}

#[derive(Debug)]
enum GuardStage {
    /// The first ClientHello was sent.
    FirstHello,
    /// The server asked for a second one.
    Retry { second: Box<HelloReader>, dummy: Dummy },
    /// The second ClientHello was sent.
    SecondHello,
    /// TLS 1.2, before the client's Finished.
    Upload(Box<ClearUpload>),
    /// TLS 1.2, after the client's Finished.
    Records(RecordWatch),
    /// TLS 1.3.
    Free,
    /// The server sent a fatal alert.
    Refused,
    /// The guard closed the tunnel.
    Cut(Cut),
}

/// A dummy change_cipher_spec (RFC 8446 D.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dummy {
    MayCome,
    MayNotCome,
}

/// A small record that can be forwarded.
enum Small {
    Alert(Alert),
    Dummy,
}

/// The effect of an alert on the handshake.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Alert {
    Warning,
    /// A fatal alert or a close_notify.
    Last,
}

impl Guard {
    /// Creates the guard of a tunnel whose first ClientHello has these fields.
    #[must_use]
    pub fn new(hello: ClientHello) -> Self {
        Self {
            hello,
            stage: GuardStage::FirstHello,
            reply: MessageReader::new(SERVER_HELLO, LARGEST_MESSAGE),
            server_held: Vec::new(),
            client_held: Vec::new(),
            server_dummy: Dummy::MayNotCome,
            served: false,
        }
    }

    /// Returns whether the server must send next. Bytes from the client are a violation then.
    #[must_use]
    pub fn is_servers_turn(&self) -> bool {
        matches!(self.stage, GuardStage::FirstHello | GuardStage::SecondHello)
    }

    /// Returns whether a second ClientHello is due or incomplete.
    #[must_use]
    pub fn awaits_second_hello(&self) -> bool {
        matches!(self.stage, GuardStage::Retry { .. })
    }

    /// Returns the memory that an unfinished second ClientHello takes, and what is kept of the first to
    /// compare it with, in bytes; `None` if none is due.
    #[must_use]
    pub fn second_hello_memory(&self) -> Option<usize> {
        match &self.stage {
            GuardStage::Retry { second, .. } => Some(second.memory() + self.hello.memory()),
            _ => None,
        }
    }

    /// Returns whether the client got bytes after which it cannot read an unencrypted alert. A
    /// HelloRetryRequest and the dummy change_cipher_spec do not count.
    #[must_use]
    pub fn served(&self) -> bool {
        self.served
    }

    /// Returns how the tunnel continues, or `None` while the handshake is not finished.
    #[must_use]
    pub fn onward(&self) -> Option<Onward> {
        match &self.stage {
            GuardStage::Free => Some(Onward::Free),
            GuardStage::Records(watch) if self.client_held.is_empty() => {
                Some(Onward::Records(watch.clone()))
            }
            _ => None,
        }
    }

    /// Consumes bytes from the client and adds what can be forwarded to `out`.
    ///
    /// # Errors
    /// The violation. Bytes that were added to `out` before it can still be sent; they contain no
    /// part of the invalid record. Every later call returns the same error.
    pub fn client(&mut self, bytes: &[u8], out: &mut Output) -> Result<(), Cut> {
        let mut input = bytes;
        while !input.is_empty() {
            self.client_step(&mut input, out)
                .inspect_err(|cut| self.stage = GuardStage::Cut(*cut))?;
        }
        Ok(())
    }

    /// Consumes bytes from the server and adds what can be forwarded to `out`.
    ///
    /// # Errors
    /// As [`client`](Self::client).
    pub fn server(&mut self, bytes: &[u8], out: &mut Output) -> Result<(), Cut> {
        let mut input = bytes;
        while !input.is_empty() {
            self.server_step(&mut input, out)
                .inspect_err(|cut| self.stage = GuardStage::Cut(*cut))?;
        }
        Ok(())
    }

    /// Consumes at least one byte, at most to the end of a record or message.
    fn client_step(&mut self, input: &mut &[u8], out: &mut Output) -> Result<(), Cut> {
        let held = &mut self.client_held;
        match &mut self.stage {
            GuardStage::FirstHello | GuardStage::SecondHello => Err(Cut::BehindHello),
            GuardStage::Retry { second, dummy } => {
                let beside = second.is_fresh() && is_small(held, input);
                if beside {
                    let passed = pass_small(held, input, *dummy, &mut out.to_server)?;
                    if let Some(Small::Dummy) = passed {
                        *dummy = Dummy::MayNotCome;
                    }
                    return Ok(());
                }
                match second.take(input).map_err(Cut::SecondHello)? {
                    HelloStep::NeedMore => Ok(()),
                    HelloStep::Complete(second) => self.second_hello(&second, out),
                }
            }
            GuardStage::Upload(upload) => {
                if upload.advance(input, &mut out.to_server)? == UploadStep::Finished {
                    self.stage = GuardStage::Records(RecordWatch::at_boundary());
                }
                Ok(())
            }
            GuardStage::Records(watch) => watch_step(watch, held, input, &mut out.to_server),
            GuardStage::Free => {
                out.to_server.extend_from_slice(std::mem::take(input));
                Ok(())
            }
            GuardStage::Refused => {
                if !is_small(held, input) {
                    return Err(UploadFault::OutOfOrder.into());
                }
                pass_small(held, input, Dummy::MayNotCome, &mut out.to_server)?;
                Ok(())
            }
            GuardStage::Cut(cut) => Err(*cut),
        }
    }

    fn second_hello(&mut self, second: &Hello, out: &mut Output) -> Result<(), Cut> {
        if second.facts.server_name() != self.hello.server_name() {
            return Err(Cut::OtherName);
        }
        if !second.facts.begins_like(&self.hello) || !second.facts.offers_tls13() {
            return Err(Cut::OtherHello);
        }
        out.to_server.extend_from_slice(&second.raw);
        self.stage = GuardStage::SecondHello;
        Ok(())
    }

    /// Consumes at least one byte, at most to the end of a record or message.
    fn server_step(&mut self, input: &mut &[u8], out: &mut Output) -> Result<(), Cut> {
        match &self.stage {
            GuardStage::FirstHello | GuardStage::SecondHello | GuardStage::Retry { .. } => {
                if self.reply.is_fresh() && is_small(&self.server_held, input) {
                    return self.server_small(input, out);
                }
                if matches!(self.stage, GuardStage::Retry { .. }) {
                    return Err(ReplyFault::OutOfTurn.into());
                }
                self.server_message(input, out)
            }
            GuardStage::Upload(_) | GuardStage::Records(_) | GuardStage::Free => {
                out.to_client.extend_from_slice(std::mem::take(input));
                Ok(())
            }
            GuardStage::Refused => {
                if !is_small(&self.server_held, input) {
                    return Err(ReplyFault::AfterAlert.into());
                }
                self.server_small(input, out)
            }
            GuardStage::Cut(cut) => Err(*cut),
        }
    }

    /// Handles an alert, or the change_cipher_spec after a HelloRetryRequest.
    fn server_small(&mut self, input: &mut &[u8], out: &mut Output) -> Result<(), Cut> {
        let passed =
            pass_small(&mut self.server_held, input, self.server_dummy, &mut out.to_client);
        match passed {
            Ok(None) => {}
            Ok(Some(Small::Dummy)) => self.server_dummy = Dummy::MayNotCome,
            Ok(Some(Small::Alert(alert))) => {
                self.served = true;
                if alert == Alert::Last {
                    self.server_dummy = Dummy::MayNotCome;
                    self.stage = GuardStage::Refused;
                }
            }
            Err(UploadFault::Record(fault)) => return Err(ReplyFault::Record(fault).into()),
            Err(_) => return Err(ReplyFault::OtherRecord.into()),
        }
        Ok(())
    }

    fn server_message(&mut self, input: &mut &[u8], out: &mut Output) -> Result<(), Cut> {
        if !self.reply.feed(input).map_err(tell)? {
            return Ok(());
        }
        let reply = {
            let message = self.reply.message();
            server::judge(message.get(MESSAGE_HEADER..).unwrap_or_default(), &self.hello)?
        };
        let stage = match (reply, &self.stage) {
            (ServerReply::Retry, GuardStage::SecondHello) => {
                return Err(ReplyFault::SecondRetry.into());
            }
            (ServerReply::Tls12 { .. }, GuardStage::SecondHello) => {
                return Err(ReplyFault::Downgrade.into());
            }
            (ServerReply::Retry, _) => {
                self.server_dummy = Dummy::MayCome;
                let second = Box::new(HelloReader::with_limit(self.hello.largest()));
                GuardStage::Retry { second, dummy: Dummy::MayCome }
            }
            (ServerReply::Tls12 { suite }, _) => {
                GuardStage::Upload(Box::new(ClearUpload::new(suite)))
            }
            (ServerReply::Tls13, _) => GuardStage::Free,
        };
        // In TLS 1.2, the same record can hold the certificate and more.
        if !matches!(reply, ServerReply::Tls12 { .. }) && self.reply.record_left() > 0 {
            return Err(ReplyFault::MessageBehind.into());
        }
        let message =
            std::mem::replace(&mut self.reply, MessageReader::new(SERVER_HELLO, LARGEST_MESSAGE));
        let raw = message.into_raw();
        if out.to_client.is_empty() {
            // Reuses the buffer, which has room for the rest of the chunk.
            out.to_client = raw;
        } else {
            out.to_client.extend_from_slice(&raw);
        }
        self.served |= reply != ServerReply::Retry;
        self.stage = stage;
        Ok(())
    }
}

/// Returns whether the current or next record is an alert or a change_cipher_spec.
fn is_small(held: &[u8], input: &[u8]) -> bool {
    let first = held.first().or(input.first()).copied().and_then(ContentType::of);
    matches!(first, Some(ContentType::Alert | ContentType::ChangeCipherSpec))
}

/// Collects a small record and forwards it if it is allowed.
fn pass_small(
    held: &mut Vec<u8>,
    input: &mut &[u8],
    dummy: Dummy,
    out: &mut Vec<u8>,
) -> Result<Option<Small>, UploadFault> {
    let Some(header) = record::collect(held, input, LARGEST_SMALL)? else { return Ok(None) };
    let small = small(header, held.get(HEADER..).unwrap_or_default(), dummy)?;
    out.extend_from_slice(held);
    held.clear();
    Ok(Some(small))
}

fn small(header: Header, payload: &[u8], dummy: Dummy) -> Result<Small, UploadFault> {
    match (header.kind, payload) {
        // RFC 5246 §7.2: level and description; description 0 is close_notify.
        (ContentType::Alert, [1, 0] | [2, _]) => Ok(Small::Alert(Alert::Last)),
        (ContentType::Alert, [1, _]) => Ok(Small::Alert(Alert::Warning)),
        (ContentType::Alert, _) => Err(UploadFault::Alert),
        (ContentType::ChangeCipherSpec, [1]) if dummy == Dummy::MayCome => Ok(Small::Dummy),
        (ContentType::ChangeCipherSpec, _) => Err(UploadFault::ChangeCipherSpec),
        (ContentType::Handshake | ContentType::ApplicationData, _) => Err(UploadFault::OutOfOrder),
    }
}

/// Forwards payload as it arrives, and checks each header once it is complete.
fn watch_step(
    watch: &mut RecordWatch,
    held: &mut Vec<u8>,
    input: &mut &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Cut> {
    let (payload, rest) = input.split_at(watch.payload_left().min(input.len()));
    out.extend_from_slice(payload);
    watch.moved(payload.len());
    *input = rest;
    record::fill(held, input, HEADER);
    if let Some(&header) = held.first_chunk::<HEADER>() {
        watch.header(header)?;
        out.append(held);
    }
    Ok(())
}

/// Returns the error of a reply for an error of the reassembler.
fn tell(fault: JoinFault) -> ReplyFault {
    match fault {
        JoinFault::OtherRecord => ReplyFault::OtherRecord,
        JoinFault::Record(fault) => ReplyFault::Record(fault),
        JoinFault::OtherMessage(kind) => ReplyFault::NotServerHello(kind),
        JoinFault::TooLarge(_) | JoinFault::TooManyRecords => ReplyFault::TooLarge,
    }
}
