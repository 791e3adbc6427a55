//! What can be wrong, one variant a fault, and the reason that each is denied for.
//!
//! Faults are for tests and for diagnostics. Clients, metrics and the audit learn the
//! [`Reason`] only.

use crate::policy::{NameError, Reason};

/// What is wrong with a record's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// A type that is none of TLS 1.2's and 1.3's, or has no place where it stands.
    #[error("a record of type {0}")]
    Kind(u8),
    /// The version's first byte is not 3.
    #[error("a record of version {0}.x")]
    Major(u8),
    /// The version of SSL 3.
    #[error("a record of SSL 3")]
    Ssl3,
    /// The version's second byte is beyond 3: TLS 1.3 writes 3.3 (RFC 8446 §5.1).
    #[error("a record of version 3.{0}")]
    Minor(u8),
    /// No payload.
    #[error("an empty record")]
    Empty,
    /// More payload than it may carry.
    #[error("a record of {0} bytes")]
    TooLong(u16),
}

/// What keeps a handshake message from being rejoined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JoinFault {
    Record(RecordFault),
    /// A record of another type than handshake.
    OtherRecord,
    /// A handshake message of another type.
    OtherMessage(u8),
    /// It declares more bytes than are read.
    TooLarge(u32),
    /// Its records have more bytes than are read.
    TooManyRecords,
}

impl From<RecordFault> for JoinFault {
    fn from(fault: RecordFault) -> Self {
        Self::Record(fault)
    }
}

/// What is wrong with a ClientHello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloFault {
    /// The first bytes are no handshake record. SSLv2's hello, which is no TLS, is told thus too,
    /// by its first byte.
    #[error("not TLS")]
    NotTls,
    /// A record's header.
    #[error("{0}")]
    Record(RecordFault),
    /// A record of another type between those of the hello.
    #[error("another record within the hello")]
    Interleaved,
    /// The first handshake message is another.
    #[error("handshake message {0} instead of a hello")]
    NotClientHello(u8),
    /// It declares more than [`LARGEST_MESSAGE`](super::LARGEST_MESSAGE).
    #[error("declares {0} bytes")]
    TooLarge(u32),
    /// Its records have more than [`LARGEST_RAW`](super::LARGEST_RAW) bytes.
    #[error("too many bytes of records")]
    TooManyRecords,
    /// The hello's last record goes on behind it.
    #[error("another message in the hello's record")]
    MessageBehind,
    /// Bytes came behind the hello, before the server's reply.
    #[error("bytes behind the hello")]
    BytesBehind,
    /// It ends within the version, the random or the session id.
    #[error("ends before its cipher suites")]
    Short,
    /// A version beyond TLS 1.2, which is the last to be written here (RFC 8446 §4.1.2).
    #[error("legacy version {0:#06x}")]
    LegacyVersion(u16),
    /// A session id of more than 32 bytes.
    #[error("a session id of {0} bytes")]
    SessionId(usize),
    /// No cipher suites, half a one, or fewer bytes than declared.
    #[error("a broken list of cipher suites")]
    CipherSuites,
    /// No compression methods, or fewer than declared.
    #[error("a broken list of compression methods")]
    Compression,
    /// The null method is missing (RFC 5246 §7.4.1.2), or TLS 1.3 is offered with another beside it
    /// (RFC 8446 §4.1.2).
    #[error("compression")]
    Compresses,
    /// The length of the extensions is not that of what follows.
    #[error("the extensions' length is inexact")]
    ExtensionsLength,
    /// An extension runs past the end.
    #[error("an extension runs past the end")]
    ExtensionLength,
    /// An extension of a fixed size has another.
    #[error("extension {0} is of a wrong size")]
    ExtensionSize(u16),
    /// More extensions than [`MOST_EXTENSIONS`](super::MOST_EXTENSIONS).
    #[error("too many extensions")]
    TooManyExtensions,
    /// An extension stands twice.
    #[error("extension {0} twice")]
    Duplicate(u16),
    /// No server_name extension.
    #[error("no server name")]
    NoName,
    /// A server_name extension without an entry, or with an empty one.
    #[error("an empty server name")]
    EmptyName,
    /// Inexact lengths in the server_name extension.
    #[error("inexact lengths in server_name")]
    NameLength,
    /// More than one server name.
    #[error("more than one server name")]
    SecondName,
    /// A name that is no host_name.
    #[error("a server name of type {0}")]
    NameKind(u8),
    /// A server name that is no host name.
    #[error("the server name {0}")]
    Name(NameError),
    /// An inexact or empty list of versions.
    #[error("a broken list of versions")]
    Versions,
    /// Neither TLS 1.2 nor 1.3 is offered.
    #[error("neither TLS 1.2 nor TLS 1.3")]
    TooOld,
    /// Encrypted ClientHello, its decoy, or its predecessor ESNI.
    #[error("encrypted hello, extension {0:#06x}")]
    Encrypted(u16),
    /// It announces early data.
    #[error("early data")]
    EarlyData,
    /// An extension behind pre_shared_key, which must be the last (RFC 8446 §4.2.11).
    #[error("pre_shared_key is not the last extension")]
    KeyNotLast,
    /// A renegotiation_info that is not an initial handshake's (RFC 5746 §3.4).
    #[error("renegotiation_info of a renegotiation")]
    Renegotiates,
    /// rustls refuses what our own walk found right.
    #[error("rustls refuses it")]
    Refused,
    /// rustls reads another name than our own walk.
    #[error("rustls reads another name")]
    NamedOtherwise,
}

impl HelloFault {
    /// The reason that it is denied for.
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

/// What is wrong with the server's reply to a ClientHello. All are denied for
/// [`Reason::ServerHelloMalformed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyFault {
    /// A record's header.
    #[error("{0}")]
    Record(RecordFault),
    /// A record that is neither handshake nor, where it may stand, an alert or the dummy
    /// change_cipher_spec.
    #[error("another record than a ServerHello's")]
    OtherRecord,
    /// The first handshake message is another.
    #[error("handshake message {0} instead of a ServerHello")]
    NotServerHello(u8),
    /// It is larger than a hello may be, or in too many records.
    #[error("too large")]
    TooLarge,
    /// It ends too early, or goes on too long.
    #[error("inexact lengths")]
    Length,
    /// An extension stands twice.
    #[error("extension {0} twice")]
    Duplicate(u16),
    /// Neither TLS 1.2 nor TLS 1.3.
    #[error("version {0:#06x}")]
    Version(u16),
    /// A version that the client has not offered.
    #[error("a version that was not offered")]
    NotOffered,
    /// TLS 1.3 with another session id than the client's (RFC 8446 §4.1.3).
    #[error("another session id than the client's")]
    SessionId,
    /// Another compression method than null.
    #[error("compression")]
    Compresses,
    /// A message of TLS 1.3 with another behind it in its record (RFC 8446 §5.1).
    #[error("another message in the reply's record")]
    MessageBehind,
    /// A HelloRetryRequest in reply to the second hello.
    #[error("a second HelloRetryRequest")]
    SecondRetry,
    /// TLS 1.2 after a HelloRetryRequest.
    #[error("TLS 1.2 after a HelloRetryRequest")]
    Downgrade,
    /// It went on before the client's second hello.
    #[error("spoke out of turn")]
    OutOfTurn,
    /// It went on after a fatal alert.
    #[error("spoke after its fatal alert")]
    AfterAlert,
}

/// What is wrong with what a client sends after its hello was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UploadFault {
    /// A record's header.
    #[error("{0}")]
    Record(#[from] RecordFault),
    /// A handshake message that has no place here.
    #[error("handshake message {0} out of order")]
    Message(u8),
    /// A record that has no place here.
    #[error("a record out of order")]
    OutOfOrder,
    /// A change_cipher_spec that is not the one byte 1, or comes within a message.
    #[error("a broken change_cipher_spec")]
    ChangeCipherSpec,
    /// An alert that is not two bytes.
    #[error("a broken alert")]
    Alert,
    /// More in the Finished's record than a Finished.
    #[error("a Finished of {0} bytes")]
    Finished(u16),
    /// Another handshake within the session.
    #[error("a renegotiation")]
    Renegotiation,
    /// The caller asks about a header while payload is due: a fault of the gate's, told closed.
    #[error("out of step")]
    OutOfStep,
}

impl UploadFault {
    /// The reason that it is denied for. What breaks the rules of TLS behind the hello is `not-tls`.
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

/// Why the guard cuts a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Cut {
    /// The client spoke between its hello and the server's reply.
    #[error("bytes behind the hello")]
    BehindHello,
    /// The second hello is not one that would have been accepted as the first.
    #[error("the second hello: {0}")]
    SecondHello(HelloFault),
    /// The second hello names another server.
    #[error("the second hello names another server")]
    OtherName,
    /// The second hello differs in what must stay the same (RFC 8446 §4.1.2).
    #[error("the second hello differs from the first")]
    OtherHello,
    /// The server's reply.
    #[error("the server's reply: {0}")]
    Reply(ReplyFault),
    /// What the client sends after the reply.
    #[error("the client's upload: {0}")]
    Upload(UploadFault),
}

impl Cut {
    /// The reason that it is denied for. A second hello without a server name, or with an address
    /// for one, is a mismatch: the first had a name.
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
