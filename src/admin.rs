//! What the operator may look at: metrics, health, the policy, the open sessions. Read-only.
//!
//! `/policy` and `/sessions` tell who pulls what, so they are shown only where the address is
//! loopback or a Unix socket, and only to a request whose `Host` is an address or `localhost`: a
//! page in a browser on the same machine could otherwise reach them by a name of its own that
//! resolves to loopback. It takes no part in a session; one request a connection, a few connections
//! at once, each with a deadline.

mod page;

use std::convert::Infallible;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use ipnet::IpNet;
use serde::{Serialize, Serializer};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

use crate::account::{Account, Phase, Status};
use crate::config::{AdminAddress, Mode, Presence, TlsPaths};
use crate::policy::{Enforcement, PolicySet};

/// Connections served at once; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 64;

/// From accept to the end of the request's head.
const HEAD: Duration = Duration::from_secs(5);

/// From accept to the end of the answer.
const WHOLE: Duration = Duration::from_secs(30);

/// How long accepting pauses when no connection can be had.
const BACKOFF: Duration = Duration::from_millis(100);

/// The Unix socket is for its owner and group.
const SOCKET_MODE: u32 = 0o660;

const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON: &str = "application/json";

const INDEX: &str = "pullgate\n\n\
    /metrics    for Prometheus\n\
    /healthz    200 while the process runs\n\
    /readyz     200 while it takes sessions\n\
    /listeners  where it listens\n\
    /policy     the policy in force (loopback and Unix sockets only)\n\
    /sessions   the open sessions (loopback and Unix sockets only)\n";

/// A listener of the gate, with the port that was found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ListenerInfo {
    /// How clients come in.
    #[serde(serialize_with = "mode_code")]
    pub mode: Mode,
    /// Where it is bound.
    pub address: SocketAddr,
    /// Its own enforcement, where it has one.
    #[serde(skip)]
    pub enforcement: Option<Enforcement>,
    /// The networks that must send a PROXY header, where one is required.
    #[serde(rename = "proxy-protocol-from", skip_serializing_if = "Option::is_none")]
    pub balancers: Option<Vec<IpNet>>,
    /// TLS towards clients, where it is spoken.
    #[serde(serialize_with = "tls_code", skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsPaths>,
}

#[expect(clippy::ref_option, reason = "serde passes a reference")]
fn tls_code<S: Serializer>(tls: &Option<TlsPaths>, out: S) -> Result<S::Ok, S::Error> {
    let clients = tls.as_ref().and_then(|tls| tls.clients.as_ref());
    out.serialize_str(match clients.map(|clients| clients.presence) {
        None => "server",
        Some(Presence::Required) => "mutual",
        Some(Presence::Optional) => "mutual-optional",
    })
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn mode_code<S: Serializer>(mode: &Mode, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(mode.code())
}

/// What the pages are made from.
#[derive(Debug)]
pub struct Admin {
    /// The metrics and the open sessions.
    pub account: Arc<Account>,
    /// The policy in force.
    pub policy: watch::Receiver<Arc<PolicySet>>,
    /// How the gate stands.
    pub status: watch::Receiver<Status>,
    /// The gate's listeners.
    pub listeners: Vec<ListenerInfo>,
    /// Where to serve.
    pub address: AdminAddress,
}

/// Who can reach the admin address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Other machines.
    Network,
    /// This machine, by a loopback address.
    Loopback,
    /// Whom the file's mode lets in.
    Socket,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Admin {
    /// Binds the address, and serves it until the token is cancelled. Returns where, if on TCP.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(self, until: CancellationToken) -> io::Result<Option<SocketAddr>> {
        let (listener, bound, reach) = match &self.address {
            AdminAddress::Tcp(address) => {
                let listener = TcpListener::bind(address).await?;
                let bound = listener.local_addr()?;
                let reach = if bound.ip().is_loopback() { Reach::Loopback } else { Reach::Network };
                (Listener::Tcp(listener), Some(bound), reach)
            }
            AdminAddress::Unix(path) => (Listener::Unix(bind_unix(path)?), None, Reach::Socket),
        };
        let admin = Arc::new(self);
        tokio::spawn(async move {
            tokio::select! {
                () = until.cancelled() => {}
                () = admin.serve(listener, reach) => {}
            }
        });
        Ok(bound)
    }

    async fn serve(self: Arc<Self>, listener: Listener, reach: Reach) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            // The semaphore is never closed.
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let Ok(stream) = listener.accept().await else {
                tokio::time::sleep(BACKOFF).await;
                continue;
            };
            let admin = self.clone();
            tokio::spawn(async move {
                let connection = admin.connection(stream, reach);
                // Late, broken or gone: there is nobody left to tell.
                let _ = tokio::time::timeout(WHOLE, connection).await;
                drop(place);
            });
        }
    }

    async fn connection(self: Arc<Self>, stream: Either<TcpStream, UnixStream>, reach: Reach) {
        let service = service_fn(|request: Request<Incoming>| {
            let admin = self.clone();
            async move {
                // A large policy takes its time to write down, and no session is to wait for it.
                let page = tokio::task::spawn_blocking(move || admin.answer(&request, reach));
                let failed = |_| plain(StatusCode::INTERNAL_SERVER_ERROR, "a fault of ours\n");
                Ok::<_, Infallible>(page.await.unwrap_or_else(failed))
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
            "/" => plain(StatusCode::OK, INDEX),
            "/healthz" => plain(StatusCode::OK, "ok\n"),
            "/readyz" => self.readiness(),
            "/metrics" => self.metrics(),
            "/listeners" => json(&self.listeners),
            "/policy" => secret(Self::policy),
            "/sessions" => secret(|admin| json(&admin.account.live().rows())),
            _ => plain(StatusCode::NOT_FOUND, INDEX),
        }
    }

    /// Ready is who takes sessions; a policy that has gone stale still judges them.
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
            let _ = writeln!(body, "report mode: what the policy would deny passes");
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

impl Listener {
    async fn accept(&self) -> io::Result<Either<TcpStream, UnixStream>> {
        match self {
            Self::Tcp(listener) => Ok(Either::Left(listener.accept().await?.0)),
            Self::Unix(listener) => Ok(Either::Right(listener.accept().await?.0)),
        }
    }
}

/// Whether the pages about clients are shown to this request.
fn shown(request: &Request<Incoming>, reach: Reach) -> Result<(), &'static str> {
    let host = request.headers().get(header::HOST).map(HeaderValue::as_bytes);
    let host = host.map(|bytes| std::str::from_utf8(bytes).unwrap_or_default());
    match reach {
        Reach::Socket => Ok(()),
        Reach::Loopback if host.is_none_or(is_local) => Ok(()),
        Reach::Loopback => Err("the Host must be an IP address or localhost\n"),
        Reach::Network => Err("shown only on a loopback address or a Unix socket\n"),
    }
}

/// Whether a `Host` is one that no foreign page can have: an address, or `localhost`.
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

/// Binds a Unix socket with its mode set before anybody can connect. A socket that nobody listens
/// on any more is replaced; whatever else is there is not.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is there, and no socket"));
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        Ok(_) | Err(_) => {}
    }
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    let listener = UnixListener::bind(&fresh)?;
    let placed = std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(SOCKET_MODE))
        .and_then(|()| std::fs::rename(&fresh, path));
    if let Err(error) = placed {
        let _ = std::fs::remove_file(&fresh);
        return Err(error);
    }
    Ok(listener)
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::account::{Arrival, Sink, Stage};
    use crate::policy::{Limits, Rules};

    struct Served {
        at: SocketAddr,
        status: watch::Sender<Status>,
        account: Arc<Account>,
        until: CancellationToken,
        _folder: tempfile::TempDir,
    }

    fn admin(address: AdminAddress) -> (Admin, watch::Sender<Status>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let sink = Sink::File(folder.path().join("audit"));
        let account = Account::new(prometheus::Registry::new(), sink).unwrap();
        let (_, policy) = watch::channel(Arc::new(PolicySet::new(4, Rules::default()).unwrap()));
        let (sender, status) = watch::channel(Status { generation: 4, ..Status::default() });
        let listeners = vec![ListenerInfo {
            mode: Mode::Connect,
            address: "127.0.0.1:3128".parse().unwrap(),
            enforcement: None,
            balancers: Some(vec!["10.0.0.0/24".parse().unwrap()]),
            tls: None,
        }];
        (Admin { account, policy, status, listeners, address }, sender, folder)
    }

    async fn served(ip: Ipv4Addr) -> Served {
        let (admin, status, folder) = admin(AdminAddress::Tcp((ip, 0).into()));
        let account = admin.account.clone();
        let until = CancellationToken::new();
        let port = admin.start(until.clone()).await.unwrap().unwrap().port();
        let at = (Ipv4Addr::LOCALHOST, port).into();
        Served { at, status, account, until, _folder: folder }
    }

    async fn asked(at: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn page(at: SocketAddr, path: &str) -> String {
        asked(at, &format!("GET {path} HTTP/1.1\r\nHost: {at}\r\n\r\n")).await
    }

    #[tokio::test]
    async fn every_page_answers() {
        let served = served(Ipv4Addr::LOCALHOST).await;
        let mut open = served.account.open(Arrival {
            client: "10.0.0.7".parse().unwrap(),
            listener: "127.0.0.1:3128".into(),
            accepted: std::time::Instant::now(),
            first: Stage::Head,
        });
        open.admit(&Limits::default()).unwrap();
        let cases = [
            ("/", "200 OK", "/metrics"),
            ("/healthz", "200 OK", "ok"),
            ("/metrics", "200 OK", "pullgate_open_sessions 1"),
            ("/metrics", "200 OK", "content-type: text/plain; version=0.0.4"),
            ("/metrics", "200 OK", "pullgate_policy_generation 4"),
            ("/listeners", "200 OK", "\"address\": \"127.0.0.1:3128\""),
            ("/listeners", "200 OK", "\"proxy-protocol-from\": ["),
            ("/policy", "200 OK", "\"generation\": 4"),
            ("/sessions", "200 OK", "\"client\": \"10.0.0.7\""),
            ("/sessions?x=y", "200 OK", "\"bytes-up\": 0"),
            ("/nothing", "404 Not Found", "/readyz"),
        ];
        for (path, code, part) in cases {
            let answer = page(served.at, path).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {code}\r\n")), "{path}: {answer}");
            assert!(answer.contains(part), "{path}: {answer}");
        }
    }

    #[tokio::test]
    async fn readiness_follows_the_status() {
        let served = served(Ipv4Addr::LOCALHOST).await;
        let stale = Some("registries.d/contoso.toml:3: a wildcard".into());
        let cases = [
            (Phase::Starting, None, "503", "starting"),
            (Phase::Serving, None, "200", "ready"),
            (Phase::Serving, stale, "200", "policy stale: registries.d/contoso.toml:3"),
            (Phase::Draining, None, "503", "draining"),
        ];
        for (phase, stale, code, part) in cases {
            served.status.send_replace(Status { phase, stale, ..Status::default() });
            let answer = page(served.at, "/readyz").await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{answer}");
            assert!(answer.contains(part), "{answer}");
        }
    }

    #[tokio::test]
    async fn nothing_but_reading() {
        let served = served(Ipv4Addr::LOCALHOST).await;
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
            let request = format!("{method} /policy HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let answer = asked(served.at, &request).await;
            assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
            assert!(answer.contains("allow: GET, HEAD"), "{answer}");
        }
        let head = asked(served.at, "HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
    }

    #[tokio::test]
    async fn pages_about_clients_stay_on_the_machine() {
        let served = served(Ipv4Addr::UNSPECIFIED).await;
        for path in ["/policy", "/sessions"] {
            assert!(page(served.at, path).await.starts_with("HTTP/1.1 403 "), "{path}");
        }
        assert!(page(served.at, "/metrics").await.starts_with("HTTP/1.1 200 "));
    }

    #[tokio::test]
    async fn a_foreign_host_is_shown_nothing_about_clients() {
        let served = served(Ipv4Addr::LOCALHOST).await;
        let cases = [
            ("localhost", "200"),
            ("LOCALHOST:9128", "200"),
            ("127.0.0.1", "200"),
            ("127.0.0.1:9128", "200"),
            ("[::1]:9128", "200"),
            ("[::1]", "200"),
            ("rebound.evil.example", "403"),
            ("rebound.evil.example:9128", "403"),
            ("localhost.evil.example", "403"),
            ("127.0.0.1.evil.example", "403"),
            ("", "403"),
        ];
        for (host, code) in cases {
            let request = format!("GET /sessions HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let answer = asked(served.at, &request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{host}: {answer}");
        }
    }

    #[tokio::test]
    async fn a_unix_socket_is_made_replaced_and_never_stolen() {
        let (admin_of, folder) = {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("admin.sock");
            (move || admin(AdminAddress::Unix(path.clone())), folder)
        };
        let path = folder.path().join("admin.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (first, _status, _audit) = admin_of();
        let until = CancellationToken::new();
        assert_eq!(first.start(until.clone()).await.unwrap(), None);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, SOCKET_MODE);
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(b"GET /sessions HTTP/1.1\r\nHost: any.name\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let (second, _status, _audit) = admin_of();
        let taken = second.start(until.clone()).await.unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        let (third, _status, _audit) = admin(AdminAddress::Unix(folder.path().into()));
        assert!(third.start(until).await.is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn it_ends_with_its_token() {
        let served = served(Ipv4Addr::LOCALHOST).await;
        served.until.cancel();
        // The listener is dropped by the task; what was in its queue is reset then.
        while let Ok(mut stream) = TcpStream::connect(served.at).await {
            let mut byte = [0];
            let _ = stream.read(&mut byte).await;
        }
    }
}
