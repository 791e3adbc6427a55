//! The account of one registry request: its own audit line, and the request metrics.
//!
//! Text from clients is used only after it was parsed: repositories, tags and digests have closed
//! character sets.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::audit_field::Field;
use super::audit_line::{REQUEST, RequestLine};
use super::books::Account;
use super::clock::Timestamp;
use super::dedup::DenialKey;
use super::id::SessionId;
use super::latest_requests::RequestRow;
use super::record::{Granted, Outcome, Record, SessionEnd};
use super::text::AuditText;
use crate::oci::{Digest, RegistryName, Repository, Request};
use crate::policy::{Cause, Ending, Failure, NO_LABEL, Reason, Side, Stop};

/// How a request arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestVia {
    /// At the mirror.
    Mirror,
    /// In an inspected tunnel.
    Inspect,
}

impl RequestVia {
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Mirror => "mirror",
            Self::Inspect => "inspect",
        }
    }
}

/// The account of an open request. It is closed once. If it is dropped, it closes itself as a
/// request whose client has gone.
#[derive(Debug)]
pub struct OpenRequest {
    account: Arc<Account>,
    id: SessionId,
    started: SystemTime,
    began: Instant,
    session: SessionId,
    via: RequestVia,
    client: IpAddr,
    listener: Arc<str>,
    /// The client's group, where there is one.
    pub client_name: Option<Arc<str>>,
    /// The registry, once it is known.
    pub granted: Option<Granted>,
    /// The image, as far as it is known.
    asked: Option<AuditText>,
    method: Option<&'static str>,
    operation: &'static str,
    repository: Option<AuditText>,
    reference: Option<AuditText>,
    /// The requested digest, or the one that the registry returned.
    digest: Option<AuditText>,
    /// The status of the response to the client.
    pub status: u16,
    /// The last dialled address.
    pub upstream: Option<SocketAddr>,
    /// The denial that enforcement would have caused.
    pub would_deny: Option<Reason>,
    /// Bytes of the request body.
    pub bytes_up: u64,
    /// Bytes of the response body.
    pub bytes_down: u64,
    is_closed: bool,
}

/// The operation of a request that could not be parsed.
const UNKNOWN: &str = "unknown";

/// The room for the name of an image before it has to grow, in bytes.
const USUAL_IMAGE: usize = 128;

impl Account {
    /// Opens the account of a request.
    #[must_use]
    pub fn open_request(
        self: &Arc<Self>,
        session: SessionId,
        via: RequestVia,
        (client, listener): (IpAddr, Arc<str>),
    ) -> OpenRequest {
        let started = SystemTime::now();
        OpenRequest {
            account: self.clone(),
            id: self.ids.next(started),
            started,
            began: Instant::now(),
            session,
            via,
            client: client.to_canonical(),
            listener,
            client_name: None,
            granted: None,
            asked: None,
            method: None,
            operation: UNKNOWN,
            repository: None,
            reference: None,
            digest: None,
            status: 0,
            upstream: None,
            would_deny: None,
            bytes_up: 0,
            bytes_down: 0,
            is_closed: false,
        }
    }
}

impl OpenRequest {
    /// Notes what is asked for.
    pub fn ask(&mut self, request: &Request) {
        let Request { method, registry, operation } = request;
        self.method = Some(method.as_str());
        let mut asked = String::with_capacity(USUAL_IMAGE);
        let names = [
            registry.as_ref().map(RegistryName::as_str),
            operation.repository().map(Repository::as_str),
        ];
        for name in names.into_iter().flatten() {
            if !asked.is_empty() {
                asked.push('/');
            }
            asked.push_str(name);
        }
        if let Some(tag) = operation.tag() {
            asked.push(':');
            asked.push_str(tag.as_str());
        }
        self.asked = Some(AuditText::new(&asked)).filter(|text| !text.as_str().is_empty());
        self.operation = operation.name();
        self.repository = operation.repository().map(|name| AuditText::of_shared(name.shared()));
        self.reference = operation.tag().map(|tag| AuditText::of_shared(tag.shared()));
        self.digest = operation.digest().map(|digest| AuditText::of_shared(digest.shared()));
    }

    /// Notes the digest that a registry names for a tag (`Docker-Content-Digest`).
    pub fn names_digest(&mut self, digest: &Digest) {
        self.digest.get_or_insert_with(|| AuditText::of_shared(digest.shared()));
    }

    /// Writes the audit line and updates the metrics. Returns the id for the answer; `None` if the
    /// line was dropped. A second call has no effect.
    pub fn close(&mut self, end: &Result<Ending, Stop>) -> Option<SessionId> {
        if self.is_closed {
            return None;
        }
        self.is_closed = true;
        let verdict = match (end, self.would_deny) {
            (Ok(Ending::Closed), None) => (Outcome::Relayed, None),
            (Err(Stop::Denied(denial)), _) => (Outcome::Denied, Some(denial.reason.code())),
            (Err(stop), None) => (Outcome::Failed, Some(stop.code())),
            (_, Some(reason)) => (Outcome::WouldDeny, Some(reason.code())),
        };
        let (outcome, reason) = verdict;
        let verdict = SessionEnd { outcome, reason, ended: None };
        let spent = self.began.elapsed();
        let label = self.granted.as_ref().map_or(NO_LABEL, |granted| &*granted.label);
        self.account.metrics.request_ended(label, self.operation, verdict, spent);
        let line = RequestLine {
            kind: REQUEST.into(),
            time: Field::Written(Timestamp(self.started)),
            id: Field::Written(self.id),
            session: Field::Written(self.session),
            via: self.via.code().into(),
            client: Field::Written(self.client),
            client_name: self.client_name.as_deref().map(Cow::Borrowed),
            registry: self.granted.as_ref().map(|granted| Cow::Borrowed(&*granted.registry)),
            method: self.method.map(Cow::Borrowed),
            operation: self.operation.into(),
            repository: self.repository.as_ref().map(AuditText::to_cow),
            reference: self.reference.as_ref().map(AuditText::to_cow),
            digest: self.digest.as_ref().map(AuditText::to_cow),
            status: self.status,
            outcome: outcome.code().into(),
            reason: reason.map(Cow::Borrowed),
            upstream: self.upstream.map(Field::Written),
            bytes_up: self.bytes_up,
            bytes_down: self.bytes_down,
            ms: (spent.as_secs_f64() * 1e6).round() / 1e3,
        };
        let record = self.folded();
        let is_denial = outcome == Outcome::Denied;
        // What was answered has its own numbers, and so its own line.
        let folding = reason.filter(|_| is_denial && self.bytes_down == 0 && self.bytes_up == 0);
        let kind = folding.map(|reason| DenialKey::of(&record, outcome, reason));
        let id = self.account.audit.take_line(&line, &record, is_denial, kind);
        self.account.incidents.note(&record, end, id);
        self.account.requests.note(self.row((outcome, reason), spent, id));
        id
    }

    /// The row of the status page.
    fn row(
        &self,
        (outcome, reason): (Outcome, Option<&'static str>),
        spent: Duration,
        id: Option<SessionId>,
    ) -> RequestRow {
        let registry = self.granted.as_ref().map(|granted| granted.registry.clone());
        RequestRow {
            time: Timestamp(self.started),
            via: self.via.code(),
            client: self.client,
            client_name: self.client_name.clone().map(AuditText::of_shared),
            registry: registry.map(AuditText::of_shared),
            method: self.method,
            operation: self.operation,
            repository: self.repository.clone(),
            reference: self.reference.as_ref().or(self.digest.as_ref()).cloned(),
            status: self.status,
            outcome: outcome.code(),
            reason,
            bytes_down: self.bytes_down,
            ms: (spent.as_secs_f64() * 1e6).round() / 1e3,
            id,
        }
    }

    /// What repetitions of its denial are summed up by.
    fn folded(&self) -> Record {
        let (client, listener) = (self.client, self.listener.clone());
        let mut record = Record::new(self.id, self.started, client, listener);
        record.client_name = self.client_name.clone();
        record.granted = self.granted.clone();
        record.target = self.asked.clone();
        record.would_deny = self.would_deny;
        record
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let failure = match std::thread::panicking() {
            true => Failure { side: Side::Gate, cause: Cause::Internal },
            false => Failure { side: Side::Client, cause: Cause::ClientAborted },
        };
        self.close(&Err(failure.into()));
    }
}
