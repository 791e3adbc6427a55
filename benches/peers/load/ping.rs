//! Latency: request and response inside a tunnel, one at a time, and the last byte of a transfer.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::tunnel::tunnel;
use crate::bench::Bench;
use crate::peer::Peer;
use crate::sample::{Meter, Sample};
use crate::socket::Discard;
use crate::wire::{Order, answer_length};

/// Size of the origin's answer, in bytes.
const ANSWER: u16 = 1_000;

/// Number of exchanges per tunnel.
const EXCHANGES: usize = 200;

/// The bulk transfer before the exchanges: bytes, and bytes per second.
const BULK: (u64, u64) = (4 << 20, 64 << 20);

/// What the tunnel carried before the exchanges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// Nothing.
    Fresh,
    /// A bulk transfer that has just ended.
    Bulk,
}

pub fn run(
    bench: &mut Bench,
    peer: &Peer,
    before: Before,
    tunnels: usize,
) -> anyhow::Result<Sample> {
    let meter = Meter::start(bench, peer);
    let mut latencies = Vec::with_capacity(tunnels * EXCHANGES);
    let mut discard = Discard::new();
    for _ in 0..tunnels {
        let mut stream = tunnel(&peer.route, &bench.push)?.socket;
        stream.write_all(&Order::Attend.record())?;
        if before == Before::Bulk {
            let (bytes, pace) = BULK;
            stream.write_all(&Order::Send { bytes, pace }.record())?;
            discard.exactly(&stream, bytes)?;
        }
        for _ in 0..EXCHANGES {
            latencies.push(exchange(&mut stream)?);
        }
    }
    let sample = meter.stop();
    bench.settle()?;
    Ok(Sample { count: latencies.len() as u64, latencies, ..sample })
}

/// One exchange, in nanoseconds.
pub fn exchange(stream: &mut TcpStream) -> std::io::Result<u64> {
    let began = Instant::now();
    stream.write_all(&Order::Answer(ANSWER).record())?;
    let mut answer = [0; 2048];
    stream.read_exact(&mut answer[..answer_length(ANSWER)])?;
    Ok(began.elapsed().as_nanos() as u64)
}

/// Transfers in several tunnels at once, one after another in each tunnel.
#[derive(Debug, Clone, Copy)]
pub struct Transfers {
    /// Size of each, in bytes.
    pub bytes: u64,
    /// Bytes per second; 0 is unlimited.
    pub pace: u64,
    pub tunnels: usize,
    pub time: Duration,
}

/// The latency is from the order to the last byte.
pub fn transfers(
    bench: &mut Bench,
    peer: &Peer,
    Transfers { bytes, pace, tunnels, time }: Transfers,
) -> anyhow::Result<Sample> {
    let mut streams = Vec::new();
    for _ in 0..tunnels {
        let mut stream = tunnel(&peer.route, &bench.pull)?.socket;
        // The first transfer is a slow start, whose length depends on the ends alone.
        stream.write_all(&Order::Send { bytes, pace }.record())?;
        Discard::new().exactly(&stream, bytes)?;
        streams.push(stream);
    }
    let meter = Meter::start(bench, peer);
    let each = std::thread::scope(|scope| {
        let threads: Vec<_> = streams
            .iter_mut()
            .map(|stream| {
                scope.spawn(move || -> std::io::Result<Vec<u64>> {
                    let mut discard = Discard::new();
                    let mut taken = Vec::new();
                    let end = Instant::now() + time;
                    while Instant::now() < end {
                        let began = Instant::now();
                        stream.write_all(&Order::Send { bytes, pace }.record())?;
                        discard.exactly(stream, bytes)?;
                        taken.push(began.elapsed().as_nanos() as u64);
                    }
                    Ok(taken)
                })
            })
            .collect();
        let joined = threads.into_iter().map(|thread| {
            thread.join().map_err(|_| anyhow::anyhow!("a thread broke"))?.map_err(Into::into)
        });
        joined.collect::<anyhow::Result<Vec<_>>>()
    })?;
    let sample = meter.stop();
    drop(streams);
    bench.settle()?;
    let latencies = each.concat();
    let count = latencies.len() as u64;
    Ok(Sample { bytes: bytes * count, count, latencies, ..sample })
}
