//! What a test found: whether the way is closed, and what was seen.

use std::{fmt, io};

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

/// The result of a test, with details.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestedWay {
    /// What was tested.
    pub way: String,
    /// The result.
    pub verdict: Verdict,
    /// What was observed.
    pub seen: String,
    /// The remedy, usually an nftables rule; `None` if the result is as expected.
    pub remedy: Option<String>,
}

impl fmt::Display for TestedWay {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { way, verdict, seen, remedy } = self;
        write!(out, "{:<8}{way}: {seen}", verdict.word())?;
        match (verdict, remedy) {
            (Verdict::Open | Verdict::Unsure, Some(rule)) => write!(out, "; close it by: {rule}"),
            (Verdict::Fails | Verdict::Untrusted, Some(remedy)) => {
                write!(out, "; it needs: {remedy}")
            }
            _ => Ok(()),
        }
    }
}

/// Returns the finding for a test that panicked.
pub(super) fn broken() -> TestedWay {
    TestedWay {
        way: "a test".into(),
        verdict: Verdict::Fails,
        seen: "it ended with an internal error of pullgate".into(),
        remedy: None,
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
