//! The audit line: what the gate writes, and what `pullgate report` and `pullgate log` read.
//!
//! There is one type for each kind of line: of a session, of a registry request, of deduplicated
//! denials, of dropped lines. Names and order of their fields are the schema; a test generates
//! `docs/audit.schema.json` from these types. A line to be written borrows from the record and
//! allocates nothing. A line that was read owns its text, and lines of other versions may lack
//! fields: those that are always written are then empty or 0.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::audit_field::{Dropped, Facts, Field, filled};
use super::clock::Timestamp;
use super::id::SessionId;
#[cfg(test)]
use super::schema;
use super::stage::Stages;

/// The `kind` of the line of a registry request.
pub(super) const REQUEST: &str = "request";

/// A line of the audit.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
#[allow(clippy::large_enum_variant, reason = "one line at a time is read")]
pub enum AuditLine<'a> {
    /// Of a session.
    Session(SessionLine<'a>),
    /// Of a registry request.
    Request(RequestLine<'a>),
    /// Of deduplicated denials.
    Repeated(RepeatedLine<'a>),
    /// Of dropped lines.
    Lost(LostLine),
}

/// The line of a session, or of a DNS query that the gate denied.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "session"))]
#[serde(rename_all = "kebab-case", default)]
pub struct SessionLine<'a> {
    /// When the session began.
    #[cfg_attr(test, schemars(with = "schema::Time"))]
    pub(super) time: Field<Timestamp, String>,
    /// The id of the session.
    #[cfg_attr(test, schemars(with = "schema::Id"))]
    pub(super) id: Field<SessionId, String>,
    /// The client address.
    #[cfg_attr(test, schemars(with = "schema::Address"))]
    pub(super) client: Field<IpAddr, String>,
    /// The `[[client]]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub client_name: Option<Cow<'a, str>>,
    /// The listener's address.
    #[cfg_attr(test, schemars(with = "schema::Socket"))]
    pub(super) listener: Cow<'a, str>,
    /// The requested target.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "schema::Text"))]
    pub target: Option<Cow<'a, str>>,
    /// The record type of a DNS query.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "schema::Text"))]
    pub(super) query: Option<Cow<'a, str>>,
    /// The name in the ClientHello.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "schema::Text"))]
    pub sni: Option<Cow<'a, str>>,
    /// The registry that was granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "schema::Name"))]
    pub registry: Option<Cow<'a, str>>,
    /// The kind of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "schema::Endpoint"))]
    pub endpoint: Option<Cow<'a, str>>,
    /// How it ended.
    #[cfg_attr(test, schemars(with = "schema::OutcomeCode"))]
    pub outcome: Cow<'a, str>,
    /// The code of the reason or cause; absent if relayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "schema::Code"))]
    pub reason: Option<Cow<'a, str>>,
    /// The reason that report mode ignored before a denial.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "schema::Code"))]
    pub would_deny: Option<Cow<'a, str>>,
    /// How a `would-deny` session ended, unless successfully.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "schema::Code"))]
    pub ended: Option<Cow<'a, str>>,
    /// The dialled address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "schema::Socket"))]
    pub upstream: Option<Field<SocketAddr, String>>,
    /// Whether the gate has verified the server's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "schema::True"))]
    pub(super) verified: Option<bool>,
    /// Whether the requests in the tunnel were judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "schema::True"))]
    pub(super) inspected: Option<bool>,
    /// The parent proxy of the route.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "schema::Name"))]
    pub(super) parent: Option<Cow<'a, str>>,
    /// `parent` if the parent has chosen the registry's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "schema::ResolvedBy"))]
    pub(super) resolved_by: Option<Cow<'a, str>>,
    /// Bytes from the client to the upstream.
    pub bytes_up: u64,
    /// Bytes from the upstream to the client.
    pub bytes_down: u64,
    /// Those of `bytes_up` that splice(2) moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "u64"))]
    pub(super) spliced_up: Option<u64>,
    /// Those of `bytes_down` that splice(2) moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "u64"))]
    pub(super) spliced_down: Option<u64>,
    /// The generation of the policy that judged it.
    pub(super) generation: u64,
    /// Milliseconds spent in each stage.
    #[cfg_attr(test, schemars(with = "schema::StageTimes"))]
    pub(super) ms: Field<&'a Stages, Value>,
    /// The rejected addresses, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "schema::DroppedAddresses"))]
    pub(super) addresses_dropped: Option<Field<Dropped<'a>, Vec<String>>>,
    /// Facts that affect no decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "schema::FactTexts"))]
    pub(super) facts: Option<Field<Facts<'a>, BTreeMap<String, String>>>,
}

/// The line of a request to a registry.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "request"))]
#[serde(rename_all = "kebab-case", default)]
pub struct RequestLine<'a> {
    /// Always `request`.
    #[cfg_attr(test, schemars(with = "schema::RequestKind"))]
    pub(super) kind: Cow<'a, str>,
    /// When the request began.
    #[cfg_attr(test, schemars(with = "schema::Time"))]
    pub(super) time: Field<Timestamp, String>,
    /// The id of the request.
    #[cfg_attr(test, schemars(with = "schema::Id"))]
    pub(super) id: Field<SessionId, String>,
    /// The session that the request belongs to.
    #[cfg_attr(test, schemars(with = "schema::Id"))]
    pub(super) session: Field<SessionId, String>,
    /// How the request arrived.
    #[cfg_attr(test, schemars(with = "schema::ViaCode"))]
    pub(super) via: Cow<'a, str>,
    /// The client address.
    #[cfg_attr(test, schemars(with = "schema::Address"))]
    pub(super) client: Field<IpAddr, String>,
    /// The `[[client]]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub client_name: Option<Cow<'a, str>>,
    /// The registry that was granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "schema::Name"))]
    pub registry: Option<Cow<'a, str>>,
    /// The method of a registry request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "schema::MethodName"))]
    pub method: Option<Cow<'a, str>>,
    /// The operation.
    #[cfg_attr(test, schemars(with = "schema::Code"))]
    pub operation: Cow<'a, str>,
    /// The repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "schema::Text"))]
    pub repository: Option<Cow<'a, str>>,
    /// The tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "schema::Text"))]
    pub reference: Option<Cow<'a, str>>,
    /// The requested or returned digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "schema::Text"))]
    pub digest: Option<Cow<'a, str>>,
    /// The status of the response.
    #[cfg_attr(test, schemars(with = "schema::Status"))]
    pub status: u16,
    /// How it ended.
    #[cfg_attr(test, schemars(with = "schema::OutcomeCode"))]
    pub outcome: Cow<'a, str>,
    /// The code of the reason or cause; absent if relayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "schema::Code"))]
    pub reason: Option<Cow<'a, str>>,
    /// The dialled address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "schema::Socket"))]
    pub upstream: Option<Field<SocketAddr, String>>,
    /// Bytes from the client to the upstream.
    pub bytes_up: u64,
    /// Bytes from the upstream to the client.
    pub bytes_down: u64,
    /// Milliseconds from the request to the end of the response.
    #[cfg_attr(test, schemars(with = "schema::Milliseconds"))]
    pub ms: f64,
}

/// The line that counts further denials under the id of the first.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "repeated"))]
#[serde(rename_all = "kebab-case", default)]
pub struct RepeatedLine<'a> {
    /// Time of the first denial.
    #[cfg_attr(test, schemars(with = "schema::Time"))]
    pub(super) time: Field<Timestamp, String>,
    /// The id of the first denial.
    #[cfg_attr(test, schemars(with = "schema::Id"))]
    pub(super) id: Field<SessionId, String>,
    /// The client address.
    #[cfg_attr(test, schemars(with = "schema::Address"))]
    pub(super) client: Field<IpAddr, String>,
    /// The `[[client]]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub client_name: Option<Cow<'a, str>>,
    /// The listener's address.
    #[cfg_attr(test, schemars(with = "schema::Socket"))]
    pub(super) listener: Cow<'a, str>,
    /// The requested target.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "schema::Text"))]
    pub target: Option<Cow<'a, str>>,
    /// The record type of a DNS query.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "schema::Text"))]
    pub(super) query: Option<Cow<'a, str>>,
    /// The name in the ClientHello.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "schema::Text"))]
    pub sni: Option<Cow<'a, str>>,
    /// The registry that was granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "schema::Name"))]
    pub registry: Option<Cow<'a, str>>,
    /// The kind of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "schema::Endpoint"))]
    pub endpoint: Option<Cow<'a, str>>,
    /// How it ended.
    #[cfg_attr(test, schemars(with = "schema::RepeatedOutcome"))]
    pub outcome: Cow<'a, str>,
    /// The code of the reason or cause.
    #[cfg_attr(test, schemars(with = "schema::Code"))]
    pub reason: Cow<'a, str>,
    /// Number of further denials that were counted under this id.
    #[cfg_attr(test, schemars(with = "schema::AtLeastOne"))]
    pub repeated: u64,
    /// Time of the last of the denials.
    #[cfg_attr(test, schemars(with = "schema::Time"))]
    pub(super) until: Field<Timestamp, String>,
    /// Some of the targets that were deduplicated together.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, schemars(with = "schema::Samples"))]
    pub samples: Vec<Cow<'a, str>>,
}

/// The line that counts lines that were dropped because the queue was full.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "lost"))]
#[serde(rename_all = "kebab-case", default)]
pub struct LostLine {
    /// When the line was written.
    #[cfg_attr(test, schemars(with = "schema::Time"))]
    pub(super) time: Field<Timestamp, String>,
    /// Number of dropped lines.
    #[cfg_attr(test, schemars(with = "schema::AtLeastOne"))]
    pub dropped: u64,
    /// Number of denials among them.
    pub(super) dropped_denied: u64,
}

/// What tells the kinds apart.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Marks<'a> {
    #[serde(borrow)]
    kind: Option<Cow<'a, str>>,
    repeated: Option<IgnoredAny>,
    dropped: Option<IgnoredAny>,
}

/// What lines of most kinds have, as read; `None` if the line has no such field.
#[derive(Debug, Default, Clone, Copy)]
pub struct CommonFields<'a> {
    /// When it began.
    pub time: Option<&'a str>,
    /// The id in the answer to the client.
    pub id: Option<&'a str>,
    /// The client address.
    pub client: Option<&'a str>,
    /// The `[[client]]`.
    pub client_name: Option<&'a str>,
    /// The registry that was granted.
    pub registry: Option<&'a str>,
    /// How it ended.
    pub outcome: Option<&'a str>,
    /// The code of the reason or cause.
    pub reason: Option<&'a str>,
    /// The requested target, otherwise the name in the ClientHello. `None` for a request.
    pub target: Option<&'a str>,
    /// The name in the ClientHello.
    pub sni: Option<&'a str>,
    /// The time of the last of deduplicated denials.
    pub until: Option<&'a str>,
}

impl AuditLine<'static> {
    /// Reads a line of any kind.
    ///
    /// # Errors
    /// If it is not JSON, or a field has another type.
    pub fn read(json: &[u8]) -> Result<Self, serde_json::Error> {
        let marks: Marks<'_> = serde_json::from_slice(json)?;
        match marks {
            Marks { kind: Some(kind), .. } if kind == REQUEST => {
                serde_json::from_slice(json).map(Self::Request)
            }
            Marks { repeated: Some(_), .. } => serde_json::from_slice(json).map(Self::Repeated),
            Marks { dropped: Some(_), .. } => serde_json::from_slice(json).map(Self::Lost),
            _ => serde_json::from_slice(json).map(Self::Session),
        }
    }
}

impl AuditLine<'_> {
    /// Returns what lines of most kinds have. A line of dropped lines has only the time.
    #[must_use]
    pub fn common(&self) -> CommonFields<'_> {
        macro_rules! common {
            ($line:expr, $reason:expr) => {
                CommonFields {
                    time: $line.time.text(),
                    id: $line.id.text(),
                    client: $line.client.text(),
                    client_name: $line.client_name.as_deref(),
                    registry: $line.registry.as_deref(),
                    outcome: filled(&$line.outcome),
                    reason: $reason,
                    ..CommonFields::default()
                }
            };
        }
        match self {
            Self::Session(line) => CommonFields {
                target: line.target.as_deref().or(line.sni.as_deref()),
                sni: line.sni.as_deref(),
                ..common!(line, line.reason.as_deref())
            },
            Self::Request(line) => common!(line, line.reason.as_deref()),
            Self::Repeated(line) => CommonFields {
                target: line.target.as_deref().or(line.sni.as_deref()),
                sni: line.sni.as_deref(),
                until: line.until.text(),
                ..common!(line, filled(&line.reason))
            },
            Self::Lost(line) => CommonFields { time: line.time.text(), ..CommonFields::default() },
        }
    }
}

impl SessionLine<'_> {
    /// Returns the milliseconds of a stage, as read.
    #[must_use]
    pub fn milliseconds(&self, stage: &str) -> Option<f64> {
        match &self.ms {
            Field::Read(stages) => stages.get(stage)?.as_f64(),
            Field::Written(_) => None,
        }
    }
}
