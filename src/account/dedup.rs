//! Deduplicates denials: the first of a group has its own line, and the others are counted under
//! its id.
//!
//! Clients retry (dockerd five times for each layer, undici a thousand times per second) and must
//! not fill the disk. The window starts with the first denial, so a client that never stops causes
//! two lines per window. A client that requests ever new hosts causes at most [`LINES`] lines for
//! each reason and window, and one line that counts the others and names a few of them. A client
//! whose denial is deduplicated gets the id of the first line, which is in the audit. Connections
//! without a request are deduplicated, too.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::audit_field::Field;
use super::audit_line::RepeatedLine;
use super::clock::Timestamp;
use super::id::SessionId;
use super::record::{Granted, Outcome, Record};
use super::text::AuditText;
use crate::policy::subscriber;

/// Length of the window of a group.
pub(super) const WINDOW: Duration = Duration::from_secs(10);

/// Maximum number of groups, and of pairs of client and reason. Further denials have their own
/// lines.
const KINDS: usize = 4_096;

/// Maximum number of lines for a client and reason in a window. Further denials are counted
/// together.
pub(super) const LINES: u32 = 32;

/// Maximum number of targets named in a summary.
pub(super) const SAMPLES: usize = 8;

/// What makes two denials equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct DenialKey {
    client: IpAddr,
    target: Option<AuditText>,
    query: Option<AuditText>,
    sni: Option<AuditText>,
    outcome: Outcome,
    reason: &'static str,
    /// Two certificates can be invalid for different reasons.
    facts: Vec<(&'static str, AuditText)>,
}

impl DenialKey {
    pub(super) fn of(record: &Record, outcome: Outcome, reason: &'static str) -> Self {
        let (target, sni) = (record.target.clone(), record.sni.clone());
        let (query, facts) = (record.query().cloned(), record.facts().to_vec());
        Self { client: record.client, target, query, sni, outcome, reason, facts }
    }

    fn group(&self) -> GroupKey {
        (subscriber(self.client), self.reason)
    }
}

/// The client and reason whose denials are counted together once there are many.
type GroupKey = (IpAddr, &'static str);

/// The denials of one client and reason within a window.
#[derive(Debug)]
struct DedupGroup {
    lines: u32,
    /// Set after [`LINES`] lines.
    rest: Option<Fold>,
    samples: Vec<AuditText>,
}

/// What closes at the end of its window.
#[derive(Debug)]
enum DueGroup {
    Kind(DenialKey),
    Group(GroupKey),
}

/// The first denial of a group, and the number of further ones.
#[derive(Debug)]
struct Fold {
    id: SessionId,
    client: IpAddr,
    outcome: Outcome,
    first: SystemTime,
    last: SystemTime,
    client_name: Option<Arc<str>>,
    listener: Arc<str>,
    granted: Option<Granted>,
    repeated: u64,
}

/// The open groups, in the order in which they were opened.
#[derive(Debug, Default)]
pub(super) struct Dedup {
    open: HashMap<DenialKey, Fold>,
    groups: HashMap<GroupKey, DedupGroup>,
    order: VecDeque<(Instant, DueGroup)>,
}

impl Fold {
    fn new(record: &Record, outcome: Outcome) -> Self {
        Self {
            id: record.id,
            client: record.client,
            outcome,
            first: record.started,
            last: record.started,
            client_name: record.client_name.clone(),
            listener: record.listener.clone(),
            granted: record.granted.clone(),
            repeated: 0,
        }
    }

    fn count(&mut self, started: SystemTime) -> SessionId {
        self.repeated += 1;
        self.last = self.last.max(started);
        self.id
    }
}

impl DedupGroup {
    fn count(&mut self, kind: &DenialKey, started: SystemTime) -> Option<SessionId> {
        let id = self.rest.as_mut()?.count(started);
        let text = kind.target.as_ref().or(kind.sni.as_ref());
        if let Some(text) = text.filter(|text| !self.samples.contains(text))
            && self.samples.len() < SAMPLES
        {
            self.samples.push(text.clone());
        }
        Some(id)
    }
}

impl Dedup {
    /// Counts a denial under an earlier one of its group. Returns the id of that; `None` if there
    /// is none.
    pub(super) fn repeat(&mut self, kind: &DenialKey, started: SystemTime) -> Option<SessionId> {
        if let Some(fold) = self.open.get_mut(kind) {
            return Some(fold.count(started));
        }
        self.groups.get_mut(&kind.group())?.count(kind, started)
    }

    /// Returns the number of open groups.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Opens a group for a denial whose line was queued.
    pub(super) fn open(&mut self, kind: DenialKey, record: &Record, now: Instant) {
        let closes = now + WINDOW;
        let key = kind.group();
        let room = self.groups.len() < KINDS;
        match self.groups.entry(key) {
            Entry::Occupied(mut group) => {
                let group = group.get_mut();
                group.lines += 1;
                if group.lines > LINES {
                    group.rest.get_or_insert_with(|| Fold::new(record, kind.outcome));
                    return;
                }
            }
            Entry::Vacant(place) if room => {
                place.insert(DedupGroup { lines: 1, rest: None, samples: Vec::new() });
                self.order.push_back((closes, DueGroup::Group(key)));
            }
            Entry::Vacant(_) => {}
        }
        if self.open.len() >= KINDS {
            return;
        }
        let Entry::Vacant(place) = self.open.entry(kind) else { return };
        let fold = Fold::new(record, place.key().outcome);
        self.order.push_back((closes, DueGroup::Kind(place.key().clone())));
        place.insert(fold);
    }

    /// Returns when the next group closes.
    pub(super) fn next_close(&self) -> Option<Instant> {
        self.order.front().map(|(closes, _)| *closes)
    }

    /// Closes the groups that are due, and passes on a summary line for each that had repetitions.
    pub(super) fn close_until(&mut self, now: Instant, mut take: impl FnMut(&[u8], u64)) {
        while self.order.front().is_some_and(|(closes, _)| *closes <= now) {
            let Some((_, closing)) = self.order.pop_front() else { return };
            let (fold, line) = match &closing {
                DueGroup::Kind(kind) => {
                    let Some(fold) = self.open.remove(kind) else { continue };
                    let granted = fold.granted.as_ref();
                    let line = serde_json::to_vec(&RepeatedLine {
                        target: kind.target.as_ref().map(AuditText::to_cow),
                        query: kind.query.as_ref().map(AuditText::to_cow),
                        sni: kind.sni.as_ref().map(AuditText::to_cow),
                        registry: granted.map(|granted| Cow::Borrowed(&*granted.registry)),
                        endpoint: granted.map(|granted| granted.endpoint.code().into()),
                        ..fold.line(kind.reason)
                    });
                    (fold, line)
                }
                DueGroup::Group(key) => {
                    let Some(group) = self.groups.remove(key) else { continue };
                    let Some(fold) = group.rest else { continue };
                    let samples = group.samples.iter().map(AuditText::to_cow).collect();
                    let line = serde_json::to_vec(&RepeatedLine { samples, ..fold.line(key.1) });
                    (fold, line)
                }
            };
            // Strings and numbers always serialise.
            if let (Ok(line), 1..) = (line, fold.repeated) {
                take(&line, fold.repeated);
            }
        }
    }
}

impl Fold {
    /// A short form of the first line, and the number of repetitions.
    fn line(&self, reason: &'static str) -> RepeatedLine<'_> {
        RepeatedLine {
            time: Field::Written(Timestamp(self.first)),
            id: Field::Written(self.id),
            client: Field::Written(self.client),
            client_name: self.client_name.as_deref().map(Cow::Borrowed),
            listener: Cow::Borrowed(&self.listener),
            outcome: self.outcome.code().into(),
            reason: reason.into(),
            repeated: self.repeated,
            until: Field::Written(Timestamp(self.last)),
            ..RepeatedLine::default()
        }
    }
}
