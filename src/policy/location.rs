//! Where something stands in the operator's files, and what is wrong there.

use std::fmt;
use std::sync::Arc;

/// A file and a line of it. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// The path as the operator would write it.
    pub file: Arc<str>,
    /// The line, from 1; 0 where the fault is of the file as a whole.
    pub line: u32,
}

impl fmt::Display for Location {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(out, "{}", self.file),
            line => write!(out, "{}:{line}", self.file),
        }
    }
}

/// One fault of the configuration: where, what, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{place}: {what}; {remedy}")]
pub struct Fault {
    /// Where it stands.
    pub place: Location,
    /// What is wrong, in one clause.
    pub what: String,
    /// What the operator does about it, in one clause.
    pub remedy: String,
}

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: Location,
}
