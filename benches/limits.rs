//! The cost of budgets, hourly quotas, rate limits and client groups, and of TLS to the client
//! compared with splice: downloads through the relay, and tunnel set-ups through a complete gate.
//! The variants alternate, and the medians are compared.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a bench fails by panicking, and prints what it found"
)]

use std::fmt::Write as _;
use std::future::pending;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pullgate::app::{self, Inherited, Prepared};
use pullgate::config::{self, File, Files};
use pullgate::hello::{Hello, HelloReader, HelloStep};
use pullgate::limits::{Bounds, Throttle, UploadQuota};
use pullgate::policy::{
    Budget, Cleared, ClientIdentity, Ending, Enforcement, OwnAddresses, Target,
};
use pullgate::relay::{PIPE_SIZE, Relay, RelaySettings, Traffic, TunnelEnds, TunnelTerms};
use rustix::time::{ClockId, clock_gettime};
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_rustls::TlsAcceptor;

const NAME: &str = "contoso.azurecr.io";

/// Bytes per turn of a download.
const DOWNLOAD: usize = 1 << 30;

/// Tunnels per turn of the set-up.
const TUNNELS: usize = 2_000;

/// Number of turns per variant; the first is not counted.
const TURNS: usize = 12;

/// A limit that is never reached.
const PLENTY: u64 = 1 << 40;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    Plain,
    Bounded,
    /// The cost of TLS without encryption.
    Copied,
    Tls,
}

fn main() {
    let tls = Tls::new();
    println!("download of {} MiB through one tunnel; gate's thread alone", DOWNLOAD >> 20);
    compare(
        &[Variant::Plain, Variant::Bounded, Variant::Copied, Variant::Tls],
        "s CPU/GiB",
        |variant| download(*variant, &tls),
    );
    println!("{TUNNELS} tunnels one after another through a whole gate; all its threads and ours");
    let folder = tempfile::tempdir().unwrap();
    let gates = [Variant::Plain, Variant::Bounded].map(|variant| Gate::new(folder.path(), variant));
    compare(&[0, 1], "s CPU/1000", |index: &usize| gates[*index].set_up());
}

/// Runs the variants alternately, and prints each median and its ratio to the first.
fn compare<V: std::fmt::Debug>(variants: &[V], unit: &str, turn: impl Fn(&V) -> (f64, f64)) {
    let mut turns: Vec<Vec<(f64, f64)>> = variants.iter().map(|_| Vec::new()).collect();
    for round in 0..TURNS {
        for (variant, kept) in variants.iter().zip(&mut turns) {
            let result = turn(variant);
            if round > 0 {
                kept.push(result);
            }
        }
    }
    let median = |values: Vec<f64>| {
        let mut values = values;
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    for (variant, kept) in variants.iter().zip(&turns) {
        let ratios = |of: fn(&(f64, f64)) -> f64| {
            median(kept.iter().zip(&turns[0]).map(|(own, first)| of(own) / of(first)).collect())
        };
        println!(
            "  {variant:?}: {:.4} {unit}, {:.3} s a turn; ratio {:.3} of CPU, {:.3} of time",
            median(kept.iter().map(|one| one.0).collect()),
            median(kept.iter().map(|one| one.1).collect()),
            ratios(|one| one.0),
            ratios(|one| one.1),
        );
    }
}

/// Certificates for the registry and for the gate.
struct Tls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Tls {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let versions = &[&rustls::version::TLS13];
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key.into())
            .unwrap();
        Self { client: Arc::new(client), server: Arc::new(server) }
    }

    fn connection(&self) -> ClientConnection {
        let name = ServerName::try_from(NAME).unwrap();
        ClientConnection::new(self.client.clone(), name).unwrap()
    }

    /// A hello, and the server's answer, which determines the TLS version.
    fn flights(&self) -> (Vec<u8>, Vec<u8>) {
        let (mut client, mut hello) = (self.connection(), Vec::new());
        client.write_tls(&mut hello).unwrap();
        let (mut server, mut answer) =
            (ServerConnection::new(self.server.clone()).unwrap(), Vec::new());
        server.read_tls(&mut hello.as_slice()).unwrap();
        server.process_new_packets().unwrap();
        while server.wants_write() {
            server.write_tls(&mut answer).unwrap();
        }
        (hello, answer)
    }
}

/// Returns CPU seconds of the gate's thread per GiB, and elapsed seconds.
fn download(variant: Variant, tls: &Tls) -> (f64, f64) {
    let (hello, answer) = tls.flights();
    let (mut client, gate_client) = pair();
    let (gate_upstream, mut server) = pair();
    let acceptor = (variant == Variant::Tls).then(|| TlsAcceptor::from(tls.server.clone()));
    let gate = std::thread::spawn(move || carry(variant, gate_client, gate_upstream, acceptor));
    let (asked, answered) = (hello.len(), answer.clone());
    let serving = std::thread::spawn(move || {
        server.read_exact(&mut vec![0; asked]).unwrap();
        server.write_all(&answered).unwrap();
        let block = vec![7; 1 << 20];
        for _ in 0..DOWNLOAD / block.len() {
            server.write_all(&block).unwrap();
        }
        let _ = server.read_to_end(&mut Vec::new());
    });
    let began = Instant::now();
    let receive = |client: &mut dyn ReadWrite| {
        client.write_all(&hello).unwrap();
        client.flush().unwrap();
        let mut block = vec![0; 1 << 18];
        let mut left = DOWNLOAD + answer.len();
        while left > 0 {
            let most = block.len().min(left);
            left -= client.read(&mut block[..most]).unwrap();
        }
    };
    if variant == Variant::Tls {
        receive(&mut rustls::StreamOwned::new(tls.connection(), client));
    } else {
        receive(&mut client);
        drop(client);
    }
    let took = began.elapsed().as_secs_f64();
    let spent = gate.join().unwrap();
    serving.join().unwrap();
    (spent / (DOWNLOAD as f64 / (1_u64 << 30) as f64), took)
}

trait ReadWrite: Read + Write {}

impl<T: Read + Write> ReadWrite for T {}

/// Runs the gate's part of a tunnel. Returns its CPU time in seconds.
fn carry(
    variant: Variant,
    client: TcpStream,
    upstream: TcpStream,
    acceptor: Option<TlsAcceptor>,
) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let relay = Relay::new(RelaySettings {
            batch: Some(config::BATCH),
            pipes: 1,
            pipe_size: PIPE_SIZE,
        });
        let cleared = cleared();
        let traffic = match variant {
            Variant::Plain | Variant::Copied | Variant::Tls => Traffic::default(),
            Variant::Bounded => {
                let rates = [0; 2].map(|_| Arc::new(Throttle::new(PLENTY)));
                let hour = Arc::new(UploadQuota::new(PLENTY));
                let bounds = Bounds::within(Some(hour), rates.to_vec());
                bounds.set(Some(Budget::default()), Enforcement::Enforce);
                Traffic::within(bounds)
            }
        };
        let upstream = tokio_of(upstream);
        let client = tokio_of(client);
        let before = cpu(ClockId::ThreadCPUTime);
        let outcome = match acceptor {
            None => {
                let mut client = client;
                let hello = Box::new(hello(&mut client).await);
                let mut sides = sides(client, upstream);
                let stop = pin!(pending());
                let carried = if variant == Variant::Copied {
                    relay.carry_wrapped(&cleared, &mut sides, hello, &traffic, stop).await
                } else {
                    relay.carry(&cleared, &mut sides, hello, &traffic, stop).await
                };
                carried.outcome
            }
            Some(acceptor) => {
                let mut client = acceptor.accept(client).await.unwrap();
                let hello = Box::new(hello(&mut client).await);
                let mut sides = sides(client, upstream);
                let stop = pin!(pending());
                relay.carry_wrapped(&cleared, &mut sides, hello, &traffic, stop).await.outcome
            }
        };
        assert_eq!(outcome, Ok(Ending::Closed));
        cpu(ClockId::ThreadCPUTime) - before
    })
}

fn sides<C>(client: C, upstream: tokio::net::TcpStream) -> TunnelEnds<C> {
    let second_hello = Duration::from_secs(10);
    let (idle, stall) = (Duration::from_secs(60), Duration::from_secs(60));
    let terms = TunnelTerms {
        second_hello,
        idle,
        stall,
        second_hellos: None,
        client: Ipv4Addr::LOCALHOST.into(),
    };
    TunnelEnds { client, upstream, terms: Box::new(terms) }
}

/// Reads the hello like the session does.
async fn hello(from: &mut (impl AsyncRead + Unpin)) -> Hello {
    let mut reader = HelloReader::new();
    let mut buffer = [0; 4096];
    loop {
        let read = from.read(&mut buffer).await.unwrap();
        if let HelloStep::Complete(hello) = reader.feed(&buffer[..read]).unwrap() {
            return hello;
        }
    }
}

/// The permission to relay to the registry.
fn cleared() -> Cleared {
    let file = |path: &str, text: &str| File { path: path.into(), text: Ok(text.into()) };
    let main = "[[listen]]\nmode = \"connect\"\naddress = \"127.0.0.1:0\"";
    let registry = format!("login-server = \"{NAME}\"");
    let files = Files {
        main: file("pullgate.toml", main),
        registries: vec![file("registries.d/contoso.toml", &registry)],
        further: Vec::new(),
    };
    let set = config::compile(&files, 1).unwrap().policy;
    let target = Target::parse_authority(&format!("{NAME}:443")).unwrap();
    let asker = ClientIdentity::at(Ipv4Addr::LOCALHOST.into());
    let allowed = set.judge_name(&target, &asker, Enforcement::Enforce).unwrap();
    let found = ["20.1.2.3:443".parse().unwrap()];
    let vetted = set.judge_addresses(allowed, &found, &OwnAddresses::default()).unwrap();
    set.judge_hello(vetted.permit, &target.name).unwrap()
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

fn tokio_of(stream: TcpStream) -> tokio::net::TcpStream {
    stream.set_nonblocking(true).unwrap();
    tokio::net::TcpStream::from_std(stream).unwrap()
}

fn cpu(clock: ClockId) -> f64 {
    let spent = clock_gettime(clock);
    spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9
}

/// A complete gate on its own threads.
struct Gate {
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
    _running: app::Running,
}

impl Gate {
    fn new(folder: &Path, variant: Variant) -> Self {
        let folder = folder.join(format!("{variant:?}"));
        std::fs::create_dir_all(folder.join("registries.d")).unwrap();
        let upstream = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let behind = upstream.local_addr().unwrap();
        std::thread::spawn(move || {
            for accepted in upstream.incoming() {
                drop(accepted);
            }
        });
        let mut main = format!(
            "[[listen]]\nmode = \"connect\"\naddress = \"127.0.0.1:0\"\n\
             [addresses]\nallow = [\"127.0.0.0/8\"]\n[dns.hosts]\n\"{NAME}\" = [\"{behind}\"]\n\
             [audit]\npath = \"{}\"\n",
            folder.join("audit").display()
        );
        let mut registry = format!("login-server = \"{NAME}\"\n");
        if variant == Variant::Bounded {
            main += "[limits]\nnew-sessions-per-second-per-client = 1_000_000\n";
            for number in 0..100 {
                let network =
                    if number < 99 { format!("10.{number}.0.0/16") } else { "127.0.0.0/8".into() };
                write!(
                    main,
                    "[[client]]\nname = \"client-{number}\"\nnetworks = [\"{network}\"]\n\
                     open-sessions = 10_000\nnew-sessions-per-second = 1_000_000\n\
                     upload-bytes-per-hour = {PLENTY}\ndownload-bytes-per-second = {PLENTY}\n"
                )
                .unwrap();
            }
            registry += "pull-only = true\nclients = [\"client-0\", \"client-99\"]\n";
            writeln!(registry, "download-bytes-per-second = {PLENTY}").unwrap();
        }
        let config = folder.join("pullgate.toml");
        std::fs::write(&config, main).unwrap();
        std::fs::write(folder.join("registries.d/contoso.toml"), registry).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let prepared = Prepared::read(&config).unwrap_or_else(|faults| panic!("{faults}"));
        let running = runtime.block_on(app::start(prepared, Inherited::default())).unwrap();
        let address = running.listeners()[0].address;
        Self { address, _runtime: runtime, _running: running }
    }

    /// Returns CPU seconds per thousand tunnels, and elapsed seconds.
    fn set_up(&self) -> (f64, f64) {
        let request = format!("CONNECT {NAME}:443 HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
        let (before, began) = (cpu(ClockId::ProcessCPUTime), Instant::now());
        for _ in 0..TUNNELS {
            let mut gate = TcpStream::connect(self.address).unwrap();
            gate.write_all(request.as_bytes()).unwrap();
            let mut answer = [0; 12];
            gate.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200");
        }
        let spent = cpu(ClockId::ProcessCPUTime) - before;
        (spent / (TUNNELS as f64 / 1e3), began.elapsed().as_secs_f64())
    }
}
