//! The record that a session fills in, and its audit line.
//!
//! Plain data: no files, no counters. Text from clients is stored as [`AuditText`] only.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use super::audit_field::{Dropped, Facts, Field};
use super::audit_line::SessionLine;
use super::clock::Timestamp;
use super::headed::Headed;
use super::id::SessionId;
use super::stage::Stages;
use super::text::AuditText;
use crate::policy::{
    AddressFault, Allowed, Ending, EndpointKind, Grant, OwnAddresses, Reason, Route, Stop,
};

/// Bytes moved in one direction, by path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// By splice(2).
    pub spliced: u64,
    /// Copied through the gate's memory.
    pub copied: u64,
}

impl Moved {
    /// Returns the sum of both paths.
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

/// The outcome of a session; `outcome` in audit lines and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It succeeded.
    Relayed,
    /// The gate denied it.
    Denied,
    /// It failed.
    Failed,
    /// Report mode allowed it; enforcement would have denied it.
    WouldDeny,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: &'static [Self] = &[Self::Relayed, Self::Denied, Self::Failed, Self::WouldDeny];

    /// Returns the code in audit lines and metrics.
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

/// The registry of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// The name of the registry.
    pub registry: Arc<str>,
    /// Its metric label.
    pub label: Arc<str>,
    /// The kind of the host.
    pub endpoint: EndpointKind,
}

impl From<&Grant> for Granted {
    fn from(grant: &Grant) -> Self {
        let (registry, label) = (grant.registry.clone(), grant.label.clone());
        Self { registry, label, endpoint: grant.endpoint }
    }
}

/// The record of one session. The session fills it in; nothing reads it before the end.
#[derive(Debug)]
pub struct Record {
    pub(super) id: SessionId,
    pub(super) started: SystemTime,
    /// The client address; behind a load balancer, the one in the PROXY header.
    pub client: IpAddr,
    pub(super) listener: Arc<str>,
    pub(super) target: Option<AuditText>,
    pub(super) granted: Option<Granted>,
    /// The group of the client; `None` if it has none.
    pub client_name: Option<Arc<str>>,
    /// The name in the ClientHello.
    pub sni: Option<AuditText>,
    /// The denial that enforcement would have caused.
    pub would_deny: Option<Reason>,
    /// The dialled address.
    pub upstream: Option<SocketAddr>,
    /// Whether the gate has verified the server's certificate.
    pub is_verified: bool,
    /// Whether the requests in its tunnel are judged.
    pub is_inspected: bool,
    is_stale: bool,
    /// Whether the kernel refused splice(2), so that bytes were copied.
    pub splice_refused: bool,
    /// The bytes relayed.
    pub volume: Volume,
    /// The generation of the policy that judged it.
    pub generation: u64,
    /// The duration of each stage.
    pub stages: Stages,
    /// `None` for most sessions, to keep them small.
    rare: Option<Box<Rare>>,
}

/// Fields that few records need.
#[derive(Debug, Default)]
struct Rare {
    query: Option<AuditText>,
    headed: Option<Headed>,
    dropped: Vec<(SocketAddr, AddressFault)>,
    facts: Vec<(&'static str, AuditText)>,
    parent: Option<ViaParent>,
}

/// The parent that a session leaves by.
#[derive(Debug)]
struct ViaParent {
    name: Arc<str>,
    resolved_by: Option<&'static str>,
}

/// The end of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SessionEnd {
    pub(super) outcome: Outcome,
    /// The code of the reason or cause; `None` if relayed.
    pub(super) reason: Option<&'static str>,
    /// How a `would-deny` session ended, unless successfully.
    pub(super) ended: Option<&'static str>,
}

impl Record {
    /// Creates the record of a client that connected to a listener.
    pub(super) fn new(
        id: SessionId,
        started: SystemTime,
        client: IpAddr,
        listener: Arc<str>,
    ) -> Self {
        Self {
            id,
            started,
            client: client.to_canonical(),
            listener,
            target: None,
            granted: None,
            client_name: None,
            sni: None,
            would_deny: None,
            upstream: None,
            is_verified: false,
            is_inspected: false,
            is_stale: false,
            splice_refused: false,
            volume: Volume::default(),
            generation: 0,
            stages: Stages::none(),
            rare: None,
        }
    }

    /// Sets the target. It must contain no secrets.
    #[must_use]
    pub fn target(&self) -> Option<&AuditText> {
        self.target.as_ref()
    }

    /// Returns whether the client sent no request, as TCP checks of load balancers do.
    pub(super) fn is_silent(&self) -> bool {
        self.target.is_none() && self.sni.is_none() && self.rare.is_none()
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Adds a fact that affects no decision. The name is ours, the value may be the client's.
    pub fn note(&mut self, name: &'static str, value: AuditText) {
        self.rare().facts.push((name, value));
    }

    /// Returns the facts.
    pub(super) fn facts(&self) -> &[(&'static str, AuditText)] {
        self.rare.as_ref().map_or(&[], |rare| &rare.facts)
    }

    /// Notes how the session leaves the gate.
    pub fn leave_by(&mut self, route: &Route) {
        if let Some(parent) = route.parent() {
            let resolved_by = route.is_by_name().then_some("parent");
            self.rare().parent = Some(ViaParent { name: parent.name.clone(), resolved_by });
        }
    }

    fn parent(&self) -> Option<&ViaParent> {
        self.rare.as_ref().and_then(|rare| rare.parent.as_ref())
    }

    /// Whether it leaves by a parent proxy.
    pub(super) fn has_parent(&self) -> bool {
        self.parent().is_some()
    }

    /// Notes the addresses that the name resolved to and that may not be dialled, with why.
    pub fn drop_addresses(&mut self, dropped: Vec<(SocketAddr, AddressFault)>) {
        if !dropped.is_empty() {
            self.rare().dropped = dropped;
        }
    }

    /// Stores the original destination of a transparent connection.
    pub fn head_for(&mut self, to: SocketAddr) {
        self.rare().headed = Some(Headed::to(to));
    }

    /// Returns the original destination.
    #[must_use]
    pub fn headed(&self) -> Option<Headed> {
        self.rare.as_ref().and_then(|rare| rare.headed)
    }

    /// Compares the original destination with the addresses of the name: see [`Headed::compare`].
    pub fn compare_headed(&mut self, found: &[SocketAddr], own: &OwnAddresses) {
        if let Some(headed) = self.rare.as_mut().and_then(|rare| rare.headed.as_mut()) {
            headed.compare(found, own);
        }
    }

    /// Stores the record type of a DNS query.
    pub(super) fn ask_kind(&mut self, kind: AuditText) {
        self.rare().query = Some(kind);
    }

    /// Returns the record type of a DNS query.
    pub(super) fn query(&self) -> Option<&AuditText> {
        self.rare.as_ref().and_then(|rare| rare.query.as_ref())
    }

    /// Stores that the addresses come from an expired DNS answer, because no server answered.
    pub fn took_stale_answer(&mut self) {
        self.is_stale = true;
        self.note("dns", AuditText::new("stale"));
    }

    /// Returns whether an expired DNS answer was used.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.is_stale
    }

    pub(super) fn allow(&mut self, allowed: &Allowed) {
        self.target.get_or_insert_with(|| AuditText::of_target(allowed.target()));
        self.granted = allowed.grant().map(Granted::from);
        self.client_name = allowed.client().map(|client| client.name.clone());
        self.would_deny = allowed.would_deny().map(|denial| denial.reason);
    }

    /// A denial is a denial, even if report mode ignored another one before. A failed session that
    /// report mode allowed counts as `would-deny`.
    pub(super) fn verdict(&self, end: &Result<Ending, Stop>) -> SessionEnd {
        match (end, self.would_deny) {
            (Err(Stop::Denied(denial)), _) => SessionEnd {
                outcome: Outcome::Denied,
                reason: Some(denial.reason.code()),
                ended: None,
            },
            (Err(stop @ (Stop::Failed(_) | Stop::Detailed(_))), None) => {
                SessionEnd { outcome: Outcome::Failed, reason: Some(stop.code()), ended: None }
            }
            (Ok(Ending::Closed), None) => {
                SessionEnd { outcome: Outcome::Relayed, reason: None, ended: None }
            }
            (end, Some(reason)) => SessionEnd {
                outcome: Outcome::WouldDeny,
                reason: Some(reason.code()),
                ended: end.as_ref().err().map(Stop::code),
            },
        }
    }

    /// Returns the audit line of the session.
    pub(super) fn line(&self, verdict: SessionEnd) -> SessionLine<'_> {
        let denied = verdict.outcome == Outcome::Denied;
        let passed = self.would_deny.filter(|_| denied);
        let spliced = |bytes: u64| (bytes > 0).then_some(bytes);
        let dropped = self.rare.as_ref().map_or(&[][..], |rare| &rare.dropped);
        let facts = Facts { headed: self.headed(), more: self.facts() };
        let has_facts = facts.headed.is_some() || !facts.more.is_empty();
        SessionLine {
            time: Field::Written(Timestamp(self.started)),
            id: Field::Written(self.id),
            client: Field::Written(self.client),
            client_name: self.client_name.as_deref().map(Cow::Borrowed),
            listener: Cow::Borrowed(&self.listener),
            target: self.target.as_ref().map(AuditText::to_cow),
            query: self.query().map(AuditText::to_cow),
            sni: self.sni.as_ref().map(AuditText::to_cow),
            registry: self.granted.as_ref().map(|granted| Cow::Borrowed(&*granted.registry)),
            endpoint: self.granted.as_ref().map(|granted| granted.endpoint.code().into()),
            outcome: verdict.outcome.code().into(),
            reason: verdict.reason.map(Cow::Borrowed),
            would_deny: passed.map(|reason| reason.code().into()),
            ended: verdict.ended.map(Cow::Borrowed),
            upstream: self.upstream.map(Field::Written),
            verified: self.is_verified.then_some(true),
            inspected: self.is_inspected.then_some(true),
            parent: self.parent().map(|parent| Cow::Borrowed(&*parent.name)),
            resolved_by: self.parent().and_then(|parent| parent.resolved_by).map(Cow::Borrowed),
            bytes_up: self.volume.up.total(),
            bytes_down: self.volume.down.total(),
            spliced_up: spliced(self.volume.up.spliced),
            spliced_down: spliced(self.volume.down.spliced),
            generation: self.generation,
            ms: Field::Written(&self.stages),
            addresses_dropped: (!dropped.is_empty()).then_some(Field::Written(Dropped(dropped))),
            facts: has_facts.then_some(Field::Written(facts)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::stage::Stage;
    use crate::policy::{Cause, Denial, Failure, Side};
    use std::time::{Duration, UNIX_EPOCH};

    fn record() -> Record {
        let started = UNIX_EPOCH + Duration::from_millis(1_732_419_600_123);
        let client = "10.0.0.7".parse().unwrap();
        let mut record = Record::new(SessionId::FIXED, started, client, "127.0.0.1:3128".into());
        record.generation = 3;
        record.stages = Stages::fixed(&[(Stage::Head, Duration::from_micros(213))]);
        record
    }

    fn line(record: &Record, end: &Result<Ending, Stop>) -> String {
        serde_json::to_string(&record.line(record.verdict(end))).unwrap()
    }

    #[test]
    fn a_relayed_session() {
        let mut record = record();
        record.client_name = Some("builders".into());
        record.target = Some(AuditText::of_request("contoso.azurecr.io:443"));
        record.sni = Some(AuditText::new("contoso.azurecr.io"));
        record.granted = Some(Granted {
            registry: "contoso".into(),
            label: "other".into(),
            endpoint: EndpointKind::Login,
        });
        record.upstream = Some("20.1.2.3:443".parse().unwrap());
        record.volume.up = Moved { spliced: 0, copied: 517 };
        record.volume.down = Moved { spliced: 4096, copied: 1000 };
        record.stages = Stages::fixed(&[
            (Stage::Head, Duration::from_micros(213)),
            (Stage::Resolve, Duration::from_micros(1_000)),
            (Stage::Dial, Duration::from_micros(2_500)),
            (Stage::Hello, Duration::from_micros(40)),
            (Stage::Relay, Duration::from_secs(86_400)),
        ]);
        let address = "169.254.169.254:443".parse().unwrap();
        record.drop_addresses(vec![(address, AddressFault::Never("link-local"))]);
        record.note("dialled", AuditText::new("20.9.9.9:443"));
        let expected = concat!(
            r#"{"time":"2024-11-24T03:40:00.123Z","id":"01JDE42FQV0000000000000001","#,
            r#""client":"10.0.0.7","client-name":"builders","listener":"127.0.0.1:3128","#,
            r#""target":"contoso.azurecr.io:443","sni":"contoso.azurecr.io","#,
            r#""registry":"contoso","endpoint":"login","outcome":"relayed","#,
            r#""upstream":"20.1.2.3:443","bytes-up":517,"bytes-down":5096,"#,
            r#""spliced-down":4096,"generation":3,"#,
            r#""ms":{"head":0.213,"resolve":1.0,"dial":2.5,"hello":0.04,"relay":86400000.0},"#,
            r#""addresses-dropped":["169.254.169.254 is link-local, which is never dialled"],"#,
            r#""facts":{"dialled":"20.9.9.9:443"}}"#,
        );
        assert_eq!(line(&record, &Ok(Ending::Closed)), expected);
    }

    #[test]
    fn a_request_that_was_none() {
        let mut record = record();
        record.target = Some(AuditText::of_request("user:secret@a\"\u{1b}[2J:443"));
        let expected = concat!(
            r#"{"time":"2024-11-24T03:40:00.123Z","id":"01JDE42FQV0000000000000001","#,
            r#""client":"10.0.0.7","listener":"127.0.0.1:3128","target":"***@a\"\\u{1b}[2J:443","#,
            r#""outcome":"denied","reason":"bad-target","bytes-up":0,"bytes-down":0,"#,
            r#""generation":3,"ms":{"head":0.213}}"#,
        );
        assert_eq!(line(&record, &Err(Reason::BadTarget.into())), expected);
    }

    #[test]
    fn what_a_session_counts_as() {
        let storage = Some(Reason::StorageAccount);
        let refused = Failure { side: Side::Upstream, cause: Cause::ConnectRefused };
        let address = || Err(Stop::Denied(Denial::new(Reason::AddressNotAllowed)));
        let cases = [
            (None, Ok(Ending::Closed), "relayed", None, None, None),
            (None, address(), "denied", Some("address-not-allowed"), None, None),
            (None, Err(refused.into()), "failed", Some("connect-refused"), None, None),
            (storage, Ok(Ending::Closed), "would-deny", Some("storage-account"), None, None),
            (
                storage,
                Err(refused.into()),
                "would-deny",
                Some("storage-account"),
                None,
                Some("connect-refused"),
            ),
            (
                storage,
                address(),
                "denied",
                Some("address-not-allowed"),
                Some("storage-account"),
                None,
            ),
        ];
        for (would_deny, end, outcome, reason, passed, ended) in cases {
            let record = Record { would_deny, ..record() };
            let line = record.line(record.verdict(&end));
            let found = [&line.reason, &line.would_deny, &line.ended];
            let found = found.map(|text| text.as_deref());
            assert_eq!((&*line.outcome, found), (outcome, [reason, passed, ended]), "{end:?}");
        }
    }

    #[test]
    fn a_destination_is_spoofed_that_the_name_has_not_and_the_gate_is_not_at() {
        let own = OwnAddresses {
            interfaces: vec!["10.7.0.1".parse().unwrap()],
            listeners: vec!["10.7.0.1:3129".parse().unwrap()],
        };
        let found = ["20.1.2.3:443", "[::ffff:20.1.2.4]:8443", "[2001:db8::1]:443"];
        let found = found.map(|text| text.parse().unwrap());
        for (to, spoofed) in [
            ("20.1.2.3:443", false),
            ("20.1.2.4:443", false),
            ("[::ffff:20.1.2.3]:443", false),
            ("[2001:db8::1]:443", false),
            ("10.7.0.1:443", false),
            ("20.9.9.9:443", true),
            ("[2001:db8::2]:443", true),
        ] {
            let mut record = record();
            record.head_for(to.parse().unwrap());
            record.compare_headed(&found, &own);
            assert_eq!(record.headed().map(Headed::is_spoofed), Some(spoofed), "{to}");
            let line = line(&record, &Ok(Ending::Closed));
            assert!(line.contains(&format!("\"original-destination\":\"{to}\"")), "{line}");
            assert_eq!(line.contains("spoofed-destination"), spoofed, "{line}");
        }
    }

    #[test]
    fn an_answer_of_a_thousand_addresses_makes_no_long_line() {
        let mut record = record();
        let address = "127.0.0.1:443".parse().unwrap();
        record.drop_addresses(vec![(address, AddressFault::Special("loopback")); 1_000]);
        let line = line(&record, &Err(Reason::AddressNotAllowed.into()));
        assert!(line.contains("and 992 more") && line.len() < 1_024, "{line}");
    }
}
