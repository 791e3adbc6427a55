//! The client side of the load. Each kind of load has its own file.

pub mod bulk;
pub mod crowd;
pub mod curl;
mod https;
pub mod idle;
pub mod inspected;
pub mod ping;
pub mod requests;
pub mod setups;
mod tunnel;

use std::io::{Read as _, Write as _};

use anyhow::bail;

use crate::bench::Bench;
use crate::peer::Peer;
use crate::wire::Order;
use tunnel::tunnel;

/// Checks that the proxy relays allowed traffic completely and rejects the rest.
pub fn works(bench: &mut Bench, peer: &Peer) -> anyhow::Result<()> {
    if peer.kind.reads_requests() {
        return requests::works(bench, peer);
    }
    if peer.kind.carries() {
        carries(bench, peer)?;
    }
    if peer.kind.is_policed() && !setups::is_denied(bench, &peer.route)? {
        bail!("a host outside the allow-list got through");
    }
    bench.settle()
}

fn carries(bench: &Bench, peer: &Peer) -> anyhow::Result<()> {
    const BYTES: usize = 3_000_000;
    let mut stream = tunnel(&peer.route, &bench.pull)?;
    stream.write_all(&Order::Send { bytes: BYTES as u64, pace: 0 }.record())?;
    let mut got = vec![0; BYTES];
    stream.read_exact(&mut got)?;
    let expected = crate::wire::full_records();
    if got.chunks(expected.len()).any(|piece| piece != &expected[..piece.len()]) {
        bail!("bytes are not as they were sent");
    }
    Ok(())
}
