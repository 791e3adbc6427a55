//! Everything that accounts are kept in: the audit, the metrics, and what is open.

use std::sync::Arc;

use super::audit::Audit;
use super::history::History;
use super::id::Ids;
use super::incidents::Incidents;
use super::latest_requests::LatestRequests;
use super::metrics::Metrics;
use super::open_sessions::OpenSessions;
use super::shortages::Shortages;
use super::storage_requests::StorageRequests;
use crate::config::OnFull;

/// Keeps the accounts of all sessions.
#[derive(Debug)]
pub struct Account {
    pub(super) ids: Ids,
    pub(super) audit: Audit,
    pub(super) on_full: OnFull,
    pub(super) askers: StorageRequests,
    pub(super) incidents: Incidents,
    pub(super) requests: LatestRequests,
    pub(super) history: History,
    pub(super) metrics: Metrics,
    pub(super) open: Arc<OpenSessions>,
    pub(super) shortages: Shortages,
}
