//! The data of the status page at one moment.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::Serialize;

use super::source::Admin;
use crate::account::{
    Ends, IncidentRow, ParentStatus, ParentTrouble, Phase, RequestRow, STEP, SessionRow, Status,
    Traffic,
};
use crate::policy::{Enforcement, NO_LABEL, PolicySet};

/// Maximum number of sessions and registries in a snapshot.
const MOST_SESSIONS: usize = 100;
const MOST_REGISTRIES: usize = 200;

/// Whether a snapshot includes the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WithHistory {
    Yes,
    No,
}

/// The data of one event.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Snapshot {
    millis: u64,
    version: &'static str,
    /// The host name of the machine.
    host: String,
    uptime_seconds: u64,
    phase: &'static str,
    enforcing: bool,
    generation: u64,
    stale: Option<String>,
    open: usize,
    limit: usize,
    sessions: Vec<SessionRow>,
    /// Registries of the policy.
    registries_count: usize,
    registries: Vec<RegistryRow>,
    /// Sessions and requests that ended within the last hour.
    ends: Ends,
    incidents: Vec<IncidentRow>,
    /// The latest registry requests.
    requests: Vec<RequestRow>,
    parents: Vec<ParentHealth>,
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<HistoryView>,
}

/// A parent proxy.
#[derive(Debug, Serialize)]
struct ParentHealth {
    name: String,
    up: bool,
    /// Why it opened no tunnel the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<ParentTrouble>,
}

/// A registry: of the policy, or one that had traffic.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
struct RegistryRow {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<RegistryFile>,
    /// Bytes since the start.
    total: Traffic<u64>,
    /// Bytes of the last hour.
    hour: Traffic<u64>,
}

#[derive(Debug, Serialize)]
struct RegistryFile {
    file: String,
    hosts: usize,
    route: String,
    parent: Option<String>,
}

/// Bytes in each step of the last hour, the oldest first.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct HistoryView {
    step_seconds: u64,
    registries: BTreeMap<String, Traffic<Vec<u64>>>,
}

impl Admin {
    /// Returns a snapshot as a server-sent event; `None` if it cannot be written as JSON.
    pub(super) fn event(&self, history: WithHistory) -> Option<Bytes> {
        // JSON has no line feed outside strings, and escapes it inside strings.
        let json = serde_json::to_string(&self.snapshot(history)).ok()?;
        Some(Bytes::from(format!("data: {json}\n\n")))
    }

    fn snapshot(&self, history: WithHistory) -> Snapshot {
        let status = self.status.borrow().clone();
        let set = self.policy.borrow().clone();
        let now = SystemTime::now();
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut sessions = self.account.open_sessions().rows();
        sessions.truncate(MOST_SESSIONS);
        let hour = self.account.last_hour();
        let history = (history == WithHistory::Yes).then(|| HistoryView {
            step_seconds: STEP.as_secs(),
            registries: by_shown_name(self.account.traffic_history()),
        });
        Snapshot {
            millis: u64::try_from(since.as_millis()).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION"),
            host: host_name(),
            uptime_seconds: self.started.elapsed().as_secs(),
            phase: match status.phase {
                Phase::Starting => "starting",
                Phase::Serving => "serving",
                Phase::Draining => "draining",
            },
            enforcing: status.enforcement == Enforcement::Enforce,
            generation: status.generation,
            stale: status.stale.as_deref().map(str::to_owned),
            open: self.account.open_sessions().count(),
            limit: status.open_sessions_limit,
            sessions,
            registries_count: set.rules().registries.len(),
            registries: self.registry_rows(&set, &hour.traffic),
            ends: hour.ends,
            incidents: self.account.incidents().rows(now),
            requests: self.account.latest_requests().rows(),
            parents: parents(&status),
            history,
        }
    }

    /// Returns the registries by name. If there are too many, those without traffic are left out.
    fn registry_rows(
        &self,
        set: &PolicySet,
        hour: &BTreeMap<String, Traffic<u64>>,
    ) -> Vec<RegistryRow> {
        let moved = self.account.moved_by_registry();
        let mut rows: BTreeMap<String, RegistryRow> = BTreeMap::new();
        for (name, (up, down)) in moved.into_iter().take(MOST_REGISTRIES) {
            let hour = hour.get(&name).cloned().unwrap_or_default();
            let total = Traffic { up, down };
            let row = RegistryRow { name: shown(&name), policy: None, total, hour };
            rows.insert(name, row);
        }
        for (registry, route) in set.routes() {
            let name = &**registry.name();
            if rows.len() >= MOST_REGISTRIES && !rows.contains_key(name) {
                continue;
            }
            let row = rows.entry(name.to_owned()).or_default();
            row.name = name.to_owned();
            row.policy = Some(RegistryFile {
                file: registry.file().to_string(),
                hosts: registry.endpoints().len(),
                route: route.to_string(),
                parent: route.parent().map(|parent| parent.name.to_string()),
            });
        }
        rows.into_values().collect()
    }
}

/// Returns the name of a registry by its label.
fn shown(label: &str) -> String {
    let name = if label == NO_LABEL { "(not in the policy)" } else { label };
    name.to_owned()
}

fn by_shown_name<T>(by_label: BTreeMap<String, T>) -> BTreeMap<String, T> {
    by_label.into_iter().map(|(label, value)| (shown(&label), value)).collect()
}

fn parents(status: &Status) -> Vec<ParentHealth> {
    let parent = |one: &ParentStatus| ParentHealth {
        name: one.name.to_string(),
        up: one.is_up,
        trouble: one.trouble.clone(),
    };
    status.parents.iter().map(parent).collect()
}

/// Returns the host name of this machine; empty if it cannot be read.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim_end().to_owned()
}
