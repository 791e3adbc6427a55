//! The guard: from the first ClientHello to the point where nothing can name another server any
//! more. It is fed with what each side sends, lets pass what may, holds what it cannot judge yet,
//! and cuts.
//!
//! # Why there is one
//!
//! A server may answer a hello with a HelloRetryRequest, and the second hello may carry another
//! name. Under TLS 1.2 a client may begin another handshake in the session (a renegotiation). Both
//! would be served by the host that the second name picks, behind a gate that judged the first.
//!
//! # What it lets pass
//!
//! 1. Between a hello and the server's reply: nothing from the client.
//! 2. From the server: a ServerHello first, or alerts. A warning may go before (RFC 6066 §3 has
//!    `unrecognized_name`); after a fatal alert, or a close_notify, only alerts pass, either way,
//!    since the handshake is over and the tunnel merely has to end.
//! 3. After a HelloRetryRequest, from the server: one dummy change_cipher_spec (RFC 8446 D.4) and
//!    alerts; from the client: the same, and then one hello that is right in itself, names the same
//!    server, and repeats the first up to the extensions.
//! 4. After a ServerHello of TLS 1.3: everything. What follows is encrypted under keys that belong
//!    to this handshake.
//! 5. After a ServerHello of TLS 1.2: everything from the server; from the client the rest of this
//!    handshake, then application data and alerts for as long as the tunnel lives
//!    ([`RecordWatch`]).
//!
//! Records pass whole, once judged, so that nothing of an offending record passes. Only payload
//! behind a header that the [`RecordWatch`] has judged passes as it comes.

use super::client::{ClientHello, Hello, HelloReader, Step};
use super::fault::{Cut, JoinFault, ReplyFault, UploadFault};
use super::reassembler::{LARGEST_MESSAGE, MESSAGE_HEADER, MessageReader, SERVER_HELLO};
use super::record::{self, HEADER, Header, Kind, RecordWatch};
use super::server::{self, Reply};
use super::upload::{ClearUpload, Then};

/// The largest of the records beside the messages: an alert (2) or a change_cipher_spec (1).
const LARGEST_SMALL: usize = 2;

/// What may pass on, both ways. The caller sends it and clears it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// For the server.
    pub to_server: Vec<u8>,
    /// For the client.
    pub to_client: Vec<u8>,
}

/// How the tunnel goes on once the guard has done its part. It holds no byte then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Onward {
    /// TLS 1.3: both directions are free.
    Free,
    /// TLS 1.2: the download is free; the upload's headers must be asked about for life.
    Records(RecordWatch),
}

/// The guard of one tunnel, made when the first hello has been accepted, whose records the caller
/// forwards itself. It holds at most one hello and one reply.
#[derive(Debug)]
pub struct Guard {
    hello: ClientHello,
    stage: Stage,
    reply: MessageReader,
    /// The server's record beside its messages, not whole yet.
    server_held: Vec<u8>,
    /// The client's record beside its messages, or its header, not whole yet.
    client_held: Vec<u8>,
    /// Whether the server's dummy change_cipher_spec may come.
    server_dummy: Dummy,
    served: bool,
}

#[derive(Debug)]
enum Stage {
    /// The first hello has gone out.
    FirstHello,
    /// The server has asked for another.
    Retry { second: Box<HelloReader>, dummy: Dummy },
    /// The second hello has gone out.
    SecondHello,
    /// TLS 1.2, until the client's Finished.
    Upload(Box<ClearUpload>),
    /// TLS 1.2, after it.
    Records(RecordWatch),
    /// TLS 1.3.
    Free,
    /// The server has refused.
    Refused,
    /// It is over.
    Cut(Cut),
}

/// A dummy change_cipher_spec (RFC 8446 D.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dummy {
    MayCome,
    MayNotCome,
}

/// A small record that may pass.
enum Small {
    Alert(Alert),
    Dummy,
}

/// What an alert means for the handshake.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Alert {
    Warning,
    /// Fatal, or a close_notify.
    Last,
}

impl Guard {
    /// A guard for the tunnel whose first hello said this, and has been forwarded or is about to be.
    #[must_use]
    pub fn new(hello: ClientHello) -> Self {
        Self {
            hello,
            stage: Stage::FirstHello,
            reply: MessageReader::new(SERVER_HELLO, LARGEST_MESSAGE),
            server_held: Vec::new(),
            client_held: Vec::new(),
            server_dummy: Dummy::MayNotCome,
            served: false,
        }
    }

    /// Whether it is the server's turn: the client has nothing to say, and whatever it sends is a
    /// cut.
    #[must_use]
    pub fn is_servers_turn(&self) -> bool {
        matches!(self.stage, Stage::FirstHello | Stage::SecondHello)
    }

    /// Whether the server has asked for another hello, and it has not come whole.
    #[must_use]
    pub fn awaits_second_hello(&self) -> bool {
        matches!(self.stage, Stage::Retry { .. })
    }

    /// Whether the client has been given a byte of the server's that leaves it in no state to read
    /// an alert of ours. A HelloRetryRequest and the dummy change_cipher_spec behind it do not: the
    /// client still reads in the clear.
    #[must_use]
    pub fn served(&self) -> bool {
        self.served
    }

    /// How the tunnel goes on, once the guard is done. Until then it must be fed.
    #[must_use]
    pub fn onward(&self) -> Option<Onward> {
        match &self.stage {
            Stage::Free => Some(Onward::Free),
            Stage::Records(watch) if self.client_held.is_empty() => {
                Some(Onward::Records(watch.clone()))
            }
            _ => None,
        }
    }

    /// Takes what the client has sent, all of it, and adds to `out` what may pass.
    ///
    /// # Errors
    /// The cut. What was added to `out` before it may still be sent; nothing of the offending
    /// record or behind it is in there. From then on every call says the same.
    pub fn client(&mut self, bytes: &[u8], out: &mut Output) -> Result<(), Cut> {
        let mut input = bytes;
        while !input.is_empty() {
            self.client_step(&mut input, out).inspect_err(|cut| self.stage = Stage::Cut(*cut))?;
        }
        Ok(())
    }

    /// Takes what the server has sent, all of it, and adds to `out` what may pass.
    ///
    /// # Errors
    /// As [`client`](Self::client).
    pub fn server(&mut self, bytes: &[u8], out: &mut Output) -> Result<(), Cut> {
        let mut input = bytes;
        while !input.is_empty() {
            self.server_step(&mut input, out).inspect_err(|cut| self.stage = Stage::Cut(*cut))?;
        }
        Ok(())
    }

    /// Takes at least one byte, and at most to the end of a record or message.
    fn client_step(&mut self, input: &mut &[u8], out: &mut Output) -> Result<(), Cut> {
        let held = &mut self.client_held;
        match &mut self.stage {
            Stage::FirstHello | Stage::SecondHello => Err(Cut::BehindHello),
            Stage::Retry { second, dummy } => {
                let beside = second.is_fresh() && is_small(held, input);
                if beside {
                    let passed = pass_small(held, input, *dummy, &mut out.to_server)?;
                    if let Some(Small::Dummy) = passed {
                        *dummy = Dummy::MayNotCome;
                    }
                    return Ok(());
                }
                match second.take(input).map_err(Cut::SecondHello)? {
                    Step::NeedMore => Ok(()),
                    Step::Complete(second) => self.second_hello(&second, out),
                }
            }
            Stage::Upload(upload) => {
                if upload.advance(input, &mut out.to_server)? == Then::Finished {
                    self.stage = Stage::Records(RecordWatch::at_boundary());
                }
                Ok(())
            }
            Stage::Records(watch) => watch_step(watch, held, input, &mut out.to_server),
            Stage::Free => {
                out.to_server.extend_from_slice(std::mem::take(input));
                Ok(())
            }
            Stage::Refused => {
                if !is_small(held, input) {
                    return Err(UploadFault::OutOfOrder.into());
                }
                pass_small(held, input, Dummy::MayNotCome, &mut out.to_server)?;
                Ok(())
            }
            Stage::Cut(cut) => Err(*cut),
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
        self.stage = Stage::SecondHello;
        Ok(())
    }

    /// Takes at least one byte, and at most to the end of a record or message.
    fn server_step(&mut self, input: &mut &[u8], out: &mut Output) -> Result<(), Cut> {
        match &self.stage {
            Stage::FirstHello | Stage::SecondHello | Stage::Retry { .. } => {
                if self.reply.is_fresh() && is_small(&self.server_held, input) {
                    return self.server_small(input, out);
                }
                if matches!(self.stage, Stage::Retry { .. }) {
                    return Err(ReplyFault::OutOfTurn.into());
                }
                self.server_message(input, out)
            }
            Stage::Upload(_) | Stage::Records(_) | Stage::Free => {
                out.to_client.extend_from_slice(std::mem::take(input));
                Ok(())
            }
            Stage::Refused => {
                if !is_small(&self.server_held, input) {
                    return Err(ReplyFault::AfterAlert.into());
                }
                self.server_small(input, out)
            }
            Stage::Cut(cut) => Err(*cut),
        }
    }

    /// An alert, or the change_cipher_spec behind a HelloRetryRequest.
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
                    self.stage = Stage::Refused;
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
            (Reply::Retry, Stage::SecondHello) => return Err(ReplyFault::SecondRetry.into()),
            (Reply::Tls12 { .. }, Stage::SecondHello) => return Err(ReplyFault::Downgrade.into()),
            (Reply::Retry, _) => {
                self.server_dummy = Dummy::MayCome;
                let second = Box::new(HelloReader::with_limit(self.hello.largest()));
                Stage::Retry { second, dummy: Dummy::MayCome }
            }
            (Reply::Tls12 { suite }, _) => Stage::Upload(Box::new(ClearUpload::new(suite))),
            (Reply::Tls13, _) => Stage::Free,
        };
        // Under TLS 1.2 the certificate and more may stand in the same record.
        if !matches!(reply, Reply::Tls12 { .. }) && self.reply.record_left() > 0 {
            return Err(ReplyFault::MessageBehind.into());
        }
        let message =
            std::mem::replace(&mut self.reply, MessageReader::new(SERVER_HELLO, LARGEST_MESSAGE));
        let raw = message.into_raw();
        if out.to_client.is_empty() {
            // It has room for what came in the same piece.
            out.to_client = raw;
        } else {
            out.to_client.extend_from_slice(&raw);
        }
        self.served |= reply != Reply::Retry;
        self.stage = stage;
        Ok(())
    }
}

/// Whether the record that is being held, or that comes next, stands beside the messages.
fn is_small(held: &[u8], input: &[u8]) -> bool {
    let first = held.first().or(input.first()).copied().and_then(Kind::of);
    matches!(first, Some(Kind::Alert | Kind::ChangeCipherSpec))
}

/// Collects a small record, and lets it pass if it may.
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
        // RFC 5246 §7.2: the level, and the description, of which 0 is close_notify.
        (Kind::Alert, [1, 0] | [2, _]) => Ok(Small::Alert(Alert::Last)),
        (Kind::Alert, [1, _]) => Ok(Small::Alert(Alert::Warning)),
        (Kind::Alert, _) => Err(UploadFault::Alert),
        (Kind::ChangeCipherSpec, [1]) if dummy == Dummy::MayCome => Ok(Small::Dummy),
        (Kind::ChangeCipherSpec, _) => Err(UploadFault::ChangeCipherSpec),
        (Kind::Handshake | Kind::ApplicationData, _) => Err(UploadFault::OutOfOrder),
    }
}

/// Lets payload pass as it comes, and judges a header once it is whole.
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

/// What a fault in rejoining is called in a reply.
fn tell(fault: JoinFault) -> ReplyFault {
    match fault {
        JoinFault::OtherRecord => ReplyFault::OtherRecord,
        JoinFault::Record(fault) => ReplyFault::Record(fault),
        JoinFault::OtherMessage(kind) => ReplyFault::NotServerHello(kind),
        JoinFault::TooLarge(_) | JoinFault::TooManyRecords => ReplyFault::TooLarge,
    }
}
