//! The origin, in a separate process: answers hellos, then executes the order of each connection.
//!
//! It listens on one port per proxy, so that their connections do not share one table of ports.
//! Connections with small messages and idle ones are tasks. Bulk and timed connections have a
//! thread each, because blocking calls cost least.

use std::io::{self, BufRead, Read, Write};
use std::net::{Ipv4Addr, Shutdown};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::certificate::Certificate;
use crate::registry::{Registry, hex};
use crate::socket::Discard;
use crate::wire::{self, Framing, Order};

/// Maximum size of a ClientHello, in bytes.
const LARGEST_HELLO: usize = 16 * 1024;

/// Counters that the harness reads between measurements.
#[derive(Debug, Default)]
struct Counts {
    /// Open connections.
    open: AtomicU64,
    /// Bytes received by [`Order::Take`].
    taken: AtomicU64,
}

struct Origin {
    counts: Counts,
    tls: Arc<ServerConfig>,
    records: Vec<u8>,
    registry: Registry,
}

/// Counts a connection for as long as it is open.
struct Visit(Arc<Origin>);

impl Visit {
    fn begin(origin: Arc<Origin>) -> Self {
        origin.counts.open.fetch_add(1, Ordering::Relaxed);
        Self(origin)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.counts.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// `origin PORTS`: prints its certificate and its ports, one per line. Then it answers every input
/// line with the number of open connections and received bytes. It exits at the end of its input.
pub fn run(ports: usize) -> anyhow::Result<()> {
    super::process::raise_descriptors();
    let made = Certificate::of_hosts()?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.key));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.der.clone().into()], key)?;
    let origin = Arc::new(Origin {
        counts: Counts::default(),
        tls: Arc::new(tls),
        records: wire::full_records(),
        registry: Registry::new(),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    println!("{}", hex(&made.der));
    for _ in 0..ports {
        let listener = runtime.block_on(listen()).context("the origin cannot listen")?;
        println!("{}", listener.local_addr()?.port());
        runtime.spawn(accept(listener, origin.clone()));
    }
    for line in io::stdin().lock().lines() {
        line?;
        let Counts { open, taken } = &origin.counts;
        println!("{} {}", open.load(Ordering::Relaxed), taken.load(Ordering::Relaxed));
    }
    Ok(())
}

async fn listen() -> io::Result<TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::UNSPECIFIED, 0).into())?;
    socket.listen(4096)
}

async fn accept(listener: TcpListener, origin: Arc<Origin>) {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            let visit = Visit::begin(origin.clone());
            tokio::spawn(async move {
                // A client that leaves in the middle of a transfer has finished its measurement.
                let _ = greet(stream, visit).await;
            });
        }
    }
}

async fn greet(mut stream: TcpStream, visit: Visit) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut hello = vec![0; 5];
    stream.read_exact(&mut hello).await?;
    let length = usize::from(u16::from_be_bytes([hello[3], hello[4]])).min(LARGEST_HELLO);
    hello.resize(5 + length, 0);
    stream.read_exact(&mut hello[5..]).await?;
    if !wire::is_ready_made(&hello) {
        return in_thread(stream, visit, move |stream, visit| {
            let origin = visit.0.clone();
            // A proxy keeps its connections to a registry, so nobody waits for their end.
            drop(visit);
            real_tls(stream, &hello, &origin)
        });
    }
    stream.write_all(&wire::first_flight(&hello)).await?;
    let framing = wire::framing(&hello);
    let mut second = vec![0; wire::second_flight(framing).len()];
    stream.read_exact(&mut second).await?;
    if framing == Framing::Tls12 {
        // The server's change_cipher_spec and Finished look like the client's without the key
        // exchange.
        let own = second.len() - (6 + 45);
        stream.write_all(&second[own..]).await?;
    }
    small(stream, visit).await
}

/// Handles small exchanges until an order needs a thread.
async fn small(mut stream: TcpStream, visit: Visit) -> io::Result<()> {
    let mut record = vec![0; Order::Attend.record().len()];
    loop {
        if stream.read_exact(&mut record).await.is_err() {
            return Ok(());
        }
        match Order::parse(&record[5..])? {
            Order::Answer(length) => stream.write_all(&wire::answer(length)).await?,
            order => {
                return in_thread(stream, visit, move |stream, visit| {
                    obey(&stream, order, &visit.0)?;
                    attend(&stream, &visit.0)
                });
            }
        }
    }
}

/// Continues a connection in a separate thread.
fn in_thread(
    stream: TcpStream,
    visit: Visit,
    work: impl FnOnce(std::net::TcpStream, Visit) -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    let builder = std::thread::Builder::new().stack_size(128 * 1024);
    builder.spawn(move || {
        let _ = work(stream, visit);
    })?;
    Ok(())
}

fn attend(stream: &std::net::TcpStream, origin: &Origin) -> io::Result<()> {
    let mut record = vec![0; Order::Attend.record().len()];
    let mut reader = stream;
    loop {
        if reader.read_exact(&mut record).is_err() {
            return Ok(());
        }
        obey(stream, Order::parse(&record[5..])?, origin)?;
    }
}

fn obey(mut stream: &std::net::TcpStream, order: Order, origin: &Origin) -> io::Result<()> {
    match order {
        Order::Answer(length) => stream.write_all(&wire::answer(length)),
        Order::Attend => Ok(()),
        Order::Send { bytes, pace } => {
            let mut paced = Paced::new(pace);
            let mut left = bytes;
            while left > 0 {
                let due = paced.due().min(left).min(origin.records.len() as u64);
                let piece = &origin.records[..usize::try_from(due).unwrap_or(0)];
                stream.write_all(piece)?;
                left -= due;
            }
            Ok(())
        }
        Order::Take => {
            let mut discard = Discard::new();
            loop {
                match discard.some(stream, u64::MAX)? {
                    0 => return stream.shutdown(Shutdown::Write),
                    taken => origin.counts.taken.fetch_add(taken as u64, Ordering::Relaxed),
                };
            }
        }
    }
}

/// How often a paced sender sends, per second. At such a pace a proxy pays mainly for its wake-ups,
/// so the results depend strongly on this rate: see docs/performance.md.
const PIECES: u32 = 2_000;

/// Sends in small pieces, as a network at this pace would deliver. The kernel's own pacing sends
/// bursts of 64 KiB when round trips are as short as here.
struct Paced {
    bytes_a_second: u64,
    began: Instant,
    sent: u64,
}

impl Paced {
    /// Bytes per second; 0 is unlimited.
    fn new(bytes_a_second: u64) -> Self {
        Self { bytes_a_second, began: Instant::now(), sent: 0 }
    }

    /// Waits until bytes are due. Returns how many.
    fn due(&mut self) -> u64 {
        if self.bytes_a_second == 0 {
            return u64::MAX;
        }
        let each = (self.bytes_a_second / u64::from(PIECES)).max(1);
        let piece = u32::try_from(self.sent / each + 1).unwrap_or(u32::MAX);
        let at = self.began + Duration::from_secs(1) / PIECES * piece;
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        self.sent += each;
        each
    }
}

/// Real TLS: first delivers the hello that was already read. Then it obeys an order, or answers the
/// requests to a registry.
fn real_tls(stream: std::net::TcpStream, hello: &[u8], origin: &Arc<Origin>) -> io::Result<()> {
    let mut connection =
        rustls::ServerConnection::new(origin.tls.clone()).map_err(io::Error::other)?;
    let mut ahead = hello;
    while !ahead.is_empty() {
        connection.read_tls(&mut ahead)?;
        connection.process_new_packets().map_err(io::Error::other)?;
    }
    let mut tls = rustls::StreamOwned::new(connection, stream);
    let mut payload = [0; Order::LENGTH];
    tls.read_exact(&mut payload[..1])?;
    if payload[0].is_ascii_uppercase() {
        return origin.registry.serve(&mut tls, &payload[..1]);
    }
    let _visit = Visit::begin(origin.clone());
    tls.read_exact(&mut payload[1..])?;
    let Order::Send { bytes, .. } = Order::parse(&payload)? else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let piece = vec![0x33; 256 * 1024];
    let mut left = bytes;
    while left > 0 {
        tls.write_all(&piece)?;
        left = left.saturating_sub(piece.len() as u64);
    }
    tls.flush()
}
