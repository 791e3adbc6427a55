//! Errors of the TLS parsers, one variant each, and the denial reason for each.
//!
//! The variants are for tests and diagnostics. Clients, metrics and the audit only see the
//! [`Reason`].

use crate::policy::{NameError, Reason};

/// An invalid record header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// An unknown record type, or one that is not allowed at this point.
    #[error("a record of type {0}")]
    Kind(u8),
    /// The first byte of the version is not 3.
    #[error("a record of version {0}.x")]
    Major(u8),
    /// The version is SSL 3.
    #[error("a record of SSL 3")]
    Ssl3,
    /// The second byte of the version is above 3; TLS 1.3 writes 3.3 (RFC 8446 §5.1).
    #[error("a record of version 3.{0}")]
    Minor(u8),
    /// The record is empty.
    #[error("an empty record")]
    Empty,
    /// The record exceeds the maximum length.
    #[error("a record of {0} bytes")]
    TooLong(u16),
}

/// Errors of the reassembler for handshake messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JoinFault {
    Record(RecordFault),
    /// A record of another type than handshake.
    OtherRecord,
    /// A handshake message of another type.
    OtherMessage(u8),
    /// The declared length exceeds the limit.
    TooLarge(u32),
    /// The records exceed the limit, in bytes.
    TooManyRecords,
}

impl From<RecordFault> for JoinFault {
    fn from(fault: RecordFault) -> Self {
        Self::Record(fault)
    }
}

/// An invalid ClientHello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloFault {
    /// The first bytes are not a handshake record. This includes the ClientHello of SSLv2.
    #[error("not TLS")]
    NotTls,
    /// An invalid record header.
    #[error("{0}")]
    Record(RecordFault),
    /// A record of another type inside the ClientHello.
    #[error("another record within the hello")]
    Interleaved,
    /// The first handshake message is not a ClientHello.
    #[error("handshake message {0} instead of a hello")]
    NotClientHello(u8),
    /// The declared length exceeds [`LARGEST_MESSAGE`](super::LARGEST_MESSAGE).
    #[error("declares {0} bytes")]
    TooLarge(u32),
    /// The records exceed [`LARGEST_RAW`](super::LARGEST_RAW) bytes.
    #[error("too many bytes of records")]
    TooManyRecords,
    /// The last record continues after the ClientHello.
    #[error("another message in the hello's record")]
    MessageBehind,
    /// Bytes after the ClientHello, before the server's reply.
    #[error("bytes behind the hello")]
    BytesBehind,
    /// The message ends within the version, the random or the session id.
    #[error("ends before its cipher suites")]
    Short,
    /// The legacy version is above TLS 1.2 (RFC 8446 §4.1.2).
    #[error("legacy version {0:#06x}")]
    LegacyVersion(u16),
    /// The session id exceeds 32 bytes.
    #[error("a session id of {0} bytes")]
    SessionId(usize),
    /// The list of cipher suites is empty, has an odd length or is truncated.
    #[error("a broken list of cipher suites")]
    CipherSuites,
    /// The list of compression methods is empty or truncated.
    #[error("a broken list of compression methods")]
    Compression,
    /// The null method is missing (RFC 5246 §7.4.1.2), or TLS 1.3 is offered with another method
    /// (RFC 8446 §4.1.2).
    #[error("compression")]
    Compresses,
    /// The declared length of the extensions differs from the actual length.
    #[error("the extensions' length is inexact")]
    ExtensionsLength,
    /// An extension exceeds the message.
    #[error("an extension runs past the end")]
    ExtensionLength,
    /// An extension of fixed length has another length.
    #[error("extension {0} is of a wrong size")]
    ExtensionSize(u16),
    /// More extensions than [`MOST_EXTENSIONS`](super::MOST_EXTENSIONS).
    #[error("too many extensions")]
    TooManyExtensions,
    /// An extension occurs twice.
    #[error("extension {0} twice")]
    Duplicate(u16),
    /// The server_name extension is missing.
    #[error("no server name")]
    NoName,
    /// The server_name extension has no entry or an empty one.
    #[error("an empty server name")]
    EmptyName,
    /// A length in the server_name extension is wrong.
    #[error("inexact lengths in server_name")]
    NameLength,
    /// The server_name extension has more than one name.
    #[error("more than one server name")]
    SecondName,
    /// The type of the server name is not host_name.
    #[error("a server name of type {0}")]
    NameKind(u8),
    /// The server name is not a valid host name.
    #[error("the server name {0}")]
    Name(NameError),
    /// The list of versions is empty or has a wrong length.
    #[error("a broken list of versions")]
    Versions,
    /// The client offers neither TLS 1.2 nor TLS 1.3.
    #[error("neither TLS 1.2 nor TLS 1.3")]
    TooOld,
    /// Encrypted ClientHello, GREASE ECH, or its predecessor ESNI.
    #[error("encrypted hello, extension {0:#06x}")]
    Encrypted(u16),
    /// The client offers early data.
    #[error("early data")]
    EarlyData,
    /// pre_shared_key is not the last extension (RFC 8446 §4.2.11).
    #[error("pre_shared_key is not the last extension")]
    KeyNotLast,
    /// renegotiation_info is not that of an initial handshake (RFC 5746 §3.4).
    #[error("renegotiation_info of a renegotiation")]
    Renegotiates,
    /// rustls rejects a message that our parser accepted.
    #[error("rustls refuses it")]
    Refused,
    /// rustls finds another server name than our parser.
    #[error("rustls reads another name")]
    NamedOtherwise,
}

impl HelloFault {
    /// Returns the denial reason for this error.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::NotTls => Reason::NotTls,
            Self::Record(RecordFault::Ssl3) | Self::TooOld => Reason::TlsTooOld,
            Self::TooLarge(_) | Self::TooManyRecords | Self::TooManyExtensions => {
                Reason::HelloTooLarge
            }
            Self::NoName | Self::EmptyName => Reason::SniMissing,
            Self::Name(NameError::IpLiteral) => Reason::IpLiteral,
            Self::Encrypted(_) => Reason::EncryptedClientHello,
            Self::EarlyData => Reason::EarlyData,
            Self::Record(_)
            | Self::Interleaved
            | Self::NotClientHello(_)
            | Self::MessageBehind
            | Self::BytesBehind
            | Self::Short
            | Self::LegacyVersion(_)
            | Self::SessionId(_)
            | Self::CipherSuites
            | Self::Compression
            | Self::Compresses
            | Self::ExtensionsLength
            | Self::ExtensionLength
            | Self::ExtensionSize(_)
            | Self::Duplicate(_)
            | Self::NameLength
            | Self::SecondName
            | Self::NameKind(_)
            | Self::Name(_)
            | Self::Versions
            | Self::KeyNotLast
            | Self::Renegotiates
            | Self::Refused
            | Self::NamedOtherwise => Reason::HelloMalformed,
        }
    }
}

/// An invalid reply to a ClientHello. The denial reason is always [`Reason::ServerHelloMalformed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyFault {
    /// An invalid record header.
    #[error("{0}")]
    Record(RecordFault),
    /// A record of another type than handshake, alert or the dummy change_cipher_spec, or one of
    /// these at the wrong point.
    #[error("another record than a ServerHello's")]
    OtherRecord,
    /// The first handshake message is not a ServerHello.
    #[error("handshake message {0} instead of a ServerHello")]
    NotServerHello(u8),
    /// The message exceeds the limit, or uses too many records.
    #[error("too large")]
    TooLarge,
    /// The message is truncated or has trailing bytes.
    #[error("inexact lengths")]
    Length,
    /// An extension occurs twice.
    #[error("extension {0} twice")]
    Duplicate(u16),
    /// The server chose neither TLS 1.2 nor TLS 1.3.
    #[error("version {0:#06x}")]
    Version(u16),
    /// The server chose a version that the client did not offer.
    #[error("a version that was not offered")]
    NotOffered,
    /// The server chose TLS 1.3 with another session id than the client's (RFC 8446 §4.1.3).
    #[error("another session id than the client's")]
    SessionId,
    /// The compression method is not null.
    #[error("compression")]
    Compresses,
    /// Another message follows a TLS 1.3 message in the same record (RFC 8446 §5.1).
    #[error("another message in the reply's record")]
    MessageBehind,
    /// A HelloRetryRequest after the second ClientHello.
    #[error("a second HelloRetryRequest")]
    SecondRetry,
    /// TLS 1.2 after a HelloRetryRequest.
    #[error("TLS 1.2 after a HelloRetryRequest")]
    Downgrade,
    /// The server continued before the client's second ClientHello.
    #[error("spoke out of turn")]
    OutOfTurn,
    /// The server continued after a fatal alert.
    #[error("spoke after its fatal alert")]
    AfterAlert,
}

/// Invalid data from the client after the server's reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UploadFault {
    /// An invalid record header.
    #[error("{0}")]
    Record(#[from] RecordFault),
    /// A handshake message that is not allowed at this point.
    #[error("handshake message {0} out of order")]
    Message(u8),
    /// A record that is not allowed at this point.
    #[error("a record out of order")]
    OutOfOrder,
    /// A change_cipher_spec that is not the single byte 1, or inside a message.
    #[error("a broken change_cipher_spec")]
    ChangeCipherSpec,
    /// An alert that is not two bytes long.
    #[error("a broken alert")]
    Alert,
    /// The record of the Finished is longer than a Finished.
    #[error("a Finished of {0} bytes")]
    Finished(u16),
    /// A renegotiation.
    #[error("a renegotiation")]
    Renegotiation,
    /// The caller asks for a header while payload is due: a bug in the gate, treated as a denial.
    #[error("out of step")]
    OutOfStep,
}

impl UploadFault {
    /// Returns the denial reason. Violations of TLS after the ClientHello are `not-tls`.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::Renegotiation | Self::Finished(_) => Reason::Renegotiation,
            Self::Record(_)
            | Self::Message(_)
            | Self::OutOfOrder
            | Self::ChangeCipherSpec
            | Self::Alert
            | Self::OutOfStep => Reason::NotTls,
        }
    }
}

/// The reason why the guard closes a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Cut {
    /// The client sent bytes between its ClientHello and the server's reply.
    #[error("bytes behind the hello")]
    BehindHello,
    /// The second ClientHello is invalid.
    #[error("the second hello: {0}")]
    SecondHello(HelloFault),
    /// The second ClientHello names another server.
    #[error("the second hello names another server")]
    OtherName,
    /// The second ClientHello differs in a field that must stay the same (RFC 8446 §4.1.2).
    #[error("the second hello differs from the first")]
    OtherHello,
    /// The server's reply is invalid.
    #[error("the server's reply: {0}")]
    Reply(ReplyFault),
    /// Data from the client after the reply is invalid.
    #[error("the client's upload: {0}")]
    Upload(UploadFault),
}

impl Cut {
    /// Returns the denial reason. A second ClientHello without a server name, or with an IP address
    /// as its name, is a mismatch, because the first had a name.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::BehindHello => HelloFault::BytesBehind.reason(),
            Self::OtherName | Self::OtherHello => Reason::SecondHelloMismatch,
            Self::SecondHello(fault) => match fault.reason() {
                Reason::SniMissing | Reason::IpLiteral => Reason::SecondHelloMismatch,
                reason => reason,
            },
            Self::Reply(_) => Reason::ServerHelloMalformed,
            Self::Upload(fault) => fault.reason(),
        }
    }
}

impl From<UploadFault> for Cut {
    fn from(fault: UploadFault) -> Self {
        Self::Upload(fault)
    }
}

impl From<ReplyFault> for Cut {
    fn from(fault: ReplyFault) -> Self {
        Self::Reply(fault)
    }
}
