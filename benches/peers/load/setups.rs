//! Set-ups and denials: the cost of a tunnel apart from its relayed bytes.

use std::io::{self, Read, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Context as _;

use super::tunnel::{connect, greeted};
use crate::bench::Bench;
use crate::peer::{Peer, Route};
use crate::sample::{Meter, Sample};
use crate::wire::{Hello, Order, answer_length, second_flight};

/// Number of concurrent clients.
const CLIENTS: usize = 32;

/// Size of the origin's answer in a tunnel, in bytes: about a manifest.
const ANSWER: u16 = 2_000;

/// The name that is denied. Its digits are replaced, so that all denials differ.
const DENIED: &str = "x0000000.blob.core.windows.net";

/// Sets up tunnels with one small exchange each; every client opens one after another. The latency
/// is from the connection to the origin's answer to the hello.
pub fn run(bench: &mut Bench, peer: &Peer, count: usize) -> anyhow::Result<Sample> {
    let hello = bench.push.clone();
    let mut last = second_flight(hello.framing);
    last.extend_from_slice(&Order::Answer(ANSWER).record());
    measure(
        bench,
        peer,
        count,
        |_| Ok(()),
        |_, ()| {
            let began = Instant::now();
            let mut stream = greeted(&peer.route, &hello)?;
            let taken = began.elapsed();
            stream.write_all(&last)?;
            let mut answer = vec![0; answer_length(ANSWER)];
            stream.read_exact(&mut answer)?;
            Ok(taken.as_nanos() as u64)
        },
    )
}

/// Denials, each for a different host. The latency is from the connection to its close.
pub fn denials(bench: &mut Bench, peer: &Peer, count: usize) -> anyhow::Result<Sample> {
    measure(
        bench,
        peer,
        count,
        |_| Ok(()),
        |bench, ()| {
            let began = Instant::now();
            if !is_denied(bench, &peer.route)? {
                return Err(io::Error::other("a host outside the allow-list got through"));
            }
            Ok(began.elapsed().as_nanos() as u64)
        },
    )
}

/// Requests a host outside the allow-list. Returns whether the proxy rejected it in any way.
pub fn is_denied(bench: &Bench, route: &Route) -> io::Result<bool> {
    let number = bench.denied.fetch_add(1, Ordering::Relaxed);
    let host = DENIED.replacen("0000000", &format!("{number:07}"), 1);
    let mut stream = match connect(route, &host)? {
        Err(_) => return Ok(true),
        Ok(stream) => stream,
    };
    let hello = denied_hello(&bench.pull, &host);
    stream.write_all(&hello)?;
    Ok(!is_from_origin(&mut stream, &bench.pull)?)
}

/// Replaces the name in the hello.
fn denied_hello(hello: &Hello, host: &str) -> Vec<u8> {
    // Both names have the same length, so no length field in the hello changes.
    let own = hello.host.as_bytes();
    let at = hello.bytes.windows(own.len()).position(|part| part == own).unwrap_or(0);
    let mut bytes = hello.bytes.clone();
    bytes[at..at + own.len()].copy_from_slice(host.as_bytes());
    bytes
}

/// Whether the answer is the origin's. Squid answers a rejected hello with its own ServerHello, to
/// send the reason inside TLS; the others close.
fn is_from_origin(stream: &mut impl Read, hello: &Hello) -> io::Result<bool> {
    let mut expected = crate::wire::first_flight(&hello.bytes);
    expected.truncate(64);
    let mut got = vec![0; 64];
    let mut have = 0;
    while have < got.len() {
        match stream.read(&mut got[have..]) {
            Ok(0) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
            Err(error) => return Err(error),
            Ok(count) => have += count,
        }
    }
    Ok(got == expected)
}

/// Has every client work until `count` is reached, with what it has opened before the measurement.
pub fn measure<T: Send>(
    bench: &mut Bench,
    peer: &Peer,
    count: usize,
    open: impl Fn(&Bench) -> io::Result<T>,
    work: impl Fn(&Bench, &mut T) -> io::Result<u64> + Sync,
) -> anyhow::Result<Sample> {
    let next = AtomicUsize::new(0);
    let latencies = Mutex::new(Vec::with_capacity(count));
    let held = (0..CLIENTS).map(|_| open(bench)).collect::<io::Result<Vec<T>>>()?;
    let meter = Meter::start(bench, peer);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let shared: &Bench = bench;
        let clients: Vec<_> = held
            .into_iter()
            .map(|mut own_held| {
                let (next, latencies, work) = (&next, &latencies, &work);
                scope.spawn(move || -> anyhow::Result<()> {
                    let mut own = Vec::new();
                    while next.fetch_add(1, Ordering::Relaxed) < count {
                        own.push(work(shared, &mut own_held)?);
                    }
                    latencies.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.extend(own);
                    Ok(())
                })
            })
            .collect();
        clients.into_iter().try_for_each(|client| {
            client.join().map_err(|_| anyhow::anyhow!("a client broke"))?.context("a client")
        })
    })?;
    let wall = began.elapsed();
    bench.settle()?;
    let mut sample = meter.stop();
    sample.wall = wall;
    sample.count = count as u64;
    sample.latencies = latencies.into_inner()?;
    Ok(sample)
}
