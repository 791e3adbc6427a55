//! Denials that repeat, folded: the first has its line, the rest are counted under its id.
//!
//! Clients retry (dockerd five times a layer, undici a thousand times a second), and a disk must
//! not fill with it. The window runs from the first, so that a client that never stops still leaves
//! two lines a window. Who is folded is answered with the first's id, which the file has.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::clock::Timestamp;
use super::id::SessionId;
use super::record::{Granted, Outcome, Record};
use super::text::AuditText;

/// How long the first of a kind stands for those that follow.
pub(super) const WINDOW: Duration = Duration::from_secs(10);

/// So many kinds are folded at once; beyond, each denial has its own line.
const KINDS: usize = 4_096;

/// What makes two denials the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct DenialKey {
    client: IpAddr,
    target: Option<AuditText>,
    query: Option<AuditText>,
    sni: Option<AuditText>,
    reason: &'static str,
    /// Two bad certificates are bad in ways of their own.
    facts: Vec<(&'static str, AuditText)>,
}

impl DenialKey {
    pub(super) fn of(record: &Record, reason: &'static str) -> Self {
        let (target, sni) = (record.target.clone(), record.sni.clone());
        let (query, facts) = (record.query().cloned(), record.facts().to_vec());
        Self { client: record.client, target, query, sni, reason, facts }
    }
}

/// The first of a kind, and how many followed.
#[derive(Debug)]
struct Fold {
    id: SessionId,
    first: SystemTime,
    last: SystemTime,
    client_name: Option<Arc<str>>,
    listener: Arc<str>,
    granted: Option<Granted>,
    repeated: u64,
}

/// The folds that are open, in the order of their opening.
#[derive(Debug, Default)]
pub(super) struct Dedup {
    open: HashMap<DenialKey, Fold>,
    order: VecDeque<(Instant, DenialKey)>,
}

impl Dedup {
    /// Counts a denial under the first of its kind, where there is one, and tells the first's id.
    pub(super) fn repeat(&mut self, kind: &DenialKey, started: SystemTime) -> Option<SessionId> {
        let fold = self.open.get_mut(kind)?;
        fold.repeated += 1;
        fold.last = fold.last.max(started);
        Some(fold.id)
    }

    /// How many kinds are folded now.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Opens a fold for a denial whose line has been taken.
    pub(super) fn open(&mut self, kind: DenialKey, record: &Record, now: Instant) {
        if self.order.len() >= KINDS {
            return;
        }
        let Entry::Vacant(place) = self.open.entry(kind) else { return };
        self.order.push_back((now + WINDOW, place.key().clone()));
        place.insert(Fold {
            id: record.id,
            first: record.started,
            last: record.started,
            client_name: record.client_name.clone(),
            listener: record.listener.clone(),
            granted: record.granted.clone(),
            repeated: 0,
        });
    }

    /// When the next fold closes.
    pub(super) fn next_close(&self) -> Option<Instant> {
        self.order.front().map(|(closes, _)| *closes)
    }

    /// Closes the folds that are due, and hands over a line for each that was repeated.
    pub(super) fn close_until(&mut self, now: Instant, mut take: impl FnMut(&[u8], u64)) {
        while self.order.front().is_some_and(|(closes, _)| *closes <= now) {
            let Some((_, kind)) = self.order.pop_front() else { return };
            let Some(fold) = self.open.remove(&kind) else { continue };
            if fold.repeated == 0 {
                continue;
            }
            let summary = Summary {
                time: Timestamp(fold.first),
                id: fold.id,
                client: kind.client,
                client_name: fold.client_name.as_deref(),
                listener: &fold.listener,
                target: kind.target.as_ref().map(AuditText::as_str),
                query: kind.query.as_ref().map(AuditText::as_str),
                sni: kind.sni.as_ref().map(AuditText::as_str),
                registry: fold.granted.as_ref().map(|granted| &*granted.registry),
                endpoint: fold.granted.as_ref().map(|granted| granted.endpoint.code()),
                outcome: Outcome::Denied.code(),
                reason: kind.reason,
                repeated: fold.repeated,
                until: Timestamp(fold.last),
            };
            // Strings and numbers only: writing them as JSON cannot fail.
            if let Ok(line) = serde_json::to_vec(&summary) {
                take(&line, fold.repeated);
            }
        }
    }
}

/// What is written when a fold closes: the first's line in short, and how often it was repeated.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Summary<'a> {
    time: Timestamp,
    id: SessionId,
    client: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_name: Option<&'a str>,
    listener: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sni: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    registry: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<&'static str>,
    outcome: &'static str,
    reason: &'static str,
    repeated: u64,
    until: Timestamp,
}
