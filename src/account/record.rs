//! What one session leaves behind: the record that the session fills, and its audit line.
//!
//! Plain data: it opens no file and counts nothing. The shape of a line stands here and nowhere
//! else; what a client wrote gets in as [`Text`] only.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Serialize, Serializer};

use super::clock::Timestamp;
use super::id::SessionId;
use super::stage::Stages;
use super::text::Text;
use crate::policy::{AddressFault, Allowed, Ending, EndpointKind, Grant, Reason, Stop};

/// Of the addresses that were dropped, so many are written out.
const DROPPED_SHOWN: usize = 8;

/// Bytes moved in one direction, by path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// By splice(2).
    pub spliced: u64,
    /// Through the gate's own memory.
    pub copied: u64,
}

impl Moved {
    /// Both paths together.
    #[must_use]
    pub fn total(self) -> u64 {
        self.spliced.saturating_add(self.copied)
    }

    fn less(self, other: Self) -> Self {
        Self {
            spliced: self.spliced.saturating_sub(other.spliced),
            copied: self.copied.saturating_sub(other.copied),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            spliced: self.spliced.saturating_add(other.spliced),
            copied: self.copied.saturating_add(other.copied),
        }
    }
}

/// Bytes moved by a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Volume {
    /// From the client to the upstream.
    pub up: Moved,
    /// From the upstream to the client.
    pub down: Moved,
}

impl Volume {
    pub(super) fn less(self, other: Self) -> Self {
        Self { up: self.up.less(other.up), down: self.down.less(other.down) }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self { up: self.up.plus(other.up), down: self.down.plus(other.down) }
    }
}

/// What became of a session; `outcome` in audit lines and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It went well.
    Relayed,
    /// The gate said no.
    Denied,
    /// It could not be done.
    Failed,
    /// It passed in report mode, and would not have otherwise.
    WouldDeny,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: &'static [Self] = &[Self::Relayed, Self::Denied, Self::Failed, Self::WouldDeny];

    /// The code that audit lines and metrics carry.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Relayed => "relayed",
            Self::Denied => "denied",
            Self::Failed => "failed",
            Self::WouldDeny => "would-deny",
        }
    }
}

/// The registry that a session was granted, as far as accounts go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// The registry's name.
    pub registry: Arc<str>,
    /// Its metric label.
    pub label: Arc<str>,
    /// What the host is to it.
    pub endpoint: EndpointKind,
}

impl From<&Grant> for Granted {
    fn from(grant: &Grant) -> Self {
        let (registry, label) = (grant.registry.clone(), grant.label.clone());
        Self { registry, label, endpoint: grant.endpoint }
    }
}

/// The account of one session. The session fills it as it learns; nothing reads it before the end.
#[derive(Debug)]
pub struct Record {
    pub(super) id: SessionId,
    pub(super) started: SystemTime,
    pub(super) client: IpAddr,
    pub(super) listener: Arc<str>,
    pub(super) target: Option<Text>,
    pub(super) granted: Option<Granted>,
    /// The client's group, where there is one.
    pub client_name: Option<Arc<str>>,
    /// The name in the ClientHello.
    pub sni: Option<Text>,
    /// What would have denied the session, were the policy enforced.
    pub would_deny: Option<Reason>,
    /// Where it was dialled.
    pub upstream: Option<SocketAddr>,
    /// What was relayed.
    pub volume: Volume,
    /// The policy's generation that judged it.
    pub generation: u64,
    /// How long each stage took.
    pub stages: Stages,
    /// Addresses that the name resolved to and that may not be dialled, with why.
    pub dropped: Vec<(SocketAddr, AddressFault)>,
    /// Further facts that bear on no decision; the names are ours, the values may be the client's.
    pub facts: Vec<(&'static str, Text)>,
}

/// An end as accounts see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) outcome: Outcome,
    /// The code of the reason or cause; none when relayed.
    pub(super) reason: Option<&'static str>,
    /// How a would-deny ended, where it did not end well.
    pub(super) ended: Option<&'static str>,
}

impl Record {
    pub(super) fn allow(&mut self, allowed: &Allowed) {
        self.target = Some(Text::of_target(allowed.target()));
        self.granted = allowed.grant().map(Granted::from);
        self.would_deny = allowed.would_deny().map(|denial| denial.reason);
    }

    /// A denial stays a denial, whatever report mode had let pass before; a failure after it has
    /// passed is still a session that enforcing would have denied.
    pub(super) fn verdict(&self, end: &Result<Ending, Stop>) -> Verdict {
        match (end, self.would_deny) {
            (Err(Stop::Denied(denial)), _) => Verdict {
                outcome: Outcome::Denied,
                reason: Some(denial.reason.code()),
                ended: None,
            },
            (Err(stop @ Stop::Failed(_)), None) => {
                Verdict { outcome: Outcome::Failed, reason: Some(stop.code()), ended: None }
            }
            (Ok(Ending::Closed), None) => {
                Verdict { outcome: Outcome::Relayed, reason: None, ended: None }
            }
            (end, Some(reason)) => Verdict {
                outcome: Outcome::WouldDeny,
                reason: Some(reason.code()),
                ended: end.as_ref().err().map(Stop::code),
            },
        }
    }

    pub(super) fn line(&self, verdict: Verdict) -> Line<'_> {
        let denied = verdict.outcome == Outcome::Denied;
        let passed = self.would_deny.filter(|_| denied);
        Line {
            time: Timestamp(self.started),
            id: self.id,
            client: self.client,
            client_name: self.client_name.as_deref(),
            listener: &self.listener,
            target: self.target.as_ref().map(Text::as_str),
            sni: self.sni.as_ref().map(Text::as_str),
            registry: self.granted.as_ref().map(|granted| &*granted.registry),
            endpoint: self.granted.as_ref().map(|granted| granted.endpoint.code()),
            outcome: verdict.outcome.code(),
            reason: verdict.reason,
            would_deny: passed.map(Reason::code),
            ended: verdict.ended,
            upstream: self.upstream,
            bytes_up: self.volume.up.total(),
            bytes_down: self.volume.down.total(),
            spliced_up: self.volume.up.spliced,
            spliced_down: self.volume.down.spliced,
            generation: self.generation,
            ms: &self.stages,
            addresses_dropped: Dropped(&self.dropped),
            facts: Facts(&self.facts),
        }
    }
}

/// One audit line. This is the schema; the manual's table follows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Line<'a> {
    time: Timestamp,
    id: SessionId,
    client: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_name: Option<&'a str>,
    listener: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sni: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    registry: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<&'static str>,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    would_deny: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<SocketAddr>,
    bytes_up: u64,
    bytes_down: u64,
    #[serde(skip_serializing_if = "is_zero")]
    spliced_up: u64,
    #[serde(skip_serializing_if = "is_zero")]
    spliced_down: u64,
    generation: u64,
    ms: &'a Stages,
    #[serde(skip_serializing_if = "Dropped::is_empty")]
    addresses_dropped: Dropped<'a>,
    #[serde(skip_serializing_if = "Facts::is_empty")]
    facts: Facts<'a>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Debug)]
struct Dropped<'a>(&'a [(SocketAddr, AddressFault)]);

impl Dropped<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Dropped<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let told = self.0.iter().take(DROPPED_SHOWN);
        let told = told.map(|(address, fault)| format!("{} {fault}", address.ip()));
        let more = self.0.len().saturating_sub(DROPPED_SHOWN);
        out.collect_seq(told.chain((more > 0).then(|| format!("and {more} more"))))
    }
}

#[derive(Debug)]
struct Facts<'a>(&'a [(&'static str, Text)]);

impl Facts<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Facts<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_map(self.0.iter().map(|(name, text)| (name, text.as_str())))
    }
}
