//! The audit line: the type that the gate writes, and that `pullgate report` and `pullgate log`
//! read. Its field names and their order are the schema; `docs/audit.schema.json` describes it.
//!
//! There are three kinds: the line of a session (`kind` is absent), a line with `repeated`, which
//! counts deduplicated denials, and a line with `dropped`, which counts dropped lines. A line to be
//! written borrows from the record and allocates nothing. A line that was read owns its text, and
//! lines of other versions may lack fields.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::clock::Timestamp;
use super::headed::Headed;
use super::id::SessionId;
use super::stage::Stages;
use super::text::AuditText;
use crate::policy::AddressFault;

/// Maximum number of rejected addresses in a line.
const DROPPED_SHOWN: usize = 8;

/// A value that the gate writes from a specific type and reads as plain data.
#[derive(Debug, Clone, PartialEq)]
pub enum Field<W, R> {
    /// To be written.
    Written(W),
    /// As read.
    Read(R),
}

/// A line of the audit.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct AuditLine<'a> {
    /// `request` for a registry request; absent for a session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Cow<'a, str>>,
    /// When the session began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) time: Option<Field<Timestamp, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<Field<SessionId, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) client: Option<Field<IpAddr, String>>,
    /// The `[[client]]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_name: Option<Cow<'a, str>>,
    /// The listener's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<Cow<'a, str>>,
    /// The requested target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Cow<'a, str>>,
    /// The record type of a DNS query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<Cow<'a, str>>,
    /// The name in the ClientHello.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<Cow<'a, str>>,
    /// The registry that was granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<Cow<'a, str>>,
    /// The kind of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Cow<'a, str>>,
    /// An [`Outcome`](super::Outcome)'s code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Cow<'a, str>>,
    /// The code of the reason or cause; absent if relayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'a, str>>,
    /// The reason that report mode ignored before a denial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would_deny: Option<Cow<'a, str>>,
    /// How a `would-deny` session ended, unless successfully.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) upstream: Option<Field<SocketAddr, String>>,
    /// Whether the gate has verified the server's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) verified: Option<bool>,
    /// The parent proxy of the route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parent: Option<Cow<'a, str>>,
    /// `parent` if the parent has chosen the registry's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) resolved_by: Option<Cow<'a, str>>,
    /// Bytes from the client to the upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_up: Option<u64>,
    /// Bytes from the upstream to the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_down: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) spliced_up: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) spliced_down: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) generation: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ms: Option<Field<&'a Stages, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) addresses_dropped: Option<Field<Dropped<'a>, Vec<String>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) facts: Option<Field<Facts<'a>, BTreeMap<String, String>>>,
    /// The method of a registry request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Cow<'a, str>>,
    /// The operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<Cow<'a, str>>,
    /// The repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<Cow<'a, str>>,
    /// The tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<Cow<'a, str>>,
    /// The requested or returned digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Cow<'a, str>>,
    /// The status of the response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u64>,
    /// Number of further denials that were counted under this id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeated: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<Field<Timestamp, String>>,
    /// Some of the targets that were deduplicated together.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<Cow<'a, str>>,
    /// Number of dropped lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropped: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) dropped_denied: Option<u64>,
}

impl AuditLine<'_> {
    /// Returns when the session began, as read.
    #[must_use]
    pub fn time(&self) -> Option<&str> {
        read(self.time.as_ref())
    }

    /// Returns the time of the last deduplicated denial, as read.
    #[must_use]
    pub fn until(&self) -> Option<&str> {
        read(self.until.as_ref())
    }

    /// Returns the id of the session, as read.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        read(self.id.as_ref())
    }

    /// Returns the client address, as read.
    #[must_use]
    pub fn client(&self) -> Option<&str> {
        read(self.client.as_ref())
    }

    /// Returns the dialled address, as read.
    #[must_use]
    pub fn upstream(&self) -> Option<&str> {
        read(self.upstream.as_ref())
    }

    /// Returns the milliseconds of a stage, as read.
    #[must_use]
    pub fn milliseconds(&self, stage: &str) -> Option<f64> {
        match &self.ms {
            Some(Field::Read(stages)) => stages.get(stage)?.as_f64(),
            Some(Field::Written(_)) | None => None,
        }
    }
}

fn read<W>(field: Option<&Field<W, String>>) -> Option<&str> {
    match field {
        Some(Field::Read(text)) => Some(text),
        Some(Field::Written(_)) | None => None,
    }
}

impl<W: Serialize, R: Serialize> Serialize for Field<W, R> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Written(value) => value.serialize(out),
            Self::Read(value) => value.serialize(out),
        }
    }
}

impl<'de, W, R: Deserialize<'de>> Deserialize<'de> for Field<W, R> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        R::deserialize(input).map(Self::Read)
    }
}

/// The rejected addresses, and why.
#[derive(Debug)]
pub struct Dropped<'a>(pub(super) &'a [(SocketAddr, AddressFault)]);

impl Serialize for Dropped<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let shown = self.0.iter().take(DROPPED_SHOWN);
        let shown = shown.map(|(address, fault)| format!("{} {fault}", address.ip()));
        let more = self.0.len().saturating_sub(DROPPED_SHOWN);
        out.collect_seq(shown.chain((more > 0).then(|| format!("and {more} more"))))
    }
}

/// Facts that affect no decision.
#[derive(Debug)]
pub struct Facts<'a> {
    pub(super) headed: Option<Headed>,
    pub(super) more: &'a [(&'static str, AuditText)],
}

impl Serialize for Facts<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let mut map = out.serialize_map(None)?;
        if let Some(headed) = self.headed {
            map.serialize_entry("original-destination", &headed.address())?;
            if headed.is_spoofed() {
                map.serialize_entry("spoofed-destination", &headed.address())?;
            }
        }
        for (name, text) in self.more {
            map.serialize_entry(name, text.as_str())?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    /// Each kind of line, with every field.
    fn whole() -> [Value; 3] {
        let common = json!({
            "time": "2024-11-24T03:40:00.123Z", "id": "01JDE42FQV0000000000000001",
            "client": "10.0.0.7", "client-name": "agents", "listener": "127.0.0.1:3128",
            "target": "a:443", "query": "A", "sni": "a", "registry": "contoso",
            "endpoint": "login", "outcome": "denied", "reason": "sni-mismatch",
        });
        let with = |more: Value| {
            let mut line = common.clone();
            line.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            line
        };
        [
            with(json!({
                "would-deny": "storage-account", "ended": "timeout", "upstream": "20.1.2.3:443",
                "verified": true, "parent": "corp", "resolved-by": "parent",
                "bytes-up": 1, "bytes-down": 2, "spliced-up": 3, "spliced-down": 4,
                "generation": 5, "ms": { "head": 0.5 }, "addresses-dropped": ["a"],
                "facts": { "dns": "stale" },
            })),
            with(json!({
                "repeated": 2, "until": "2024-11-24T03:40:01.123Z", "samples": ["a:443"],
            })),
            json!({ "time": "2024-11-24T03:40:00.123Z", "dropped": 3, "dropped-denied": 1 }),
        ]
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        for line in whole() {
            let read: AuditLine<'_> = serde_json::from_value(line.clone()).unwrap();
            assert_eq!(serde_json::to_value(&read).unwrap(), line);
        }
    }

    #[test]
    fn the_schema_has_every_field_of_every_kind() {
        let schema: Value =
            serde_json::from_str(include_str!("../../docs/audit.schema.json")).unwrap();
        let keys = |value: &Value| -> BTreeSet<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        let validator = jsonschema::validator_for(&schema).unwrap();
        for (kind, line) in ["session", "repeated", "lost"].into_iter().zip(whole()) {
            assert_eq!(keys(&schema["$defs"][kind]["properties"]), keys(&line), "{kind}");
            assert!(validator.is_valid(&line), "{line}");
        }
        // Beyond these the type has only the fields of registry requests.
        let request = keys(&schema["$defs"]["request"]["properties"]);
        let all: BTreeSet<String> = whole().iter().flat_map(keys).collect();
        let text = include_str!("audit_line.rs");
        let fields =
            text.split("pub struct AuditLine").nth(1).unwrap().split("\n}").next().unwrap();
        let fields = fields.lines().filter_map(|line| line.trim().strip_prefix("pub"));
        let fields = fields.map(|line| line.trim_start_matches("(super)").trim());
        let fields: BTreeSet<String> = fields
            .filter_map(|line| line.split_once(':'))
            .map(|(name, _)| name.replace('_', "-"))
            .filter(|name| all.contains(name) || !request.contains(name))
            .collect();
        assert_eq!(fields, all);
    }
}
