//! Reads the ClientHello from any chunks and records, and validates it strictly. The policy checks
//! the server name.
//!
//! Unknown extensions are accepted, because GREASE (RFC 8701) and future clients need them. Any
//! other unknown value is rejected. rustls validates the content of extensions that the gate does
//! not read itself.

use super::cross_check;
use super::fault::{HelloFault, JoinFault, RecordFault};
use super::reader::{ExtensionSet, Walk};
use super::reassembler::{CLIENT_HELLO, LARGEST_MESSAGE, MESSAGE_HEADER, MessageReader};
use crate::policy::{Name, NameError};

/// `ProtocolVersion` of TLS 1.2 (RFC 5246 §6.2.1).
pub(super) const TLS12: u16 = 0x0303;
/// `ProtocolVersion` of TLS 1.3 (RFC 8446 §4.1.2).
pub(super) const TLS13: u16 = 0x0304;

/// `supported_versions` (RFC 8446 §4.2.1).
pub(super) const SUPPORTED_VERSIONS: u16 = 43;
/// `server_name` (RFC 6066 §3).
const SERVER_NAME: u16 = 0;
/// `pre_shared_key` (RFC 8446 §4.2.11).
const PRE_SHARED_KEY: u16 = 41;
/// `early_data` (RFC 8446 §4.2.10).
const EARLY_DATA: u16 = 42;
/// `renegotiation_info` (RFC 5746 §3.2).
const RENEGOTIATION_INFO: u16 = 0xff01;
/// `encrypted_client_hello` (RFC 9849), and its drafts 08 to 12.
const ENCRYPTED_CLIENT_HELLO: std::ops::RangeInclusive<u16> = 0xfe08..=0xfe0d;
/// `ech_outer_extensions` (RFC 9849): only an encrypted hello may have it.
const OUTER_EXTENSIONS: u16 = 0xfd00;
/// `encrypted_server_name` (draft-ietf-tls-esni-01 to 06).
const ENCRYPTED_SERVER_NAME: u16 = 0xffce;

/// The maximum number of extensions. Clients send about twenty. 64 KiB could hold 16,000, which
/// would cost rustls milliseconds.
pub const MOST_EXTENSIONS: usize = 256;

/// `host_name` (RFC 6066 §3), the only defined type of server name.
const HOST_NAME: u8 = 0;

/// Length of the random field, in bytes.
pub(super) const RANDOM: usize = 32;
/// Maximum length of a session id, in bytes.
pub(super) const LONGEST_SESSION_ID: usize = 32;

/// The fields of an accepted ClientHello that later checks need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientHello {
    server_name: Name,
    offers_tls12: bool,
    offers_tls13: bool,
    /// All bytes before the extensions: version, random, session id, cipher suites, compression
    /// methods. A second ClientHello must repeat them exactly (RFC 8446 §4.1.2).
    beginning: Box<[u8]>,
    /// The most bytes that it might have had, and that a second hello may have.
    largest: usize,
}

impl ClientHello {
    /// Returns the size of what is kept of it, in bytes.
    #[must_use]
    pub(super) fn memory(&self) -> usize {
        self.beginning.len()
    }

    /// Returns the name in the server_name extension.
    #[must_use]
    pub fn server_name(&self) -> &Name {
        &self.server_name
    }

    /// Returns whether the server can choose TLS 1.2.
    #[must_use]
    pub fn offers_tls12(&self) -> bool {
        self.offers_tls12
    }

    /// Returns whether the server can choose TLS 1.3.
    #[must_use]
    pub fn offers_tls13(&self) -> bool {
        self.offers_tls13
    }

    /// Returns the maximum length of this client's ClientHello, in bytes, with its header.
    pub(super) fn largest(&self) -> usize {
        self.largest
    }

    /// Returns the session id, which a TLS 1.3 server repeats.
    pub(super) fn session_id(&self) -> &[u8] {
        let mut walk = Walk::over(&self.beginning);
        walk.take(2 + RANDOM).and_then(|_| walk.vector8()).unwrap_or_default()
    }

    /// Returns whether both messages are equal up to the extensions.
    pub(super) fn begins_like(&self, other: &Self) -> bool {
        self.beginning == other.beginning
    }

    /// Validates the body of a ClientHello: the message without type and length.
    fn read(body: &[u8], largest: usize) -> Result<Self, HelloFault> {
        let mut walk = Walk::over(body);
        let version = walk.short().ok_or(HelloFault::Short)?;
        if version < TLS12 {
            return Err(HelloFault::TooOld);
        }
        if version > TLS12 {
            return Err(HelloFault::LegacyVersion(version));
        }
        walk.take(RANDOM).ok_or(HelloFault::Short)?;
        let session_id = walk.vector8().ok_or(HelloFault::Short)?;
        if session_id.len() > LONGEST_SESSION_ID {
            return Err(HelloFault::SessionId(session_id.len()));
        }
        let suites = walk.vector16().ok_or(HelloFault::CipherSuites)?;
        if suites.is_empty() || suites.len() % 2 != 0 {
            return Err(HelloFault::CipherSuites);
        }
        let compression = walk.vector8().filter(|methods| !methods.is_empty());
        let compression = compression.ok_or(HelloFault::Compression)?;
        if !compression.contains(&0) {
            return Err(HelloFault::Compresses);
        }
        let (beginning, _) = body.split_at(body.len() - walk.left());
        if walk.is_at_end() {
            // TLS 1.2 allows a hello without extensions (RFC 5246 §7.4.1.2).
            return Err(HelloFault::NoName);
        }
        let extensions = walk.vector16().filter(|_| walk.is_at_end());
        let extensions = Extensions::read(extensions.ok_or(HelloFault::ExtensionsLength)?)?;
        if !extensions.offers_tls12 && !extensions.offers_tls13 {
            return Err(HelloFault::TooOld);
        }
        if extensions.offers_tls13 && compression.len() > 1 {
            return Err(HelloFault::Compresses);
        }
        Ok(Self {
            server_name: extensions.server_name.ok_or(HelloFault::NoName)?,
            offers_tls12: extensions.offers_tls12,
            offers_tls13: extensions.offers_tls13,
            beginning: beginning.into(),
            largest,
        })
    }
}

/// The fields that the extensions carry.
struct Extensions {
    server_name: Option<Name>,
    offers_tls12: bool,
    offers_tls13: bool,
}

impl Extensions {
    fn read(bytes: &[u8]) -> Result<Self, HelloFault> {
        // Without supported_versions, only the legacy version is offered.
        let mut found = Self { server_name: None, offers_tls12: true, offers_tls13: false };
        let mut seen = ExtensionSet::none();
        let mut count = 0;
        let mut walk = Walk::over(bytes);
        while !walk.is_at_end() {
            count += 1;
            if count > MOST_EXTENSIONS {
                return Err(HelloFault::TooManyExtensions);
            }
            let kind = walk.short().ok_or(HelloFault::ExtensionLength)?;
            let content = walk.vector16().ok_or(HelloFault::ExtensionLength)?;
            if !seen.is_new(kind) {
                return Err(HelloFault::Duplicate(kind));
            }
            match kind {
                SERVER_NAME => found.server_name = Some(server_name(content)?),
                SUPPORTED_VERSIONS => {
                    (found.offers_tls12, found.offers_tls13) = versions(content)?;
                }
                EARLY_DATA => return Err(HelloFault::EarlyData),
                OUTER_EXTENSIONS | ENCRYPTED_SERVER_NAME => {
                    return Err(HelloFault::Encrypted(kind));
                }
                _ if ENCRYPTED_CLIENT_HELLO.contains(&kind) => {
                    return Err(HelloFault::Encrypted(kind));
                }
                PRE_SHARED_KEY if !walk.is_at_end() => return Err(HelloFault::KeyNotLast),
                RENEGOTIATION_INFO if content != [0] => return Err(HelloFault::Renegotiates),
                _ if fixed_length(kind).is_some_and(|length| length != content.len()) => {
                    return Err(HelloFault::ExtensionSize(kind));
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

/// Returns the fixed length of an extension, in bytes, if rustls does not check it.
fn fixed_length(kind: u16) -> Option<usize> {
    match kind {
        1 => Some(1),  // max_fragment_length (RFC 6066 §4)
        15 => Some(1), // heartbeat (RFC 6520 §2)
        18 => Some(0), // signed_certificate_timestamp (RFC 6962 §3.3.1)
        22 => Some(0), // encrypt_then_mac (RFC 7366 §2)
        28 => Some(2), // record_size_limit (RFC 8449 §4)
        49 => Some(0), // post_handshake_auth (RFC 8446 §4.2.6)
        _ => None,
    }
}

/// Returns the only name in a server_name extension (RFC 6066 §3).
fn server_name(content: &[u8]) -> Result<Name, HelloFault> {
    let mut walk = Walk::over(content);
    let list = walk.vector16().filter(|_| walk.is_at_end()).ok_or(HelloFault::NameLength)?;
    let mut entries = Walk::over(list);
    let kind = entries.byte().ok_or(HelloFault::EmptyName)?;
    if kind != HOST_NAME {
        return Err(HelloFault::NameKind(kind));
    }
    let name = entries.vector16().ok_or(HelloFault::NameLength)?;
    if !entries.is_at_end() {
        return Err(HelloFault::SecondName);
    }
    if name.is_empty() {
        return Err(HelloFault::EmptyName);
    }
    let name = std::str::from_utf8(name).map_err(|_| HelloFault::Name(NameError::Character))?;
    // A name of one label is left to the policy.
    Name::parse_or_label(name).map_err(HelloFault::Name)
}

/// Returns whether a supported_versions extension offers TLS 1.2 and TLS 1.3.
fn versions(content: &[u8]) -> Result<(bool, bool), HelloFault> {
    let mut walk = Walk::over(content);
    let list = walk.vector8().filter(|list| walk.is_at_end() && !list.is_empty());
    let (versions, half) = list.ok_or(HelloFault::Versions)?.as_chunks::<2>();
    if !half.is_empty() {
        return Err(HelloFault::Versions);
    }
    let offers = |version: u16| versions.contains(&version.to_be_bytes());
    Ok((offers(TLS12), offers(TLS13)))
}

/// A complete and valid ClientHello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Its parsed fields.
    pub facts: ClientHello,
    /// The message in as few records as possible, ready to be sent.
    pub raw: Vec<u8>,
}

/// Progress of the reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HelloStep {
    /// Valid so far, but not complete.
    NeedMore,
    /// Complete and valid.
    Complete(Hello),
}

/// Reads one ClientHello from a stream, and rejects it as early as possible.
///
/// Holds at most [`LARGEST_RAW`](super::LARGEST_RAW) bytes. The result depends only on the bytes,
/// not on how they are split into chunks or (within that limit) into records.
#[derive(Debug, Clone)]
pub struct HelloReader {
    message: MessageReader,
    over: Option<HelloFault>,
}

impl Default for HelloReader {
    fn default() -> Self {
        Self::new()
    }
}

impl HelloReader {
    /// Creates a reader at the first byte of a stream, for messages of up to
    /// [`LARGEST_MESSAGE`](super::LARGEST_MESSAGE).
    #[must_use]
    pub fn new() -> Self {
        Self::with_limit(LARGEST_MESSAGE)
    }

    /// A reader of hellos of at most `largest` bytes, the message's header included.
    #[must_use]
    pub fn with_limit(largest: usize) -> Self {
        Self { message: MessageReader::new(CLIENT_HELLO, largest), over: None }
    }

    /// Returns the size of its buffer, in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.message.memory()
    }

    /// Returns whether no byte has been read.
    pub(super) fn is_fresh(&self) -> bool {
        self.message.is_fresh() && self.over.is_none()
    }

    /// Consumes the next bytes.
    ///
    /// # Errors
    /// The first error in the bytes; every later call returns the same error. Bytes after the
    /// ClientHello are an error: a client without early data sends nothing before the server's
    /// reply, so they can only be an attack. A reader that has returned its ClientHello rejects
    /// further bytes for the same reason.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<HelloStep, HelloFault> {
        let mut rest = bytes;
        let step = self.take(&mut rest)?;
        if rest.is_empty() { Ok(step) } else { Err(HelloFault::BytesBehind) }
    }

    /// Variant of [`Self::feed`] that stops after the last byte of the ClientHello. Bytes after it
    /// stay in the input.
    pub(super) fn take(&mut self, bytes: &mut &[u8]) -> Result<HelloStep, HelloFault> {
        if let Some(fault) = self.over {
            let finished = fault == HelloFault::BytesBehind && bytes.is_empty();
            return if finished { Ok(HelloStep::NeedMore) } else { Err(fault) };
        }
        let step = self.advance(bytes);
        self.over = match &step {
            Ok(HelloStep::NeedMore) => None,
            Ok(HelloStep::Complete(_)) => Some(HelloFault::BytesBehind),
            Err(fault) => Some(*fault),
        };
        step
    }

    fn advance(&mut self, bytes: &mut &[u8]) -> Result<HelloStep, HelloFault> {
        if !self.message.feed(bytes).map_err(|fault| self.tell(fault))? {
            return Ok(HelloStep::NeedMore);
        }
        if self.message.record_left() > 0 {
            return Err(HelloFault::MessageBehind);
        }
        let largest = self.message.largest();
        let message = self.message.message();
        let facts = ClientHello::read(message.get(MESSAGE_HEADER..).unwrap_or_default(), largest)?;
        cross_check::ask(&message, facts.server_name())?;
        drop(message);
        let message =
            std::mem::replace(&mut self.message, MessageReader::new(CLIENT_HELLO, largest));
        Ok(HelloStep::Complete(Hello { facts, raw: message.into_fewest_records() }))
    }

    /// Returns the error of a ClientHello for an error of the reassembler.
    fn tell(&self, fault: JoinFault) -> HelloFault {
        let first = self.message.is_in_first_record();
        match fault {
            JoinFault::OtherRecord | JoinFault::Record(RecordFault::Major(_)) if first => {
                HelloFault::NotTls
            }
            JoinFault::OtherRecord => HelloFault::Interleaved,
            JoinFault::Record(fault) => HelloFault::Record(fault),
            JoinFault::OtherMessage(kind) => HelloFault::NotClientHello(kind),
            JoinFault::TooLarge(length) => HelloFault::TooLarge(length),
            JoinFault::TooManyRecords => HelloFault::TooManyRecords,
        }
    }
}
