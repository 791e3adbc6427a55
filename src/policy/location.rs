//! Places in the configuration files, and errors at these places.

use std::fmt;
use std::sync::Arc;

/// A file and a line. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// The path as the operator would write it.
    pub file: Arc<str>,
    /// The line, from 1; 0 for an error of the whole file.
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

/// An error in the configuration: place, cause and remedy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{place}: {what}; {remedy}")]
pub struct Fault {
    /// Its place.
    pub place: Location,
    /// The cause, in one clause.
    pub what: String,
    /// The remedy, in one clause.
    pub remedy: String,
}

/// A value and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Its place.
    pub place: Location,
}
