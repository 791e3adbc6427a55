//! What went wrong within the last hour, for the status page: denials, failures, and the sessions
//! that report mode let pass.
//!
//! Equal incidents are one row with a count. The rows of each outcome are bounded apart, so that a
//! client that is denied often cannot hide failures. Text from clients is an [`AuditText`], so a
//! page can show it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::clock::Timestamp;
use super::doctor_mark::is_from_doctor;
use super::id::SessionId;
use super::record::{Outcome, Record};
use super::text::AuditText;
use crate::policy::{Cause, Denial, DetailedFailure, Ending, Failure, Reason, Stop, subscriber};

/// Maximum number of rows of an outcome. When all are in use, the client with the most rows loses
/// the one that was quiet for longest.
const ROWS: usize = 50;

/// Rows that were quiet for so long are removed.
const KEPT: Duration = Duration::from_secs(3_600);

/// The incidents of the last hour.
#[derive(Debug, Default)]
pub struct Incidents {
    rows: Mutex<HashMap<IncidentKey, IncidentCounts>>,
}

/// What makes two incidents equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct IncidentKey {
    what: Incident,
    client: IpAddr,
    host: Option<AuditText>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Incident {
    Denied(Reason),
    WouldDeny(Reason),
    Failed(Cause),
}

#[derive(Debug)]
struct IncidentCounts {
    count: u64,
    last: SystemTime,
    client_name: Option<Arc<str>>,
    detail: Option<AuditText>,
    id: Option<SessionId>,
}

/// A row of the status page.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct IncidentRow {
    outcome: &'static str,
    last: Timestamp,
    client: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_name: Option<String>,
    host: String,
    reason: &'static str,
    meaning: &'static str,
    /// The phrase that the client received, or what was seen of the failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    remedy: &'static str,
    count: u64,
    /// The id of the last one, as the audit and the client have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<SessionId>,
}

impl Incidents {
    /// Notes the end of a session or of a request. `id`: the id that the audit has; `None` if it
    /// lost the line.
    pub(super) fn note(&self, record: &Record, end: &Result<Ending, Stop>, id: Option<SessionId>) {
        if let Some(reason) = record.would_deny {
            self.add(record, Incident::WouldDeny(reason), None, id);
        }
        match end {
            Ok(Ending::Closed) => {}
            Err(Stop::Denied(Denial { reason, remedy })) => {
                self.add(record, Incident::Denied(*reason), remedy.as_deref(), id);
            }
            Err(Stop::Failed(Failure { cause, .. })) => {
                self.add(record, Incident::Failed(*cause), None, id);
            }
            Err(Stop::Detailed(detailed)) => {
                let DetailedFailure { failure, detail } = &**detailed;
                self.add(record, Incident::Failed(failure.cause), Some(detail), id);
            }
        }
    }

    fn add(&self, record: &Record, what: Incident, detail: Option<&str>, id: Option<SessionId>) {
        let asked = [record.target.as_ref(), record.sni.as_ref()];
        let is_from_doctor = asked.into_iter().flatten().any(|host| is_from_doctor(host.as_str()));
        if is_from_doctor || matches!(what, Incident::Failed(cause) if cause.is_routine()) {
            return;
        }
        let host = record.target.clone().or_else(|| record.sni.clone());
        let key = IncidentKey { what, client: record.client, host };
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if !rows.contains_key(&key) {
            make_room(&mut rows, what.outcome(), record.started);
        }
        let row = rows.entry(key).or_insert(IncidentCounts {
            count: 0,
            last: record.started,
            client_name: None,
            detail: None,
            id: None,
        });
        row.count += 1;
        row.last = row.last.max(record.started);
        row.client_name.clone_from(&record.client_name);
        row.detail = detail.map(AuditText::new);
        row.id = id;
    }

    /// Returns the rows of the hour before `now`, the latest first.
    #[must_use]
    pub fn rows(&self, now: SystemTime) -> Vec<IncidentRow> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.retain(|_, row| is_recent(row, now));
        let shown = |(key, row): (&IncidentKey, &IncidentCounts)| IncidentRow {
            outcome: key.what.outcome().code(),
            last: Timestamp(row.last),
            client: key.client,
            client_name: row.client_name.as_deref().map(str::to_owned),
            host: key.host.as_ref().map_or("(no host)", AuditText::as_str).to_owned(),
            reason: key.what.code(),
            meaning: key.what.meaning(),
            detail: row.detail.as_ref().map(|detail| detail.as_str().to_owned()),
            remedy: key.what.advice(),
            count: row.count,
            id: row.id,
        };
        let mut shown: Vec<IncidentRow> = rows.iter().map(shown).collect();
        shown.sort_by_key(|row| std::cmp::Reverse((row.last.0, row.id)));
        shown
    }
}

/// A clock that was set back makes rows of the future, which are kept.
fn is_recent(row: &IncidentCounts, now: SystemTime) -> bool {
    now.duration_since(row.last).unwrap_or_default() < KEPT
}

/// Removes a row of an outcome if all of its places are in use.
fn make_room(rows: &mut HashMap<IncidentKey, IncidentCounts>, outcome: Outcome, now: SystemTime) {
    let mut by_client: HashMap<IpAddr, usize> = HashMap::new();
    for key in rows.keys().filter(|key| key.what.outcome() == outcome) {
        *by_client.entry(subscriber(key.client)).or_default() += 1;
    }
    if by_client.values().sum::<usize>() < ROWS {
        return;
    }
    rows.retain(|_, row| is_recent(row, now));
    let Some(most) = by_client.values().max().copied() else { return };
    let oldest = rows
        .iter()
        .filter(|(key, _)| {
            let has_most = by_client.get(&subscriber(key.client)) == Some(&most);
            has_most && key.what.outcome() == outcome
        })
        .min_by_key(|(_, row)| row.last);
    if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
        rows.remove(&oldest);
    }
}

impl Incident {
    fn outcome(self) -> Outcome {
        match self {
            Self::Denied(_) => Outcome::Denied,
            Self::WouldDeny(_) => Outcome::WouldDeny,
            Self::Failed(_) => Outcome::Failed,
        }
    }

    fn code(self) -> &'static str {
        match self {
            Self::Denied(reason) | Self::WouldDeny(reason) => reason.code(),
            Self::Failed(cause) => cause.code(),
        }
    }

    fn meaning(self) -> &'static str {
        match self {
            Self::Denied(reason) | Self::WouldDeny(reason) => reason.meaning(),
            Self::Failed(cause) => cause.meaning(),
        }
    }

    fn advice(self) -> &'static str {
        match self {
            Self::Denied(reason) | Self::WouldDeny(reason) => reason.advice(),
            Self::Failed(cause) => cause.advice(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Side;
    use std::time::UNIX_EPOCH;

    fn record(client: &str, host: &str, seconds: u64) -> Record {
        let started = UNIX_EPOCH + Duration::from_secs(seconds);
        let client = client.parse().unwrap();
        let mut record = Record::new(SessionId::FIXED, started, client, "127.0.0.1:3128".into());
        record.target = Some(AuditText::new(host));
        record
    }

    fn failed(cause: Cause) -> Result<Ending, Stop> {
        Err(Failure { side: Side::Upstream, cause }.into())
    }

    fn shown(incidents: &Incidents, seconds: u64) -> Vec<(&'static str, String, u64)> {
        let rows = incidents.rows(UNIX_EPOCH + Duration::from_secs(seconds));
        rows.into_iter().map(|row| (row.outcome, row.host, row.count)).collect()
    }

    #[test]
    fn each_outcome_has_rows_of_its_own_for_an_hour() {
        let incidents = Incidents::default();
        let note = |record: &Record, end| incidents.note(record, &end, Some(SessionId::FIXED));
        for seconds in [1, 2] {
            note(&record("10.0.0.7", "a", seconds), Err(Reason::HostNotAllowed.into()));
        }
        note(&record("10.0.0.7", "b", 3), failed(Cause::NameNotFound));
        let mut passed = record("fd00::7", "c", 4);
        passed.would_deny = Some(Reason::OtherRegistry);
        note(&passed, Ok(Ending::Closed));
        // Neither goes wrong.
        note(&record("10.0.0.7", "d", 5), failed(Cause::ClientAborted));
        note(&record("10.0.0.7", "d", 5), failed(Cause::IdleTimeout));
        note(&record("10.0.0.7", "d", 5), Ok(Ending::Closed));
        // It is `pullgate doctor` that asks.
        let of_doctor = record("10.0.0.7", "pullgate-doctor.example.com:443", 5);
        note(&of_doctor, Err(Reason::HostNotAllowed.into()));
        let row = |outcome, host: &str, count| (outcome, host.to_owned(), count);
        let all = [row("would-deny", "c", 1), row("failed", "b", 1), row("denied", "a", 2)];
        assert_eq!(shown(&incidents, 10), all);
        assert_eq!(shown(&incidents, 3_602), all[..2]);
        assert_eq!(shown(&incidents, 3_700), []);
    }

    #[test]
    fn a_client_that_asks_for_ever_new_hosts_hides_nobody_else() {
        let incidents = Incidents::default();
        let note = |record: &Record, end| incidents.note(record, &end, None);
        note(&record("10.0.0.1", "quiet", 0), Err(Reason::StorageAccount.into()));
        note(&record("10.0.0.1", "broken", 0), failed(Cause::ConnectTimeout));
        for seconds in 1..=1_000 {
            // All addresses of a /64 are one client.
            let client = format!("fd00::{seconds:x}");
            let loud = record(&client, &format!("host{seconds}"), seconds);
            note(&loud, Err(Reason::HostNotAllowed.into()));
        }
        let rows = shown(&incidents, 1_000);
        assert_eq!(rows.len(), ROWS + 1);
        assert!(rows.contains(&("denied", "quiet".into(), 1)), "{rows:?}");
        assert!(rows.contains(&("failed", "broken".into(), 1)), "{rows:?}");
        assert_eq!(rows[0].1, "host1000");
    }
}
