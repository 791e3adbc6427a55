//! What all measurements share.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::link::Link;
use crate::peer::Peer;
use crate::process::Role;
use crate::registry::Registry;
use crate::web::Web;
use crate::wire::Hello;

/// Timeout until all connections of a measurement have ended.
const SETTLE: Duration = Duration::from_secs(10);

/// Context shared by all measurements.
pub struct Bench {
    pub origin: Role,
    /// The long link before the origin, if there is one.
    pub link: Option<Role>,
    /// The web server at the far end of the link, if a row needs it.
    pub web: Option<Web>,
    /// The origin's certificate, for real TLS.
    pub certificate: Vec<u8>,
    /// What the origin has as a registry.
    pub registry: Registry,
    /// Hello for pulls: [`DATA`].
    pub pull: Hello,
    /// Hello for small exchanges and pushes: [`LOGIN`](crate::wire::LOGIN).
    pub push: Hello,
    /// Hello for pushes with TLS 1.2.
    pub push_tls12: Hello,
    /// Number of denied names so far; each name is requested once.
    pub denied: AtomicU64,
}

impl Bench {
    /// Returns the origin's open connections and the number of bytes that it received.
    pub fn counts(&mut self) -> anyhow::Result<(u64, u64)> {
        let said = self.origin.ask()?;
        let (open, taken) = said.split_once(' ').context("the origin is gone")?;
        Ok((open.parse()?, taken.parse()?))
    }

    /// Returns the certificate that the clients of a proxy trust.
    pub fn trusted_by_clients<'a>(&'a self, peer: &'a Peer) -> &'a [u8] {
        peer.certificate.as_deref().unwrap_or(&self.certificate)
    }

    /// Changes the long link for what follows.
    pub fn set_link(&mut self, link: Option<Link>) -> anyhow::Result<()> {
        if let (Some(role), Some(link)) = (&mut self.link, link) {
            role.tell(&link.to_string()).context("the link is gone")?;
        }
        Ok(())
    }

    /// Waits until every connection of the measurement has ended.
    pub fn settle(&mut self) -> anyhow::Result<()> {
        let end = Instant::now() + SETTLE;
        while self.counts()?.0 > 0 {
            if Instant::now() > end {
                bail!("connections of the measurement stay open");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        // The kernel still cleans up after the connections.
        std::thread::sleep(Duration::from_millis(20));
        Ok(())
    }
}
