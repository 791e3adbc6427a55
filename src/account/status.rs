//! How the gate as a whole stands: what reload and drain tell, and the admin listener shows.

use std::sync::Arc;

use crate::policy::Enforcement;

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Not every listener is bound yet.
    #[default]
    Starting,
    /// Listening, with a policy in force.
    Serving,
    /// No new session is taken; the open ones may end.
    Draining,
}

/// How the gate stands. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// Where the process is in its life.
    pub phase: Phase,
    /// The generation of the policy in force.
    pub generation: u64,
    /// Why the policy in force is not what the files say; nothing while it is.
    pub stale: Option<Arc<str>>,
    /// [`Enforcement::Report`] while any listener only reports.
    pub enforcement: Enforcement,
    /// How many sessions may be open at once.
    pub open_sessions_limit: usize,
}
