//! What the admin listener shows.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use crate::account::{Account, Status};
use crate::config::ListenerSpec;
use crate::policy::PolicySet;

/// The data sources of the pages.
#[derive(Debug)]
pub struct Admin {
    /// The metrics and the open sessions.
    pub account: Arc<Account>,
    /// The current policy.
    pub policy: watch::Receiver<Arc<PolicySet>>,
    /// The status of the gate.
    pub status: watch::Receiver<Status>,
    /// The gate's listeners.
    pub listeners: Vec<Arc<ListenerSpec>>,
    /// When the gate started.
    pub started: Instant,
}
