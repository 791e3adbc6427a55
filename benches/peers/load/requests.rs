//! Requests to a registry through proxies that read them.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use anyhow::bail;
use aws_lc_rs::digest::{SHA256, digest};
use rustls::ClientConfig;

use super::https::Https;
use super::setups;
use super::tunnel::connect;
use crate::bench::Bench;
use crate::client::client_config;
use crate::peer::{Peer, Route};
use crate::registry::{MANIFEST, hex};
use crate::sample::Sample;
use crate::wire::LOGIN;

/// Checks that the manifest and the layer arrive as they are in the registry.
pub fn works(bench: &Bench, peer: &Peer) -> anyhow::Result<()> {
    let mut client = open(&peer.route, LOGIN, client_config(bench.trusted_by_clients(peer))?)?;
    let mut got = Vec::new();
    let answer = client.get(MANIFEST)?;
    client.body(&answer, |piece| got.extend_from_slice(piece))?;
    if got != bench.registry.manifest {
        bail!("the manifest is {}", String::from_utf8_lossy(&got));
    }
    got.clear();
    let answer = client.get(&bench.registry.layer_path())?;
    client.body(&answer, |piece| got.extend_from_slice(piece))?;
    let digest = hex(digest(&SHA256, &got).as_ref());
    if !bench.registry.layer.ends_with(&digest) {
        bail!("the layer has {} bytes and the digest {digest}", got.len());
    }
    Ok(())
}

/// Requests for the manifest, one after another on each client's connection.
pub fn kept(bench: &mut Bench, peer: &Peer, count: usize) -> anyhow::Result<Sample> {
    let config = client_config(bench.trusted_by_clients(peer))?;
    let connected = |bench: &Bench| {
        let mut client = open(&peer.route, LOGIN, config.clone())?;
        client.fetch(MANIFEST, bench.registry.manifest.len() as u64)?;
        Ok(client)
    };
    setups::measure(bench, peer, count, connected, |bench, client| {
        let began = Instant::now();
        client.fetch(MANIFEST, bench.registry.manifest.len() as u64)?;
        Ok(began.elapsed().as_nanos() as u64)
    })
}

/// Connects to a host through the proxy.
pub fn open(
    route: &Route,
    host: &'static str,
    config: Arc<ClientConfig>,
) -> io::Result<Https<TcpStream>> {
    let stream = connect(route, host)?.map_err(|refusal| {
        io::Error::other(format!("refused: {}", String::from_utf8_lossy(&refusal)))
    })?;
    Https::over(stream.socket, host, route.ask, config)
}
