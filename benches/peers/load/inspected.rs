//! Set-ups and pulls through tunnels to the login server that a proxy decrypts.

use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::https::Https;
use super::requests::open;
use super::setups;
use crate::bench::Bench;
use crate::client::client_config;
use crate::peer::Peer;
use crate::registry::{LAYER, MANIFEST};
use crate::sample::{Meter, Sample};
use crate::wire::{DATA, LOGIN};

/// Number of layers of a pull, and how many are fetched at once.
const LAYERS: usize = 10;
const AT_ONCE: usize = 3;

/// Requests for the manifest, each in a TLS connection of its own. The latency is from the connection
/// to the end of the answer.
pub fn fresh(bench: &mut Bench, peer: &Peer, count: usize) -> anyhow::Result<Sample> {
    let config = client_config(bench.trusted_by_clients(peer))?;
    setups::measure(
        bench,
        peer,
        count,
        |_| Ok(()),
        |bench, ()| {
            let began = Instant::now();
            let mut client = open(&peer.route, LOGIN, config.clone())?;
            client.fetch(MANIFEST, bench.registry.manifest.len() as u64)?;
            Ok(began.elapsed().as_nanos() as u64)
        },
    )
}

/// Pulls an image whose layers are redirected to the data endpoint. The latency is that of the pull.
pub fn pull(bench: &mut Bench, peer: &Peer) -> anyhow::Result<Sample> {
    let to_login = client_config(bench.trusted_by_clients(peer))?;
    // Layers are spliced, so the client verifies the origin's certificate.
    let to_data = client_config(&bench.certificate)?;
    let meter = Meter::start(bench, peer);
    let began = Instant::now();
    let (next, shared): (AtomicUsize, &Bench) = (AtomicUsize::new(0), bench);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                scope.spawn(|| -> io::Result<()> {
                    let mut login = open(&peer.route, LOGIN, to_login.clone())?;
                    login.fetch(MANIFEST, shared.registry.manifest.len() as u64)?;
                    while next.fetch_add(1, Ordering::Relaxed) < LAYERS {
                        let path = redirect(&mut login, &shared.registry.redirected_path())?;
                        open(&peer.route, DATA, to_data.clone())?.fetch(&path, LAYER)?;
                    }
                    Ok(())
                })
            })
            .collect();
        clients.into_iter().try_for_each(|client| {
            client.join().map_err(|_| anyhow::anyhow!("a client broke"))?.map_err(Into::into)
        })
    })
    .map_err(|error: anyhow::Error| error.context("a pull"))?;
    let latencies = vec![began.elapsed().as_nanos() as u64];
    Ok(Sample { bytes: LAYER * LAYERS as u64, count: 1, latencies, ..meter.stop() })
}

/// Requests the layer. Returns its path on the data endpoint.
fn redirect(login: &mut Https<TcpStream>, path: &str) -> io::Result<String> {
    let answer = login.get(path)?;
    let path = answer.location.as_deref().and_then(|to| to.strip_prefix("https://"));
    let path = path.and_then(|to| to.strip_prefix(DATA)).map(str::to_owned);
    login.body(&answer, |_| {})?;
    path.ok_or_else(|| io::Error::other("no redirect to the data endpoint"))
}
