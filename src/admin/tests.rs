use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::socket::SOCKET_MODE;
use super::*;
use crate::account::{Account, Status};
use crate::account::{Arrival, Sink, Stage};
use crate::config::{Mode, Ports};
use crate::policy::PolicySet;
use crate::policy::Rules;
use tokio::sync::watch;

struct Served {
    at: SocketAddr,
    status: watch::Sender<Status>,
    account: Arc<Account>,
    until: CancellationToken,
    _folder: tempfile::TempDir,
}

fn admin() -> (Admin, watch::Sender<Status>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let sink = Sink::File(folder.path().join("audit"));
    let account = Account::new(prometheus::Registry::new(), sink).unwrap();
    let (_, policy) = watch::channel(Arc::new(PolicySet::new(4, Rules::default()).unwrap()));
    let (sender, status) = watch::channel(Status { generation: 4, ..Status::default() });
    let listeners = vec![Arc::new(ListenerSpec {
        mode: Mode::Connect,
        address: "127.0.0.1:3128".parse().unwrap(),
        name: "127.0.0.1:3128".into(),
        enforcement: None,
        balancers: Some(vec!["10.0.0.0/24".parse().unwrap()]),
        tls: None,
    })];
    let started = std::time::Instant::now();
    (Admin { account, policy, status, listeners, started }, sender, folder)
}

async fn served(ip: Ipv4Addr) -> Served {
    let (admin, status, folder) = admin();
    let account = admin.account.clone();
    let until = CancellationToken::new();
    let socket = Socket::tcp(TcpListener::bind((ip, 0)).await.unwrap()).unwrap();
    let port = socket.address().unwrap().port();
    admin.start(socket, until.clone());
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
    open.admit().unwrap();
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
        ("/requests", "200 OK", "[]"),
        ("/sessions?x=y", "200 OK", "\"bytes-up\": 0"),
        ("/nothing", "404 Not Found", "/readyz"),
    ];
    for (path, code, part) in cases {
        let answer = page(served.at, path).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}\r\n")), "{path}: {answer}");
        assert!(answer.contains(part), "{path}: {answer}");
    }
}

#[cfg(feature = "admin-page")]
#[tokio::test]
async fn the_page_gets_the_machine_failures_and_the_last_hour() {
    use crate::policy::{Cause, Failure, Side};
    let served = served(Ipv4Addr::LOCALHOST).await;
    let open = || {
        served.account.open(Arrival {
            client: "10.0.0.7".parse().unwrap(),
            listener: "127.0.0.1:3128".into(),
            accepted: std::time::Instant::now(),
            first: Stage::Head,
        })
    };
    let fail = |cause| {
        let mut failing = open();
        failing.ask("contoso.azurecr.io:443");
        failing.close(&Err(Failure { side: Side::Upstream, cause }.into()));
    };
    fail(Cause::NameNotFound);
    fail(Cause::NameNotFound);
    fail(Cause::ClientAborted);
    let event = first_event(served.at).await;
    let incident = &event["incidents"][0];
    assert_eq!(event["incidents"].as_array().unwrap().len(), 1, "{event}");
    assert_eq!((&incident["outcome"], &incident["count"]), (&"failed".into(), &2.into()));
    assert_eq!(incident["reason"], "name-not-found");
    assert!(incident["remedy"].as_str().unwrap().contains("the policy"), "{incident}");
    assert_eq!((&event["ends"]["failed"], &event["ends"]["denied"]), (&2.into(), &0.into()));
    assert_eq!(event["version"], env!("CARGO_PKG_VERSION"));
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(event["host"], name.trim_end());
    assert!(event["history"]["step-seconds"].is_u64() && event["uptime-seconds"].is_u64());
}

/// Returns the first event of `/events`.
#[cfg(feature = "admin-page")]
async fn first_event(at: SocketAddr) -> serde_json::Value {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let request = format!("GET /events HTTP/1.1\r\nHost: {at}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    loop {
        stream.read_buf(&mut read).await.unwrap();
        let text = String::from_utf8_lossy(&read);
        let event = text.split_once("data: ").and_then(|(_, event)| event.split_once("\n\n"));
        if let Some((json, _)) = event {
            return serde_json::from_str(json).unwrap();
        }
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
    for path in ["/policy", "/sessions", "/requests"] {
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
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let socket = Socket::unix(&path, Ports::Own).unwrap();
    assert_eq!(socket.address(), None);
    let (first, _status, _audit) = admin();
    let until = CancellationToken::new();
    first.start(socket, until.clone());
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, SOCKET_MODE);
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"GET /sessions HTTP/1.1\r\nHost: any.name\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let taken = Socket::unix(&path, Ports::Own).unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    assert!(Socket::unix(folder.path(), Ports::Shared).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    // A successor replaces the socket if ports are shared.
    drop(Socket::unix(&path, Ports::Shared).unwrap());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn it_ends_with_its_token() {
    let served = served(Ipv4Addr::LOCALHOST).await;
    served.until.cancel();
    // The task drops the listener, which resets the queued connections.
    while let Ok(mut stream) = TcpStream::connect(served.at).await {
        let mut byte = [0];
        let _ = stream.read(&mut byte).await;
    }
}
