//! Bulk transfers, at full speed or at the origin's pace.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use anyhow::Context as _;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::SockRef;

use super::https::Https;
use super::tunnel::{Tunnel, connect, tunnel};
use crate::bench::Bench;
use crate::client::client_config;
use crate::peer::{Ask, Peer};
use crate::sample::{Meter, Sample};
use crate::socket::Discard;
use crate::wire::{DATA, Hello, LOGIN, Order, full_records, records};

/// Direction of the transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Down,
    Up,
}

/// Content of the tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Prepared TLS 1.3 records.
    ReadyMade,
    /// Prepared records, framed as TLS 1.2.
    ReadyMadeTls12,
    /// The same with one byte of payload each, as no honest client sends them.
    OneByteTls12,
    /// Real TLS with rustls at both ends.
    RealTls,
    /// Layers over HTTPS, with rustls at both ends.
    Layers,
}

/// A bulk measurement.
#[derive(Debug, Clone, Copy)]
pub struct Bulk {
    pub direction: Direction,
    pub content: Content,
    pub tunnels: usize,
    /// Bytes per second and tunnel; 0 is unlimited.
    pub pace: u64,
    /// Warm-up: windows and buffers grow, and relays adapt.
    pub warm: Duration,
    pub time: Duration,
}

impl Bulk {
    fn hello<'a>(&self, bench: &'a Bench) -> &'a Hello {
        match (self.content, self.direction) {
            (Content::ReadyMadeTls12 | Content::OneByteTls12, _) => &bench.push_tls12,
            (Content::Layers, _) | (_, Direction::Up) => &bench.push,
            (_, Direction::Down) => &bench.pull,
        }
    }

    /// What an upload consists of.
    fn records(&self) -> Vec<u8> {
        match self.content {
            Content::OneByteTls12 => records(1),
            _ => full_records(),
        }
    }
}

pub fn run(bench: &mut Bench, peer: &Peer, bulk: &Bulk) -> anyhow::Result<Sample> {
    let received = AtomicU64::new(0);
    let ended = AtomicBool::new(false);
    let tls = client_config(bench.trusted_by_clients(peer))?;
    let path = bench.registry.layer_path();
    let (mut streams, mut layer_of_each) = (Vec::with_capacity(bulk.tunnels), Vec::new());
    for _ in 0..bulk.tunnels {
        let hello = bulk.hello(bench);
        let Tunnel { socket, tls } = match bulk.content {
            Content::RealTls | Content::Layers => connect(&peer.route, hello.host)?
                .map_err(|_| io::Error::other("the proxy refuses"))?,
            _ => tunnel(&peer.route, hello)?,
        };
        // The transfer is stopped in the middle: a full window would otherwise block the origin.
        SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
        streams.push(socket);
        layer_of_each.push(tls);
    }
    let records = bulk.records();
    let start = Barrier::new(bulk.tunnels + 1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = streams
            .iter()
            .zip(layer_of_each)
            .map(|(socket, layer)| {
                let (start, received, ended) = (&start, &received, &ended);
                let (tls, records, path) = (tls.clone(), &records, &path);
                let tunnel = Tunnel { socket, tls: layer };
                scope.spawn(move || {
                    start.wait();
                    let done = match (bulk.content, bulk.direction) {
                        (Content::RealTls, _) => real_tls(socket, tls, received),
                        (Content::Layers, _) => layers(socket, tls, path, received),
                        (_, Direction::Down) => down(tunnel, bulk.pace, received),
                        (_, Direction::Up) => up(tunnel, records),
                    };
                    // At the end the streams are shut down while they are in use.
                    done.or_else(
                        |error| if ended.load(Ordering::SeqCst) { Ok(()) } else { Err(error) },
                    )
                })
            })
            .collect();
        start.wait();
        let sample = measure(bench, peer, bulk, &received);
        ended.store(true, Ordering::SeqCst);
        for stream in &streams {
            let _ = stream.shutdown(Shutdown::Both);
        }
        for worker in workers {
            worker.join().map_err(|_| anyhow::anyhow!("a thread broke"))?.context("a tunnel")?;
        }
        sample
    })
    .and_then(|sample| {
        drop(streams);
        bench.settle()?;
        Ok(sample)
    })
}

fn measure(
    bench: &mut Bench,
    peer: &Peer,
    bulk: &Bulk,
    received: &AtomicU64,
) -> anyhow::Result<Sample> {
    let so_far = |bench: &mut Bench| match bulk.direction {
        Direction::Down => Ok(received.load(Ordering::Relaxed)),
        Direction::Up => bench.counts().map(|(_, taken)| taken),
    };
    std::thread::sleep(bulk.warm);
    let before = so_far(bench)?;
    let meter = Meter::start(bench, peer);
    std::thread::sleep(bulk.time);
    let after = so_far(bench)?;
    let mut sample = meter.stop();
    sample.bytes = after - before;
    Ok(sample)
}

fn down(mut stream: Tunnel<&TcpStream>, pace: u64, received: &AtomicU64) -> io::Result<()> {
    stream.write_all(&Order::Send { bytes: u64::MAX, pace }.record())?;
    let mut discard = Discard::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let taken = match stream.tls {
            None => discard.some(stream.socket, u64::MAX)?,
            Some(_) => stream.read(&mut buffer)?,
        };
        match taken {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            taken => received.fetch_add(taken as u64, Ordering::Relaxed),
        };
    }
}

fn up(mut stream: Tunnel<&TcpStream>, records: &[u8]) -> io::Result<()> {
    stream.write_all(&Order::Take.record())?;
    loop {
        stream.write_all(records)?;
    }
}

fn real_tls(stream: &TcpStream, config: Arc<ClientConfig>, received: &AtomicU64) -> io::Result<()> {
    let name = ServerName::try_from(DATA).map_err(io::Error::other)?;
    let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
    let mut tls = StreamOwned::new(connection, stream);
    tls.write_all(&Order::Send { bytes: u64::MAX, pace: 0 }.payload())?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match tls.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            taken => received.fetch_add(taken as u64, Ordering::Relaxed),
        };
    }
}

/// Requests the layer again and again.
fn layers(
    stream: &TcpStream,
    config: Arc<ClientConfig>,
    path: &str,
    received: &AtomicU64,
) -> io::Result<()> {
    let mut client = Https::over(stream, LOGIN, Ask::Nothing, config)?;
    loop {
        let answer = client.get(path)?;
        client.body(&answer, |piece| {
            received.fetch_add(piece.len() as u64, Ordering::Relaxed);
        })?;
    }
}
