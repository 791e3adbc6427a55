//! The status of the gate, set by reload and drain and shown by the admin listener.

use std::sync::Arc;

use serde::Serialize;

use crate::policy::Enforcement;

/// The phase of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Not all listeners are bound yet.
    #[default]
    Starting,
    /// Listening, with a policy.
    Serving,
    /// Draining: new sessions are rejected, open ones can finish.
    Draining,
}

/// The status of the gate. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// The phase of the process.
    pub phase: Phase,
    /// The generation of the current policy.
    pub generation: u64,
    /// Why the current policy is older than the files; `None` if it is not.
    pub stale: Option<Arc<str>>,
    /// [`Enforcement::Report`] if any listener is in report mode.
    pub enforcement: Enforcement,
    /// Maximum number of open sessions.
    pub open_sessions_limit: usize,
    /// The files of certificates, and the last second in which each is valid, since 1970.
    pub certificates: Arc<[(String, i64)]>,
    /// The parent proxies, in the configured order.
    pub parents: Arc<[ParentStatus]>,
}

/// How a parent proxy stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentStatus {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Whether any of its addresses works, as far as is known.
    pub is_up: bool,
    /// What went wrong last, until it works again.
    pub trouble: Option<ParentTrouble>,
}

/// Why a parent proxy opened no tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ParentTrouble {
    /// The code of the failure, such as `parent-auth`.
    pub reason: &'static str,
    /// The parent's words, or why it could not be asked: printable, and never secret.
    pub detail: String,
    /// The host and port that it was asked for.
    pub target: String,
}
