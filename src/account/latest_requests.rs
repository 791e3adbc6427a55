//! The latest registry requests, for the status page. Their number is bounded for all clients together.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::clock::Timestamp;
use super::id::SessionId;
use super::text::AuditText;

/// Number of requests that are kept.
const KEPT: usize = 100;

/// The latest requests.
#[derive(Debug, Default)]
pub struct LatestRequests {
    rows: Mutex<VecDeque<RequestRow>>,
}

/// A row of the status page: a request that has ended. Its text is printable.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RequestRow {
    pub(super) time: Timestamp,
    /// How it arrived.
    pub(super) via: &'static str,
    pub(super) client: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) client_name: Option<AuditText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) registry: Option<AuditText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) method: Option<&'static str>,
    pub(super) operation: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) repository: Option<AuditText>,
    /// The tag, otherwise the digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reference: Option<AuditText>,
    pub(super) status: u16,
    pub(super) outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<&'static str>,
    pub(super) bytes_down: u64,
    pub(super) ms: f64,
    /// The id of its audit line; `None` if the audit has lost it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<SessionId>,
}

impl LatestRequests {
    /// Notes a request that has ended.
    pub(super) fn note(&self, row: RequestRow) {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if rows.len() >= KEPT {
            rows.pop_front();
        }
        rows.push_back(row);
    }

    /// Returns the requests, the latest first.
    #[must_use]
    pub fn rows(&self) -> Vec<RequestRow> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.iter().rev().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn the_latest_are_kept() {
        let latest = LatestRequests::default();
        for status in 0..250 {
            latest.note(RequestRow {
                time: Timestamp(SystemTime::UNIX_EPOCH),
                via: "mirror",
                client: [127, 0, 0, 1].into(),
                client_name: None,
                registry: None,
                method: None,
                operation: "unknown",
                repository: None,
                reference: None,
                status,
                outcome: "denied",
                reason: None,
                bytes_down: 0,
                ms: 0.0,
                id: None,
            });
        }
        let rows = latest.rows();
        assert_eq!(rows.len(), KEPT);
        assert_eq!(rows.first().unwrap().status, 249);
        assert_eq!(rows.last().unwrap().status, 150);
    }
}
