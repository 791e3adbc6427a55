//! The status page: its assets, its event stream and its `explain` form.
//!
//! The page is embedded and loads only from its own origin, which a strict content security policy
//! enforces. Text from clients is sent as JSON and shown as text only.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Response, header};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::source::Admin;
use crate::account::{IncidentRow, Phase, RequestRow, SessionRow};
use crate::listen::http::answer::{RefusalAnswer, shown};
use crate::policy::{ClientIdentity, Denial, Enforcement, HTTPS, Stop, Target};

/// Interval between two snapshots.
const PERIOD: Duration = Duration::from_secs(1);

/// Maximum duration of a stream. The page then reconnects.
pub(super) const LONGEST: Duration = Duration::from_secs(600);

/// Maximum number of sessions and registries in a snapshot.
const MOST_SESSIONS: usize = 100;
const MOST_REGISTRIES: usize = 200;

/// Replaces the session id, which an explanation does not have.
const NO_ID: &str = "00000000000000000000000000";

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'; require-trusted-types-for 'script'";

/// Returns the content type and text of a file of the page; `None` for other paths.
pub(super) fn asset(path: &str) -> Option<(&'static str, &'static str)> {
    Some(match path {
        "/" => ("text/html; charset=utf-8", include_str!("assets/page.html")),
        "/page.css" => ("text/css; charset=utf-8", include_str!("assets/page.css")),
        "/page.js" => ("text/javascript; charset=utf-8", include_str!("assets/page.js")),
        _ => return None,
    })
}

/// Adds headers that forbid the browser everything that the page does not need.
pub(super) fn fence<B>(response: &mut Response<B>) {
    let headers = response.headers_mut();
    for (name, value) in [
        ("content-security-policy", POLICY),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
}

/// A stream of server-sent events.
#[derive(Debug)]
pub(super) struct Events {
    events: mpsc::Receiver<Bytes>,
    /// Its permit among the streams.
    _place: OwnedSemaphorePermit,
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.events.poll_recv(context).map(|event| event.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Returns a stream of snapshots, one per second, until the reader closes it or [`LONGEST`] has
/// passed.
pub(super) fn events(admin: Arc<Admin>, place: OwnedSemaphorePermit) -> Response<Events> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut due = tokio::time::interval(PERIOD);
        loop {
            due.tick().await;
            let admin = admin.clone();
            // Serialising many sessions takes time, so it runs on a blocking thread.
            let event = tokio::task::spawn_blocking(move || admin.snapshot().event()).await;
            let Ok(Some(event)) = event else { return };
            if sender.send(event).await.is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(Events { events: receiver, _place: place });
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("text/event-stream");
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The data of one event.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Snapshot {
    millis: u64,
    version: &'static str,
    phase: &'static str,
    enforcing: bool,
    generation: u64,
    stale: Option<String>,
    open: usize,
    limit: usize,
    sessions: Vec<SessionRow>,
    registries: Vec<RegistryTraffic>,
    incidents: Vec<IncidentRow>,
    /// The latest registry requests.
    requests: Vec<RequestRow>,
    files: Vec<RegistryFile>,
    parents: Vec<ParentHealth>,
}

/// A parent proxy.
#[derive(Debug, Serialize)]
struct ParentHealth {
    name: String,
    up: bool,
}

#[derive(Debug, Serialize)]
struct RegistryTraffic {
    name: String,
    up: u64,
    down: u64,
}

#[derive(Debug, Serialize)]
struct RegistryFile {
    name: String,
    file: String,
    hosts: usize,
    route: String,
}

impl Snapshot {
    fn event(&self) -> Option<Bytes> {
        // JSON has no line feed outside strings, and escapes it inside strings.
        serde_json::to_string(self).ok().map(|json| Bytes::from(format!("data: {json}\n\n")))
    }
}

impl Admin {
    fn snapshot(&self) -> Snapshot {
        let status = self.status.borrow().clone();
        let set = self.policy.borrow().clone();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut sessions = self.account.open_sessions().rows();
        sessions.truncate(MOST_SESSIONS);
        let moved = self.account.moved_by_registry();
        let of = |(name, (up, down)): (String, (u64, u64))| RegistryTraffic { name, up, down };
        let files = set.routes().take(MOST_REGISTRIES).map(|(registry, route)| RegistryFile {
            route: route.to_string(),
            name: registry.name().to_string(),
            file: registry.file().to_string(),
            hosts: registry.endpoints().len(),
        });
        let parents = status.parents.iter();
        let parents = parents.map(|one| ParentHealth { name: one.name.to_string(), up: one.is_up });
        Snapshot {
            millis: u64::try_from(since.as_millis()).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION"),
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
            registries: moved.into_iter().take(MOST_REGISTRIES).map(of).collect(),
            incidents: self.account.incidents().rows(SystemTime::now()),
            requests: self.account.latest_requests().rows(),
            files: files.collect(),
            parents: parents.collect(),
        }
    }

    /// Explains a host by the current policy, for a client on loopback. No DNS query is sent.
    pub(super) fn explain(&self, query: &str) -> PageExplanation {
        let asked = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "host");
        let asked = asked.map(|(_, host)| host.into_owned()).unwrap_or_default();
        let with_port = match asked.rsplit_once(':') {
            Some((_, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => asked.clone(),
            _ => format!("{asked}:{HTTPS}"),
        };
        let mut explanation = PageExplanation { target: asked, ..PageExplanation::default() };
        let judged = Target::parse_authority(&with_port)
            .map_err(|fault| Denial::with_remedy(fault.reason(), fault.to_string()))
            .and_then(|target| {
                explanation.target = shown(&target);
                let set = self.policy.borrow().clone();
                if let Ok(grant) = set.named(&target) {
                    explanation.registry = Some(grant.registry.to_string());
                    explanation.endpoint = Some(grant.endpoint.code());
                    explanation.place = Some(grant.place.to_string());
                }
                let local = ClientIdentity::at(std::net::Ipv4Addr::LOCALHOST.into());
                set.judge_name(&target, &local, set.rules().enforcement)
            });
        let denial = match judged {
            Ok(allowed) => {
                explanation.verdict = "allowed";
                allowed.would_deny().cloned().inspect(|_| explanation.verdict = "would-deny")
            }
            Err(denial) => {
                explanation.verdict = "denied";
                Some(denial)
            }
        };
        if let Some(denial) = denial {
            explanation.reason = Some(denial.reason.code());
            explanation.meaning = Some(denial.reason.meaning());
            let stop = Stop::Denied(denial);
            let refusal = RefusalAnswer { stop: &stop, host: Some(&explanation.target), id: NO_ID };
            explanation.docker_prints = (explanation.verdict == "denied").then(|| refusal.phrase());
        }
        explanation
    }
}

/// The answer of `/explain`.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct PageExplanation {
    target: String,
    verdict: &'static str,
    reason: Option<&'static str>,
    meaning: Option<&'static str>,
    registry: Option<String>,
    endpoint: Option<&'static str>,
    place: Option<String>,
    docker_prints: Option<String>,
}
