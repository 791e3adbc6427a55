//! The account of each session: one record, written once.
//!
//! A session opens an [`Open`] at accept, fills in its record, and closes it once. That writes one
//! audit line and updates the metrics. No other module writes to the metrics or the audit. The only
//! decision here is whether the line of a session could be dropped ([`Open::admit`]). No sockets.

mod audit;
mod audit_field;
mod audit_line;
mod books;
mod clock;
mod dedup;
mod doctor_mark;
mod headed;
mod history;
mod id;
mod incidents;
mod labels;
mod latest_requests;
mod metrics;
mod open_sessions;
mod probe;
mod query;
mod record;
mod request;
#[cfg(test)]
mod schema;
mod shortages;
mod sink;
mod stage;
mod status;
mod storage_requests;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use prometheus::Registry;

pub use audit_field::{Dropped, Facts, Field};
pub use audit_line::{AuditLine, CommonFields, LostLine, RepeatedLine, RequestLine, SessionLine};
pub use books::Account;
pub use clock::ClockBehind;
pub use doctor_mark::{DOCTOR_MARK, DOCTOR_STORAGE, is_from_doctor};
pub use headed::Headed;
pub use history::{Ends, LastHour, STEP, Traffic};
pub use id::SessionId;
pub use incidents::{IncidentRow, Incidents};
pub use latest_requests::{LatestRequests, RequestRow};
pub use metrics::Metrics;
pub use open_sessions::{Follow, OpenSessions, Progress, SessionRow};
pub use probe::probe_metrics;
pub use query::{QueryResult, RefusedQuery};
pub use record::{Granted, Moved, Outcome, Record, Volume};
pub use request::{OpenRequest, RequestVia};
pub use sink::Sink;
pub use stage::{Stage, Stages};
pub use status::{ParentStatus, ParentTrouble, Phase, Status};
pub use text::AuditText;

use crate::config::OnFull;
use crate::policy::{Allowed, Cause, Denial, Ending, Failure, Reason, Side, Stop, Target};
use audit::Audit;
use history::History;
use id::Ids;
use labels::Labels;
use metrics::MetricsInput;
use open_sessions::{ListedSession, SessionTarget};
use record::SessionEnd;
use shortages::Shortages;
use sink::Outlet;
use storage_requests::StorageRequests;

/// Why accounts cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The metrics' names are taken.
    #[error("the metrics cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The audit's file cannot be written to.
    #[error("the audit cannot be opened: {sink}: {error}")]
    Sink {
        /// Where its lines should go.
        sink: Sink,
        /// What the system says.
        error: io::Error,
    },
    /// There is no thread for the audit.
    #[error("the audit cannot be started: {0}")]
    Thread(io::Error),
}

/// A connection as it is accepted.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Who connected.
    pub client: IpAddr,
    /// The listener's address as text.
    pub listener: Arc<str>,
    /// When.
    pub accepted: Instant,
    /// What is read first: [`Stage::Head`], or [`Stage::Hello`] on a transparent listener.
    pub first: Stage,
}

impl Account {
    /// Starts the audit and registers the metrics.
    ///
    /// # Errors
    /// When the audit cannot be written to, or the metrics' names are taken.
    pub fn new(registry: Registry, sink: Sink) -> Result<Arc<Self>, AccountError> {
        Self::with(registry, sink, OnFull::GoOn)
    }

    /// The same, and says what becomes of sessions while the audit cannot be written.
    ///
    /// # Errors
    /// When the audit cannot be written to, or the metrics' names are taken.
    pub fn with(
        registry: Registry,
        sink: Sink,
        on_full: OnFull,
    ) -> Result<Arc<Self>, AccountError> {
        let opened = Outlet::open(&sink);
        let outlet = opened.map_err(|error| AccountError::Sink { sink, error })?;
        Self::with_outlet(registry, outlet, on_full)
    }

    fn with_outlet(
        registry: Registry,
        outlet: Outlet,
        on_full: OnFull,
    ) -> Result<Arc<Self>, AccountError> {
        let metrics = Metrics::new(registry)?;
        let dropped = metrics.audit_dropped().clone();
        let audit = Audit::start(outlet, dropped).map_err(AccountError::Thread)?;
        Ok(Arc::new(Self {
            ids: Ids::new(),
            audit,
            on_full,
            askers: StorageRequests::default(),
            incidents: Incidents::default(),
            requests: LatestRequests::default(),
            history: History::default(),
            metrics,
            open: Arc::default(),
            shortages: Shortages::default(),
        }))
    }

    /// Opens the account of a session.
    #[must_use]
    pub fn open(self: &Arc<Self>, arrival: Arrival) -> Open {
        let started = SystemTime::now();
        let id = self.ids.next(started);
        let mut record = Record::new(id, started, arrival.client, arrival.listener);
        record.stages = Stages::start(arrival.first, arrival.accepted);
        Open {
            account: self.clone(),
            record: Box::new(record),
            listed: None,
            state: RecordState::Open,
        }
    }

    /// The open sessions.
    #[must_use]
    pub fn open_sessions(&self) -> &OpenSessions {
        &self.open
    }

    /// The denials and failures of the last hour.
    #[must_use]
    pub fn incidents(&self) -> &Incidents {
        &self.incidents
    }

    /// Returns the latest registry requests.
    #[must_use]
    pub fn latest_requests(&self) -> &LatestRequests {
        &self.requests
    }

    /// What was relayed so far, up and down, by the registry's label; live sessions included.
    #[must_use]
    pub fn moved_by_registry(&self) -> BTreeMap<String, (u64, u64)> {
        self.metrics.moved_by_registry(&self.open)
    }

    /// Ends a step of the history. Call it every [`STEP`].
    pub fn remember(&self) {
        self.history.remember(&self.moved_by_registry(), self.metrics.ends());
    }

    /// Returns what happened within the last hour, up to now.
    #[must_use]
    pub fn last_hour(&self) -> LastHour {
        self.history.last_hour(&self.moved_by_registry(), self.metrics.ends())
    }

    /// Returns the traffic of each registry in the steps of the last hour, the oldest first.
    #[must_use]
    pub fn traffic_history(&self) -> BTreeMap<String, Traffic<Vec<u64>>> {
        self.history.steps()
    }

    /// Counts the tasks of the runtimes that serve, beside that in which the metrics are asked for.
    /// Said once; later words change nothing.
    pub fn count_tasks_of(&self, runtimes: Vec<tokio::runtime::Handle>) {
        self.metrics.count_tasks_of(runtimes);
    }

    /// The metrics as Prometheus reads them (text format 0.0.4).
    ///
    /// # Errors
    /// When a metric cannot be written as text.
    pub fn metrics_text(&self, status: &Status) -> Result<String, prometheus::Error> {
        let input = MetricsInput {
            audit_failing: self.audit.is_failing(),
            storage_asks: self.askers.most(Instant::now()),
        };
        self.metrics.text(&self.open, input, status)
    }

    /// Counts a query.
    pub fn count_query(&self, result: QueryResult) {
        self.metrics.query_ended(result);
    }

    /// Writes the audit line of a query that was refused for its name; one that repeats another is
    /// folded like any denial. It is counted apart.
    pub fn record_refused(&self, query: RefusedQuery) {
        let RefusedQuery { client, client_name, listener, name, kind, reason, generation } = query;
        let started = SystemTime::now();
        let mut record = Record::new(self.ids.next(started), started, client, listener);
        record.client_name = client_name;
        record.target = Some(name);
        record.ask_kind(kind);
        record.generation = generation;
        let verdict =
            SessionEnd { outcome: Outcome::Denied, reason: Some(reason.code()), ended: None };
        self.audit.take(&record, verdict);
    }

    /// Has the audit file opened anew, as after a rotation.
    pub fn reopen_audit(&self) {
        self.audit.reopen();
    }

    /// Writes what the audit still holds and ends it; gives up after `patience`. Blocks the thread;
    /// lines of sessions that close later are lost, and counted.
    pub fn finish(&self, patience: Duration) {
        self.audit.finish(patience);
    }
}

/// The account of an open session.
///
/// Dropped without [`Self::close`], it closes itself: as a panic of the gate's own where one is
/// under way, else as drained, since only the end of the process drops a session half-way.
#[derive(Debug)]
pub struct Open {
    account: Arc<Account>,
    /// What the session fills.
    pub record: Box<Record>,
    listed: Option<ListedSession>,
    state: RecordState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RecordState {
    Open,
    /// Under which id the audit has it.
    Closed(Option<SessionId>),
}

impl Open {
    /// Lists it among the open sessions until this is dropped.
    ///
    /// # Errors
    /// `audit-full` where no session may go unrecorded and its line could be lost.
    pub fn admit(&mut self) -> Result<(), Denial> {
        if self.account.on_full == OnFull::Stop && self.account.audit.is_full() {
            return Err(Denial::with_remedy(Reason::AuditFull, "try later"));
        }
        if self.listed.is_none() {
            self.listed = Some(self.account.open.list(&self.record));
        }
        Ok(())
    }

    /// Returns the session's id.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.record.id
    }

    /// Notes the target as the client wrote it.
    pub fn ask(&mut self, target: &str) {
        self.record.target = Some(AuditText::of_request(target));
    }

    /// Notes the target, once it is known to be one.
    pub fn ask_for(&mut self, target: &Target) {
        self.record.target = Some(AuditText::of_target(target));
    }

    /// Notes what the policy said to the name, and shows it in `/sessions`.
    pub fn allow(&mut self, allowed: &Allowed) {
        self.record.allow(allowed);
        if let (Some(listed), Some(target)) = (&self.listed, &self.record.target) {
            listed.describe(SessionTarget {
                target: target.clone(),
                granted: self.record.granted.clone(),
                client_name: self.record.client_name.clone(),
            });
        }
    }

    /// Lets `/sessions` and the counters see what the relay moves while it lasts. At the close it
    /// goes ahead of the record's own volume, so that an interrupted session is counted in full.
    pub fn follow(&mut self, progress: Follow) {
        if let Some(listed) = &self.listed {
            listed.follow(progress);
        }
    }

    /// Writes the record: one audit line, and the counters. Call it before the answer goes out;
    /// what comes later is not recorded, and a second call changes nothing.
    ///
    /// Returns the id to put into the answer: the first's where repeated denials are folded; none
    /// when the audit has lost the line.
    pub fn close(&mut self, end: &Result<Ending, Stop>) -> Option<SessionId> {
        if let RecordState::Closed(id) = self.state {
            return id;
        }
        let record = &mut self.record;
        record.stages.finish();
        if let Some(volume) = self.listed.as_ref().and_then(ListedSession::progress) {
            record.volume = volume;
        }
        if let Err(Stop::Detailed(failure)) = end
            && failure.failure.cause.code().starts_with("parent-")
        {
            record.note("parent-answer", AuditText::new(&failure.detail));
        }
        let verdict = record.verdict(end);
        let account = &self.account;
        account.metrics.ended(record, verdict);
        account.shortages.note(record, end);
        if verdict.reason == Some(Reason::StorageAccount.code()) {
            account.askers.count(record.client, Instant::now());
        }
        let volume =
            self.listed.as_ref().map_or(record.volume, |listed| listed.credit(record.volume));
        account.metrics.relayed(Labels::of_record(record), volume);
        let id = account.audit.take(record, verdict);
        account.incidents.note(record, end, id);
        self.state = RecordState::Closed(id);
        id
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.state != RecordState::Open {
            return;
        }
        if std::thread::panicking() {
            self.account.metrics.panicked();
            let failure = Failure { side: Side::Gate, cause: Cause::Internal };
            self.close(&Err(Stop::Failed(failure)));
        } else {
            self.close(&Err(Reason::Draining.into()));
        }
    }
}
