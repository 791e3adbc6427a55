//! The admin listener: metrics, health, the policy and the open sessions. Read-only.
//!
//! `/policy`, `/sessions` and `/requests` show who pulls what. They are served only on a loopback address or a
//! Unix socket, and only if `Host` is an IP address or `localhost`: a web page in a browser on this
//! machine could otherwise reach them with a domain that resolves to loopback. The admin listener
//! is not involved in sessions. It serves one request per connection, and a few connections at
//! once (`places`), each with a timeout.

#[cfg(feature = "admin-page")]
mod explain;
#[cfg_attr(not(feature = "admin-page"), path = "admin/no_page.rs")]
mod live;
mod page;
mod places;
#[cfg(feature = "admin-page")]
mod snapshot;
mod socket;
mod source;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use ipnet::IpNet;
use serde::Serialize;
use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

pub use socket::Socket;
pub use source::Admin;

use crate::account::{ClockBehind, Phase};
use crate::config::{ListenerSpec, Presence};
use crate::limits::PendingSlot;
use crate::policy::Enforcement;
use places::AdminPlaces;
use socket::{AdminListener, Reach};

/// Timeout from accept to the end of the request head.
const HEAD: Duration = Duration::from_secs(5);

/// Timeout from accept to the end of the response.
const WHOLE: Duration = Duration::from_secs(30);

/// Pause after accept fails.
const BACKOFF: Duration = Duration::from_millis(100);

/// A complete response, or an event stream.
type AdminResponse = http_body_util::Either<Full<Bytes>, live::Events>;

const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON: &str = "application/json";

const INDEX: &str = "pullgate\n\n\
    /           the status page (loopback and Unix sockets only; not in every build)\n\
    /metrics    for Prometheus\n\
    /healthz    200 while the process runs\n\
    /readyz     200 while the gate accepts sessions\n\
    /listeners  the listeners and their modes\n\
    /policy     the current policy (loopback and Unix sockets only)\n\
    /sessions   the open sessions (loopback and Unix sockets only)\n\
    /requests   the latest registry requests (loopback and Unix sockets only)\n";

/// A row of `/listeners`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct ListenerRow<'a> {
    mode: &'static str,
    address: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy_protocol_from: Option<&'a [IpNet]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<&'static str>,
}

impl<'a> From<&'a ListenerSpec> for ListenerRow<'a> {
    fn from(spec: &'a ListenerSpec) -> Self {
        Self {
            mode: spec.mode.code(),
            address: spec.address,
            proxy_protocol_from: spec.balancers.as_deref(),
            tls: spec.tls.as_ref().map(|tls| match tls.clients.as_ref() {
                None => "server",
                Some(clients) => match clients.presence {
                    Presence::Required => "mutual",
                    Presence::Optional => "mutual-optional",
                },
            }),
        }
    }
}

impl Admin {
    /// Serves a socket until the token is cancelled.
    pub fn start(self, socket: Socket, until: CancellationToken) {
        let Socket { listener, reach, .. } = socket;
        let admin = Arc::new(self);
        tokio::spawn(async move {
            tokio::select! {
                () = until.cancelled() => {}
                () = live::remember(admin.clone()) => {}
                () = admin.serve(listener, reach) => {}
            }
        });
    }

    async fn serve(self: Arc<Self>, listener: AdminListener, reach: Reach) {
        let places = AdminPlaces::new();
        loop {
            let room = places.silent.room().await;
            let Ok(stream) = listener.accept().await else {
                tokio::time::sleep(BACKOFF).await;
                continue;
            };
            let slot = places.silent.enter(room, peer(&stream));
            tokio::spawn(self.clone().connection_in_time(stream, reach, places.clone(), slot));
        }
    }

    /// Serves a connection until it is done, times out or is evicted.
    async fn connection_in_time(
        self: Arc<Self>,
        stream: Either<TcpStream, UnixStream>,
        reach: Reach,
        places: Arc<AdminPlaces>,
        mut slot: PendingSlot,
    ) {
        let progress = Progress::default();
        let connection = self.connection(stream, reach, places, progress.clone());
        let late = async {
            tokio::time::sleep(WHOLE).await;
            if progress.streaming.is_cancelled() {
                tokio::time::sleep(live::LONGEST - WHOLE).await;
            }
        };
        let evicted = async {
            tokio::select! {
                biased;
                () = progress.asked.cancelled() => {}
                () = slot.evicted() => return,
            }
            drop(slot);
            std::future::pending::<()>().await;
        };
        // After a timeout, an eviction or an error, the connection is dropped without a response.
        tokio::select! {
            () = connection => {}
            () = late => {}
            () = evicted => {}
        }
    }

    /// Serves one request.
    async fn connection(
        self: Arc<Self>,
        stream: Either<TcpStream, UnixStream>,
        reach: Reach,
        places: Arc<AdminPlaces>,
        progress: Progress,
    ) {
        // Held until the whole answer has been sent.
        let place = Arc::new(OnceLock::new());
        let service = service_fn(|request: Request<Incoming>| {
            let (admin, places, place) = (self.clone(), places.clone(), place.clone());
            let progress = progress.clone();
            async move {
                progress.asked.cancel();
                let busy = |what| {
                    Ok(plain(StatusCode::SERVICE_UNAVAILABLE, what).map(AdminResponse::Left))
                };
                if request.uri().path() == "/events"
                    && request.method() == Method::GET
                    && shown(&request, reach).is_ok()
                {
                    let Some(stream) = places.take_stream() else {
                        return busy("too many streams\n");
                    };
                    progress.streaming.cancel();
                    return Ok(live::events(admin, stream).map(AdminResponse::Right));
                }
                let Some(taken) = places.take(request.uri().path()) else {
                    return busy("too many requests at once\n");
                };
                // There is one request per connection.
                let _ = place.set(taken);
                // Serialising a large policy takes time, and must not delay sessions.
                let page = tokio::task::spawn_blocking(move || admin.answer(&request, reach));
                let failed = |_| plain(StatusCode::INTERNAL_SERVER_ERROR, "internal error\n");
                Ok::<_, Infallible>(page.await.unwrap_or_else(failed).map(AdminResponse::Left))
            }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .keep_alive(false)
            .max_buf_size(16 << 10)
            .serve_connection(TokioIo::new(stream), service);
        let _ = served.await;
    }

    fn answer(&self, request: &Request<Incoming>, reach: Reach) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "read-only: GET or HEAD\n");
            refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        let secret = |page: fn(&Self) -> Response<Full<Bytes>>| match shown(request, reach) {
            Ok(()) => page(self),
            Err(why) => plain(StatusCode::FORBIDDEN, why),
        };
        match request.uri().path() {
            path @ ("/" | "/page.css" | "/page.js") => match shown(request, reach) {
                Ok(()) => page_part(path),
                // Other clients get the list of pages.
                Err(_) => plain(StatusCode::OK, INDEX),
            },
            "/events" => secret(|_| plain(StatusCode::OK, "")),
            "/explain" => match shown(request, reach) {
                Ok(()) => json(&self.explain(request.uri().query().unwrap_or_default())),
                Err(why) => plain(StatusCode::FORBIDDEN, why),
            },
            "/healthz" => plain(StatusCode::OK, "ok\n"),
            "/readyz" => self.readiness(),
            "/metrics" => self.metrics(),
            "/listeners" => json(&self.listener_rows()),
            "/policy" => secret(Self::policy),
            "/sessions" => secret(|admin| json(&admin.account.open_sessions().rows())),
            "/requests" => secret(|admin| json(&admin.account.latest_requests().rows())),
            _ => plain(StatusCode::NOT_FOUND, INDEX),
        }
    }

    fn listener_rows(&self) -> Vec<ListenerRow<'_>> {
        self.listeners.iter().map(|spec| ListenerRow::from(&**spec)).collect()
    }

    /// Returns 200 if the gate accepts sessions. A stale policy does not change that.
    fn readiness(&self) -> Response<Full<Bytes>> {
        let status = self.status.borrow().clone();
        let (code, phase) = match status.phase {
            Phase::Serving => (StatusCode::OK, "ready"),
            Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
            Phase::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        };
        let mut body = format!("{phase}\npolicy generation: {}\n", status.generation);
        // Writing to a string cannot fail.
        if let Some(why) = status.stale {
            let _ = writeln!(body, "policy stale: {why}");
        }
        if status.enforcement == Enforcement::Report {
            let _ = writeln!(body, "report mode: sessions that the policy would deny are allowed");
        }
        if let Some(behind) = ClockBehind::at(SystemTime::now()) {
            let _ = writeln!(body, "clock: {behind}");
        }
        plain(code, body)
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let status = self.status.borrow().clone();
        match self.account.metrics_text(&status) {
            Ok(text) => response(StatusCode::OK, METRICS, text),
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    fn policy(&self) -> Response<Full<Bytes>> {
        let (set, status) = (self.policy.borrow().clone(), self.status.borrow().clone());
        json(&page::policy(&set, &status))
    }
}

/// The progress of a connection.
#[derive(Debug, Clone, Default)]
struct Progress {
    /// Cancelled when the request head is complete.
    asked: CancellationToken,
    /// Cancelled when the response is an event stream.
    streaming: CancellationToken,
}

/// Returns the peer's address. A Unix socket counts as this machine.
fn peer(stream: &Either<TcpStream, UnixStream>) -> IpAddr {
    match stream {
        Either::Left(tcp) => tcp.peer_addr().map_or(Ipv4Addr::UNSPECIFIED.into(), |at| at.ip()),
        Either::Right(_) => Ipv4Addr::LOCALHOST.into(),
    }
}

/// Returns whether this request may see the pages about clients, or the reason why not.
fn shown(request: &Request<Incoming>, reach: Reach) -> Result<(), &'static str> {
    let host = request.headers().get(header::HOST).map(HeaderValue::as_bytes);
    let host = host.map(|bytes| std::str::from_utf8(bytes).unwrap_or_default());
    match reach {
        Reach::Socket => Ok(()),
        Reach::Loopback if host.is_none_or(is_local) => Ok(()),
        Reach::Loopback => Err("the Host header must be an IP address or localhost\n"),
        Reach::Network => Err("this page is served only on a loopback address or a Unix socket\n"),
    }
}

/// Returns whether a `Host` is an address or `localhost`, which no foreign web page can have.
fn is_local(host: &str) -> bool {
    if host.parse::<SocketAddr>().is_ok() || host.parse::<IpAddr>().is_ok() {
        return true;
    }
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inner.parse::<Ipv6Addr>().is_ok();
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.eq_ignore_ascii_case("localhost")
}

fn page_part(path: &str) -> Response<Full<Bytes>> {
    let Some((kind, text)) = live::asset(path) else { return plain(StatusCode::NOT_FOUND, INDEX) };
    let mut response = response(StatusCode::OK, kind, text);
    live::fence(&mut response);
    response
}

fn plain(code: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    response(code, TEXT, body)
}

fn json(value: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec_pretty(value) {
        Ok(body) => response(StatusCode::OK, JSON, body),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn response(code: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
