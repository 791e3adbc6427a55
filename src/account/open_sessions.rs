//! The open sessions, for `/sessions`, and the bytes that each has moved.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use dashmap::DashMap;
use serde::Serialize;

use super::clock::Timestamp;
use super::id::SessionId;
use super::labels::Labels;
use super::record::{Granted, Record, Volume};
use super::text::AuditText;

/// Returns how far a session has come. The admin listener calls it, never the session.
pub type Follow = Box<dyn Fn() -> Progress + Send + Sync>;

/// How far a session has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// The bytes moved.
    pub volume: Volume,
    /// The bytes of kernel memory that its sockets hold while a side does not read; zero while both
    /// do.
    pub stalled: u64,
}

impl From<Volume> for Progress {
    fn from(volume: Volume) -> Self {
        Self { volume, stalled: 0 }
    }
}

/// The open sessions that have stalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Stalled {
    pub(super) sessions: u64,
    /// The bytes of kernel memory that their sockets hold.
    pub(super) bytes: u64,
}

/// All open sessions.
#[derive(Debug, Default)]
pub struct OpenSessions {
    sessions: DashMap<SessionId, Arc<SessionEntry>>,
}

/// The public state of an open session.
pub(super) struct SessionEntry {
    id: SessionId,
    client: IpAddr,
    listener: Arc<str>,
    started: SystemTime,
    asked: OnceLock<SessionTarget>,
    progress: OnceLock<Follow>,
    credited: Mutex<Volume>,
}

/// The target of a session, once it is known.
pub(super) struct SessionTarget {
    pub(super) target: AuditText,
    pub(super) granted: Option<Granted>,
    pub(super) client_name: Option<Arc<str>>,
}

/// A session in the list. Dropping it removes the session.
#[derive(Debug)]
pub(super) struct ListedSession {
    all: Arc<OpenSessions>,
    entry: Arc<SessionEntry>,
}

/// A row of `/sessions`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SessionRow {
    id: SessionId,
    client: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_name: Option<String>,
    listener: String,
    started: Timestamp,
    seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    registry: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<&'static str>,
    bytes_up: u64,
    bytes_down: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    stalled_bytes: Option<u64>,
}

impl OpenSessions {
    /// Returns the number of open sessions.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sessions.len()
    }

    /// Returns the open sessions, the oldest first.
    #[must_use]
    pub fn rows(&self) -> Vec<SessionRow> {
        let now = SystemTime::now();
        let mut rows: Vec<SessionRow> = self.sessions.iter().map(|entry| entry.row(now)).collect();
        rows.sort_unstable_by_key(|row| row.id);
        rows
    }

    /// Lists a session until the returned value is dropped.
    pub(super) fn list(self: &Arc<Self>, session: &Record) -> ListedSession {
        let entry = Arc::new(SessionEntry {
            id: session.id,
            client: session.client,
            listener: session.listener.clone(),
            started: session.started,
            asked: OnceLock::new(),
            progress: OnceLock::new(),
            credited: Mutex::default(),
        });
        self.sessions.insert(session.id, entry.clone());
        ListedSession { all: self.clone(), entry }
    }

    /// Calls `add` with the bytes that each session has moved since the last call. Returns which
    /// have stalled.
    pub(super) fn credit(&self, mut add: impl FnMut(Labels<'_>, Volume)) -> Stalled {
        let mut stalled = Stalled::default();
        for entry in &self.sessions {
            if let Some(progress) = entry.progress.get() {
                let progress = progress();
                stalled.sessions += u64::from(progress.stalled > 0);
                stalled.bytes += progress.stalled;
                let more = entry.credit(progress.volume);
                let asked = entry.asked.get();
                let granted = asked.and_then(|asked| asked.granted.as_ref());
                let client = asked.and_then(|asked| asked.client_name.as_deref());
                add(Labels::of(granted, client), more);
            }
        }
        stalled
    }
}

impl SessionEntry {
    /// Stores the total and returns the difference to the last one.
    fn credit(&self, total: Volume) -> Volume {
        let mut credited = self.credited.lock().unwrap_or_else(PoisonError::into_inner);
        let more = total.less(*credited);
        *credited = credited.plus(more);
        more
    }

    fn row(&self, now: SystemTime) -> SessionRow {
        let progress = self.progress.get().map_or_else(Progress::default, |progress| progress());
        let Progress { volume, stalled } = progress;
        let asked = self.asked.get();
        let granted = asked.and_then(|asked| asked.granted.as_ref());
        SessionRow {
            id: self.id,
            client: self.client,
            client_name: asked
                .and_then(|asked| asked.client_name.as_ref().map(ToString::to_string)),
            listener: self.listener.to_string(),
            started: Timestamp(self.started),
            seconds: now.duration_since(self.started).unwrap_or_default().as_secs(),
            target: asked.map(|asked| asked.target.as_str().to_owned()),
            registry: granted.map(|granted| granted.registry.to_string()),
            endpoint: granted.map(|granted| granted.endpoint.code()),
            bytes_up: volume.up.total(),
            bytes_down: volume.down.total(),
            stalled_bytes: (stalled > 0).then_some(stalled),
        }
    }
}

impl ListedSession {
    /// The heap memory of an open session in this module, with its share of the maps, in bytes.
    #[cfg(test)]
    pub(super) const HEAP: usize =
        size_of::<SessionEntry>() + 2 * size_of::<(SessionId, Arc<SessionEntry>)>();

    pub(super) fn describe(&self, asked: SessionTarget) {
        // Set once per session. A second call would be a bug; the first value is kept.
        drop(self.entry.asked.set(asked));
    }

    pub(super) fn follow(&self, progress: Follow) {
        drop(self.entry.progress.set(progress));
    }

    /// Returns the bytes moved so far.
    pub(super) fn progress(&self) -> Option<Volume> {
        self.entry.progress.get().map(|progress| progress().volume)
    }

    pub(super) fn credit(&self, total: Volume) -> Volume {
        self.entry.credit(total)
    }
}

impl Drop for ListedSession {
    fn drop(&mut self) {
        self.all.sessions.remove(&self.entry.id);
    }
}

impl std::fmt::Debug for SessionEntry {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "SessionEntry({})", self.id)
    }
}
