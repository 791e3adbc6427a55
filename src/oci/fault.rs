//! Why a request to a registry is not understood.

use super::digest::DigestFault;

/// The longest request target that is read, in bytes.
pub const LONGEST_TARGET: usize = 8 * 1024;

/// Why a request was not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestFault {
    /// More than [`LONGEST_TARGET`] bytes.
    #[error("the request target is longer than 8 KiB")]
    TooLong,
    /// `http://…`, `host:port` or `*`.
    #[error("the request target is not a path that begins with one slash")]
    Form,
    /// A fragment, which no client sends.
    #[error("the request target has a fragment")]
    Fragment,
    /// A percent sign in the path: another spelling of what has one already.
    #[error("the path has percent-encoding")]
    PercentEncoding,
    /// Anything that no path of the spec has.
    #[error("the path has a character that no registry request has")]
    Character,
    /// Two slashes in a row, or one at the end.
    #[error("the path has an empty segment")]
    EmptySegment,
    /// `.` or `..`.
    #[error("the path has a dot segment")]
    DotSegment,
    /// It is no operation of the spec.
    #[error("the path is not an operation of the OCI distribution spec")]
    UnknownPath,
    /// The operation has not this method.
    #[error("the operation does not have this method")]
    Method,
    /// The registry's name is not a valid host.
    #[error("the registry is not a host name")]
    Registry,
    /// The repository breaks the grammar.
    #[error("the repository's name breaks the grammar of the OCI distribution spec")]
    Repository,
    /// The repository is too long.
    #[error("the repository's name is longer than 255 characters")]
    RepositoryTooLong,
    /// The tag breaks the grammar.
    #[error("the tag breaks the grammar of the OCI distribution spec")]
    Tag,
    /// The digest breaks the grammar.
    #[error("{0}")]
    Digest(DigestFault),
    /// The id of an upload has a character of path or query.
    #[error("the upload's id has a character other than letters, digits and ._=-")]
    Upload,
    /// The query is not `key=value` pairs.
    #[error("the query is not made of at most 16 key=value pairs of printable characters")]
    QueryForm,
    /// A key that the operation does not have.
    #[error("the query has a key that the operation does not have")]
    UnknownKey,
    /// A key that stands twice.
    #[error("the query has a key twice")]
    KeyTwice,
    /// A value that the key does not have.
    #[error("the query has a value that its key does not have")]
    Value,
}

impl RequestFault {
    /// Whether the request is well-formed and asks for something that the gate does not know.
    #[must_use]
    pub fn is_unknown_operation(self) -> bool {
        matches!(self, Self::UnknownPath | Self::Method)
    }
}

impl From<DigestFault> for RequestFault {
    fn from(fault: DigestFault) -> Self {
        Self::Digest(fault)
    }
}
