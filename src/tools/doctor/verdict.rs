//! What a test found: whether the way is closed, and what was seen.

use std::io;

pub use crate::account::DOCTOR_MARK as MARK;

/// The result of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Closed, as expected.
    Closed,
    /// Open.
    Open,
    /// Possibly open: it cannot be determined from here.
    Unsure,
    /// An expected connection works.
    Works,
    /// An expected connection fails, or its test has no result.
    Fails,
    /// An expected connection works, but this machine does not trust the server's certificate.
    Untrusted,
    /// The machine has no such network.
    Skipped,
}

impl Verdict {
    /// Returns the word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "OPEN",
            Self::Unsure => "unsure",
            Self::Works => "works",
            Self::Fails | Self::Untrusted => "FAILS",
            Self::Skipped => "skipped",
        }
    }

    /// Returns whether the result is as expected.
    #[must_use]
    pub fn is_well(self) -> bool {
        !matches!(self, Self::Open | Self::Unsure | Self::Fails | Self::Untrusted)
    }
}

/// A verdict, and what was seen.
pub(super) type Found = (Verdict, String);

pub(super) fn found(verdict: Verdict, seen: impl Into<String>) -> Found {
    (verdict, seen.into())
}

/// Returns a short text for an error.
pub(super) fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused".to_owned(),
        io::ErrorKind::TimedOut => "no answer".to_owned(),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable => {
            "this machine has no route to it".to_owned()
        }
        io::ErrorKind::HostUnreachable => "unreachable".to_owned(),
        io::ErrorKind::PermissionDenied => "a rule of this machine drops it".to_owned(),
        _ => error.to_string(),
    }
}
