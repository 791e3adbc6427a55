//! The sessions that are open: who may open another, what `/sessions` shows, what they moved so far.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use dashmap::DashMap;
use serde::Serialize;

use super::clock::Timestamp;
use super::id::SessionId;
use super::metrics::Labels;
use super::record::{Granted, Volume};
use super::text::AuditText;
use crate::policy::{Client, Denial, Limits, Reason, subscriber};

/// Tells what a session has moved so far; asked by the admin listener, never by the session.
pub type Progress = Box<dyn Fn() -> Volume + Send + Sync>;

/// Every open session.
#[derive(Debug, Default)]
pub struct Live {
    sessions: DashMap<SessionId, Arc<Entry>>,
    /// By whose address it is.
    clients: DashMap<IpAddr, usize>,
    /// By the name of a `[[client]]`.
    groups: DashMap<Arc<str>, usize>,
    open: AtomicUsize,
}

/// An open session as others see it.
pub(super) struct Entry {
    id: SessionId,
    client: IpAddr,
    listener: Arc<str>,
    started: SystemTime,
    asked: OnceLock<Asked>,
    progress: OnceLock<Progress>,
    credited: Mutex<Volume>,
}

/// What a session is about, once it is known.
pub(super) struct Asked {
    pub(super) target: AuditText,
    pub(super) granted: Option<Granted>,
    pub(super) client_name: Option<Arc<str>>,
}

/// A session's place among the open ones; dropped, it is free again.
#[derive(Debug)]
pub(super) struct SessionSlot {
    live: Arc<Live>,
    entry: Arc<Entry>,
    group: Option<Arc<str>>,
}

/// A row of `/sessions`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Row {
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
}

impl Live {
    /// How many sessions are open.
    #[must_use]
    pub fn open_sessions(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// The open sessions, the oldest first.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let now = SystemTime::now();
        let mut rows: Vec<Row> = self.sessions.iter().map(|entry| entry.row(now)).collect();
        rows.sort_unstable_by_key(|row| row.id);
        rows
    }

    pub(super) fn admit(
        self: &Arc<Self>,
        session: &super::Record,
        limits: &Limits,
    ) -> Result<SessionSlot, Denial> {
        let client = session.client;
        if self.open.fetch_add(1, Ordering::Relaxed) >= limits.open_sessions {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Err(Denial::with_remedy(Reason::SessionLimit, "the gate is full; try later"));
        }
        let mut count = self.clients.entry(subscriber(client)).or_insert(0);
        if *count >= limits.open_sessions_per_client {
            drop(count);
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Err(Denial::with_remedy(
                Reason::SessionLimit,
                "this client has too many sessions open",
            ));
        }
        *count += 1;
        drop(count);
        let entry = Arc::new(Entry {
            id: session.id,
            client,
            listener: session.listener.clone(),
            started: session.started,
            asked: OnceLock::new(),
            progress: OnceLock::new(),
            credited: Mutex::default(),
        });
        self.sessions.insert(session.id, entry.clone());
        Ok(SessionSlot { live: self.clone(), entry, group: None })
    }

    /// Tells what each session has moved since it was last asked.
    pub(super) fn credit(&self, mut tell: impl FnMut(Labels<'_>, Volume)) {
        for entry in &self.sessions {
            if let Some(progress) = entry.progress.get() {
                let more = entry.credit(progress());
                let asked = entry.asked.get();
                let granted = asked.and_then(|asked| asked.granted.as_ref());
                let client = asked.and_then(|asked| asked.client_name.as_deref());
                tell(Labels::of(granted, client), more);
            }
        }
    }
}

impl Entry {
    /// Takes note of what was moved in all, and returns what is new of it.
    fn credit(&self, total: Volume) -> Volume {
        let mut credited = self.credited.lock().unwrap_or_else(PoisonError::into_inner);
        let more = total.less(*credited);
        *credited = credited.plus(more);
        more
    }

    fn row(&self, now: SystemTime) -> Row {
        let volume = self.progress.get().map_or_else(Volume::default, |progress| progress());
        let asked = self.asked.get();
        let granted = asked.and_then(|asked| asked.granted.as_ref());
        Row {
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
        }
    }
}

impl SessionSlot {
    /// What an open session keeps on the heap here, its share of the maps' tables included.
    #[cfg(test)]
    pub(super) const HEAP: usize = size_of::<Entry>() + 2 * size_of::<(SessionId, Arc<Entry>)>();

    /// Takes a place among those of a group, once.
    pub(super) fn join(&mut self, client: &Client) -> Result<(), Denial> {
        if self.group.is_some() {
            return Ok(());
        }
        let mut count = self.live.groups.entry(client.name.clone()).or_insert(0);
        if client.limits.open_sessions.is_some_and(|most| *count >= most) {
            let remedy = format!("{} has too many sessions open", client.name);
            return Err(Denial::with_remedy(Reason::SessionLimit, remedy));
        }
        *count += 1;
        drop(count);
        self.group = Some(client.name.clone());
        Ok(())
    }

    pub(super) fn tell(&self, asked: Asked) {
        // A session asks once; a second time would be a fault of ours, and the first stays.
        drop(self.entry.asked.set(asked));
    }

    pub(super) fn follow(&self, progress: Progress) {
        drop(self.entry.progress.set(progress));
    }

    /// What the session has moved so far, where it can be told.
    pub(super) fn progress(&self) -> Option<Volume> {
        self.entry.progress.get().map(|progress| progress())
    }

    pub(super) fn credit(&self, total: Volume) -> Volume {
        self.entry.credit(total)
    }
}

impl Drop for SessionSlot {
    fn drop(&mut self) {
        self.live.sessions.remove(&self.entry.id);
        self.live.clients.remove_if_mut(&subscriber(self.entry.client), |_, count| {
            *count = count.saturating_sub(1);
            *count == 0
        });
        if let Some(group) = &self.group {
            self.live.groups.remove_if_mut(group, |_, count| {
                *count = count.saturating_sub(1);
                *count == 0
            });
        }
        self.live.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Entry({})", self.id)
    }
}
