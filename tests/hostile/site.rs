//! A gate in a separate network: a DNS server that logs its queries, an upstream that passes its
//! connections to the test, and clients with one address each, so that the audit distinguishes
//! them.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::rr::RecordType;
use nix::sched::{CloneFlags, unshare};
use pullgate::app::{self, Inherited, Prepared, Running};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Mutex, mpsc};

use super::cases::cut;
use super::cases::drafts::NAME;
use super::dns::{Asked, Reply, Server, address};

/// Timeout for expected events.
const PATIENCE: Duration = Duration::from_secs(30);

const UPSTREAM: &str = "127.0.1.1:443";

pub struct Site {
    running: Running,
    pub connect: SocketAddr,
    pub transparent: SocketAddr,
    dns: Server,
    upstream: Mutex<mpsc::Receiver<TcpStream>>,
    dialled: Arc<AtomicUsize>,
    clients: Cell<u32>,
    dir: TempDir,
}

/// Timeouts that no case reaches, even on a busy machine.
pub const PATIENT: &str = "head-timeout-ms = 120000\nhello-timeout-ms = 120000";

/// How bytes are split when they are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feeding {
    Whole,
    ByBytes,
    /// At positions that the seed determines.
    Random(u64),
}

/// The number of bytes sent one by one; the rest is sent in small pieces. The unit tests of the
/// pure modules split all bytes.
const BY_BYTES: usize = 2048;

impl Feeding {
    pub const ALL: [Self; 4] = [Self::Whole, Self::ByBytes, Self::Random(1), Self::Random(2)];

    fn chunks(self, bytes: &[u8]) -> Vec<&[u8]> {
        match self {
            Self::Whole => vec![bytes],
            Self::ByBytes => {
                let (first, rest) = bytes.split_at(bytes.len().min(BY_BYTES));
                first.chunks(1).chain(rest.chunks(97)).collect()
            }
            Self::Random(seed) => cut(bytes, seed),
        }
    }
}

/// Runs a test in its own network namespace, where port 443 is free.
pub fn on_a_site<F: Future<Output = ()>>(limits: &str, test: impl FnOnce(Site) -> F) {
    unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| {
        panic!("the tests make namespaces, which only root may ({error}); `make test` sees to that")
    });
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(up.is_ok_and(|up| up.success()), "ip link set lo up; `make test` installs iproute2");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { test(Site::open(limits).await).await });
}

impl Site {
    async fn open(limits: &str) -> Self {
        let dns = Server::start(answer).await;
        let listener = TcpListener::bind(UPSTREAM).await.unwrap();
        let dialled = Arc::new(AtomicUsize::new(0));
        let (hand_over, upstream) = mpsc::channel(1024);
        let count = dialled.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                stream.set_nodelay(true).unwrap();
                if hand_over.send(stream).await.is_err() {
                    return;
                }
            }
        });
        let dir = tempfile::Builder::new().prefix("pullgate-").tempdir().unwrap();
        fs::create_dir(dir.path().join("registries.d")).unwrap();
        let registry = format!("login-server = \"{NAME}\"\n");
        fs::write(dir.path().join("registries.d/contoso.toml"), registry).unwrap();
        let config = dir.path().join("pullgate.toml");
        let dns_server = dns.address;
        let text = format!(
            r#"
[[listen]]
mode = "connect"
address = "127.0.0.1:0"
[[listen]]
mode = "transparent"
address = "127.0.0.2:0"
[admin]
address = "127.0.0.1:0"
[policy]
registries = "registries.d"
[dns]
servers = ["{dns_server}"]
[addresses]
allow = ["127.0.0.0/8"]
[audit]
path = "audit.jsonl"
[limits]
{limits}
"#
        );
        fs::write(&config, text).unwrap();
        let running =
            app::start(Prepared::read(&config).unwrap(), Inherited::default()).await.unwrap();
        let [connect, transparent] = running.listeners() else { panic!("two listeners") };
        let (connect, transparent) = (connect.address, transparent.address);
        let clients = Cell::new(0);
        let upstream = Mutex::new(upstream);
        Self { running, connect, transparent, dns, upstream, dialled, clients, dir }
    }

    /// Opens a connection of a new client to `to`. Returns it and the address that the audit
    /// records.
    pub async fn client(&self, to: SocketAddr) -> Peer {
        let number = self.clients.get() + 1;
        self.clients.set(number);
        let source = IpAddr::V4(Ipv4Addr::from_bits(0x7f40_0000 + number));
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((source, 0).into()).unwrap();
        let stream = socket.connect(to).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Peer { stream, source }
    }

    /// Waits for the gate's next connection to the upstream.
    pub async fn dialled(&self) -> Peer {
        let mut upstream = self.upstream.lock().await;
        let stream = soon("the gate dials", upstream.recv()).await.unwrap();
        Peer { source: stream.peer_addr().unwrap().ip(), stream }
    }

    /// Returns the number of connections that the gate has opened.
    pub fn dials(&self) -> usize {
        self.dialled.load(Ordering::SeqCst)
    }

    /// Returns the DNS queries since the last call.
    pub fn asked(&self) -> Vec<Asked> {
        self.dns.asked()
    }

    /// Asserts that there was no DNS query and no connection since `dials`: a legal client
    /// connects, and its queries and its connection must be the first to arrive.
    pub async fn assert_nothing_went_out(&self, dials: usize) {
        let mut honest = self.client(self.connect).await;
        honest.send(CONNECT.as_bytes(), Feeding::Whole).await;
        assert!(honest.head().await.starts_with("HTTP/1.1 200 "));
        drop(self.dialled().await);
        let mut asked = self.asked();
        asked.sort_by_key(|asked| asked.family.to_string());
        let families: Vec<RecordType> = asked.iter().map(|asked| asked.family).collect();
        assert_eq!(families, [RecordType::A, RecordType::AAAA], "{asked:?}");
        assert!(asked.iter().all(|asked| asked.name == format!("{NAME}.")), "{asked:?}");
        assert_eq!(self.dials(), dials + 1);
    }

    /// Returns the gate's metrics.
    pub async fn metrics(&self) -> String {
        let mut page = TcpStream::connect(self.running.admin().unwrap()).await.unwrap();
        page.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
        let mut text = String::new();
        page.read_to_string(&mut text).await.unwrap();
        text
    }

    /// Stops the gate once all clients have closed. Returns the audit lines of each.
    pub async fn close(self) -> HashMap<IpAddr, Value> {
        let Self { running, dir, .. } = self;
        soon("the gate stops", running.stop(PATIENCE / 2)).await;
        let audit = fs::read_to_string(dir.path().join("audit.jsonl")).unwrap();
        let lines = audit.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|line| (line["client"].as_str().unwrap().parse().unwrap(), line)).collect()
    }
}

pub const CONNECT: &str =
    "CONNECT contoso.azurecr.io:443 HTTP/1.1\r\nHost: contoso.azurecr.io:443\r\n\r\n";

/// The test's end of a connection with the gate.
pub struct Peer {
    pub stream: TcpStream,
    pub source: IpAddr,
}

impl Peer {
    /// Sends bytes until the gate closes.
    pub async fn send(&mut self, bytes: &[u8], feeding: Feeding) {
        for chunk in feeding.chunks(bytes) {
            if soon("the gate reads", self.stream.write_all(chunk)).await.is_err() {
                return;
            }
            // Let the gate run.
            tokio::task::yield_now().await;
        }
    }

    /// Reads the head of the answer.
    pub async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(soon("an answer", self.stream.read_u8()).await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    /// Reads the next `count` bytes.
    pub async fn take(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let what = format!("{count} bytes");
        soon(&what, self.stream.read_exact(&mut bytes)).await.unwrap();
        bytes
    }

    /// Reads until the gate closes or resets.
    pub async fn rest(&mut self) -> (Vec<u8>, Option<io::ErrorKind>) {
        let mut bytes = Vec::new();
        let ended = soon("the gate closes", self.stream.read_to_end(&mut bytes)).await;
        (bytes, ended.err().map(|error| error.kind()))
    }
}

/// Waits for an expected event; panics after [`PATIENCE`].
async fn soon<T>(what: &str, it: impl Future<Output = T>) -> T {
    let came = tokio::time::timeout(PATIENCE, it).await;
    came.unwrap_or_else(|_| panic!("waited {PATIENCE:?} in vain until {what}"))
}

/// A resolver configuration: the allowed name has one address, without caching.
fn answer(asked: &Asked) -> Reply {
    let ours = asked.name == format!("{NAME}.") && asked.family == RecordType::A;
    let at: SocketAddr = UPSTREAM.parse().unwrap();
    if ours { Reply::Records(vec![address(&asked.name, 0, at.ip())]) } else { Reply::Nothing(0) }
}
