//! The latest denials, grouped by host and reason, for the status page.
//!
//! The number of groups is bounded, and text from clients is an [`AuditText`], so a page can show
//! it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::Serialize;

use super::clock::Timestamp;
use super::record::Record;
use super::text::AuditText;
use crate::policy::{Denial, Reason};

/// Maximum number of groups. The one that was quiet for longest is removed.
const GROUPS: usize = 50;

/// The groups.
#[derive(Debug, Default)]
pub struct Denials {
    groups: Mutex<HashMap<(Option<AuditText>, Reason), DenialGroup>>,
}

#[derive(Debug)]
struct DenialGroup {
    count: u64,
    last: SystemTime,
    client: IpAddr,
    remedy: Option<AuditText>,
}

/// A row of the status page.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DenialRow {
    host: String,
    reason: &'static str,
    meaning: &'static str,
    remedy: Option<String>,
    count: u64,
    last: Timestamp,
    client: IpAddr,
}

impl Denials {
    pub(super) fn note(&self, record: &Record, denial: &Denial) {
        let host = record.target.clone().or_else(|| record.sni.clone());
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (host, denial.reason);
        if groups.len() >= GROUPS && !groups.contains_key(&key) {
            let oldest = groups.iter().min_by_key(|(_, group)| group.last);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                groups.remove(&oldest);
            }
        }
        let remedy = denial.remedy.as_deref().map(AuditText::new);
        let group = groups.entry(key).or_insert(DenialGroup {
            count: 0,
            last: record.started,
            client: record.client,
            remedy: None,
        });
        group.count += 1;
        group.last = group.last.max(record.started);
        group.client = record.client;
        group.remedy = remedy;
    }

    /// Returns the groups, the latest first.
    #[must_use]
    pub fn rows(&self) -> Vec<DenialRow> {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let row =
            |((host, reason), group): (&(Option<AuditText>, Reason), &DenialGroup)| DenialRow {
                host: host.as_ref().map_or("(no host)", AuditText::as_str).to_owned(),
                reason: reason.code(),
                meaning: reason.meaning(),
                remedy: group.remedy.as_ref().map(|remedy| remedy.as_str().to_owned()),
                count: group.count,
                last: Timestamp(group.last),
                client: group.client,
            };
        let mut rows: Vec<DenialRow> = groups.iter().map(row).collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.last.0));
        rows
    }
}
