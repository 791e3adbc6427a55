//! Tunnels that are idle after one exchange.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::tunnel::tunnel;
use crate::bench::Bench;
use crate::peer::Peer;
use crate::process;
use crate::sample::{Meter, Sample};
use crate::wire::{Order, answer_length};

/// Number of clients that open the tunnels.
const CLIENTS: usize = 16;

/// Time for buffers and timers of the set-up to be freed.
const REST: Duration = Duration::from_millis(1_500);

/// Duration of the measurement.
const WATCHED: Duration = Duration::from_secs(2);

/// Size of the origin's answer, in bytes.
const ANSWER: u16 = 2_000;

pub fn run(bench: &mut Bench, peer: &Peer, tunnels: usize) -> anyhow::Result<Sample> {
    let processes = peer.processes();
    let (memory, kernel) = (process::memory(&processes), process::kernel_memory());
    let held = open(bench, peer, tunnels)?;
    std::thread::sleep(REST);
    let memory = process::memory(&processes).saturating_sub(memory);
    let kernel = process::kernel_memory().saturating_sub(kernel);
    let meter = Meter::start(bench, peer);
    std::thread::sleep(WATCHED);
    let sample = meter.stop();
    drop(held);
    bench.settle()?;
    Ok(Sample { memory, kernel, count: tunnels as u64, ..sample })
}

/// Opens tunnels with one exchange each.
pub fn open(bench: &Bench, peer: &Peer, tunnels: usize) -> anyhow::Result<Vec<TcpStream>> {
    let held = std::thread::scope(|scope| {
        let shared: &Bench = bench;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                scope.spawn(move || {
                    let own = (client..tunnels).step_by(CLIENTS).map(|_| one(shared, peer));
                    own.collect::<std::io::Result<Vec<_>>>()
                })
            })
            .collect();
        let joined = clients.into_iter().map(|client| {
            client.join().map_err(|_| anyhow::anyhow!("a client broke"))?.map_err(Into::into)
        });
        joined.collect::<anyhow::Result<Vec<_>>>()
    })?;
    Ok(held.into_iter().flatten().collect())
}

fn one(bench: &Bench, peer: &Peer) -> std::io::Result<TcpStream> {
    let mut stream = tunnel(&peer.route, &bench.push)?;
    stream.write_all(&Order::Answer(ANSWER).record())?;
    stream.read_exact(&mut vec![0; answer_length(ANSWER)])?;
    Ok(stream.socket)
}
