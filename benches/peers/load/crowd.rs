//! Many small tunnels beside a few at full speed: how long the small ones wait for their turn.

use std::io::Write;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::tunnel::tunnel;
use crate::bench::Bench;
use crate::peer::Peer;
use crate::sample::{Meter, Sample};
use crate::socket::Discard;
use crate::wire::Order;

/// Number of small tunnels.
const SMALL: usize = 1_000;

/// Number of tunnels at full speed.
const FAST: usize = 2;

pub fn run(bench: &mut Bench, peer: &Peer, time: Duration) -> anyhow::Result<Sample> {
    let mut small = super::idle::open(bench, peer, SMALL)?;
    let mut fast = Vec::new();
    for _ in 0..FAST {
        let stream = tunnel(&peer.route, &bench.pull)?.socket;
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        fast.push(stream);
    }
    let sample = std::thread::scope(|scope| {
        for mut stream in &fast {
            scope.spawn(move || {
                stream.write_all(&Order::Send { bytes: u64::MAX, pace: 0 }.record())?;
                let mut discard = Discard::new();
                while discard.some(stream, u64::MAX)? > 0 {}
                std::io::Result::Ok(())
            });
        }
        std::thread::sleep(Duration::from_millis(200));
        let meter = Meter::start(bench, peer);
        let end = Instant::now() + time;
        let exchanges = (0..SMALL)
            .cycle()
            .take_while(|_| Instant::now() < end)
            .map(|index| super::ping::exchange(&mut small[index]));
        let latencies = exchanges.collect::<std::io::Result<Vec<_>>>();
        let sample = meter.stop();
        for stream in &fast {
            let _ = stream.shutdown(Shutdown::Both);
        }
        latencies.map(|latencies| Sample { count: latencies.len() as u64, latencies, ..sample })
    })?;
    drop((small, fast));
    bench.settle()?;
    Ok(sample)
}
