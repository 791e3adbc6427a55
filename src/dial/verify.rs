//! Verifies, before the first tunnel to a name and address, that the server there has a certificate
//! for the name: a forged DNS answer, or a firewall that intercepts TLS, then leads nowhere.
//!
//! The gate makes a TLS handshake of its own for it, by the same route as the tunnel: directly, or
//! through the parent proxy. If the parent chooses the address, the pair is that of the name and the
//! parent.
//!
//! The outcome holds for an hour, and for another hour while the check is repeated behind the back of
//! later tunnels. A check that fails for another reason than the certificate does not take back what
//! an earlier one has found, until that second hour is over.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::dialler::Dialler;
use super::parent::Caller;
use super::tls::{Examined, SeenCertificate, TlsClients, TlsFault};
use crate::policy::{
    Cause, DetailedFailure, Failure, Name, OwnAddresses, Permit, PolicySet, Side, Stop,
};

/// How long a verification holds.
const HOLDS: Duration = Duration::from_secs(60 * 60);

/// How long it may still be used while the check is repeated.
const LONGEST: Duration = Duration::from_secs(2 * 60 * 60);

/// How long an address stays refused before it is checked again.
const REFUSED: Duration = Duration::from_secs(10);

/// The same where the check could not be made.
const FAILED: Duration = Duration::from_secs(1);

/// The pause between repeated checks that failed.
const RETRY: Duration = Duration::from_secs(60);

/// How long a repeated check may take.
const REPEATED: Duration = Duration::from_secs(10);

/// At most this many pairs are remembered; beyond, those that no longer hold are forgotten, and then
/// all.
const MOST_PAIRS: usize = 16 * 1024;

/// Roots beside the system's.
type Roots = Arc<[CertificateDer<'static>]>;

/// Verifies servers. All sessions share it.
#[derive(Debug)]
pub struct Verifier {
    tls: Arc<TlsClients>,
    dialler: Arc<Dialler>,
    pairs: DashMap<PairKey, Arc<Pair>>,
}

/// A server that a session has dialled.
#[derive(Debug, Clone)]
pub struct DialledServer {
    /// The policy that made the permit.
    pub set: Arc<PolicySet>,
    /// The gate's own addresses.
    pub own: Arc<OwnAddresses>,
    /// The right to dial it.
    pub permit: Permit,
    /// Its address. `None` if a parent has chosen it.
    pub address: Option<SocketAddr>,
    /// On whose behalf it was dialled.
    pub caller: Caller,
}

impl DialledServer {
    fn name(&self) -> &Name {
        &self.permit.allowed().target().name
    }

    fn roots(&self) -> Roots {
        self.permit.allowed().roots()
    }

    /// Where it is, for the log.
    fn place(&self) -> String {
        match self.address {
            Some(address) => address.to_string(),
            None => self.permit.allowed().route().to_string(),
        }
    }
}

/// A name, and where its server is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PairKey {
    name: Name,
    /// The addresses of the parent proxy on the way.
    parent: Option<Box<str>>,
    /// `None` if the parent chooses it.
    address: Option<SocketAddr>,
}

impl PairKey {
    fn new(permit: &Permit, address: Option<SocketAddr>) -> Self {
        let parent = permit.allowed().route().parent().map(|parent| {
            let addresses = parent.addresses.iter().map(|address| &**address.text());
            addresses.collect::<Vec<_>>().join(" ").into()
        });
        Self { name: permit.allowed().target().name.clone(), parent, address }
    }
}

/// What is known of a name and address.
#[derive(Debug, Default)]
struct Pair {
    known: Mutex<Known>,
    /// Held while it is checked: sessions that want the same pair wait for one check.
    check: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
enum Known {
    #[default]
    Nothing,
    Verified {
        roots: Roots,
        at: Instant,
        /// When it may be checked again.
        next: Instant,
    },
    Refused {
        roots: Roots,
        until: Instant,
        detail: Arc<str>,
    },
}

/// What follows from what is known.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    /// The server is verified.
    Holds,
    /// It is verified, and the check is to be repeated.
    Ages,
    /// It was found wanting a moment ago.
    Refused(Arc<str>),
    /// It must be checked first.
    Unknown,
}

impl Known {
    fn standing(&self, for_roots: &Roots, now: Instant) -> Standing {
        match self {
            Self::Verified { roots, at, next } if roots == for_roots => {
                let age = now.saturating_duration_since(*at);
                match age {
                    _ if age < HOLDS => Standing::Holds,
                    _ if age >= LONGEST => Standing::Unknown,
                    _ if now >= *next => Standing::Ages,
                    _ => Standing::Holds,
                }
            }
            Self::Refused { roots, until, detail } if roots == for_roots && now < *until => {
                Standing::Refused(detail.clone())
            }
            _ => Standing::Unknown,
        }
    }
}

impl Pair {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the outcome of a check.
    fn settle(&self, roots: &Roots, outcome: &Result<(), TlsFault>, now: Instant) {
        let mut known = self.known();
        match outcome {
            Ok(()) => {
                *known = Known::Verified { roots: roots.clone(), at: now, next: now + HOLDS };
            }
            Err(fault) => match &mut *known {
                // What was verified is not taken back because the check could not be made.
                Known::Verified { at, next, .. }
                    if !fault.is_of_certificate && now.saturating_duration_since(*at) < LONGEST =>
                {
                    *next = now + RETRY;
                }
                // Sessions that wait for the same check do not repeat it one after another.
                _ => {
                    let pause = if fault.is_of_certificate { REFUSED } else { FAILED };
                    let (roots, detail) = (roots.clone(), fault.detail.as_str().into());
                    *known = Known::Refused { roots, until: now + pause, detail };
                }
            },
        }
    }
}

impl Verifier {
    /// Returns a verifier that has verified nothing yet.
    #[must_use]
    pub fn new(tls: Arc<TlsClients>, dialler: Arc<Dialler>) -> Self {
        Self { tls, dialler, pairs: DashMap::new() }
    }

    /// Returns whether the server that a permit led to was verified within the hour, so that most
    /// sessions need not make the future of a handshake. `address`: as in [`DialledServer`].
    #[must_use]
    pub fn holds(&self, permit: &Permit, address: Option<SocketAddr>) -> bool {
        let Some(pair) = self.pairs.get(&PairKey::new(permit, address)) else { return false };
        let standing = pair.known().standing(&permit.allowed().roots(), Instant::now());
        standing == Standing::Holds
    }

    /// Verifies a server.
    ///
    /// # Errors
    /// `upstream-certificate`, with the issuer that was seen or what else went wrong.
    pub async fn verify(
        self: &Arc<Self>,
        server: &DialledServer,
        by: Instant,
    ) -> Result<(), DetailedFailure> {
        let roots = server.roots();
        let pair = self.pair(PairKey::new(&server.permit, server.address));
        let standing = pair.known().standing(&roots, Instant::now());
        match standing {
            Standing::Holds => return Ok(()),
            Standing::Ages => {
                self.repeat(pair, server.clone(), roots);
                return Ok(());
            }
            Standing::Refused(detail) => return Err(failure(&*detail)),
            Standing::Unknown => {}
        }
        let Ok(_check) = timeout_at(by, pair.check.lock()).await else {
            return Err(failure("another check of it takes too long"));
        };
        // The session that held the lock may have found out.
        match pair.known().standing(&roots, Instant::now()) {
            Standing::Holds | Standing::Ages => return Ok(()),
            Standing::Refused(detail) => return Err(failure(&*detail)),
            Standing::Unknown => {}
        }
        let outcome = self.check(server, &roots, by).await;
        pair.settle(&roots, &outcome, Instant::now());
        outcome.map_err(|fault| {
            warn!(
                name = %server.name(),
                address = %server.place(),
                "the server is not verified: {}",
                fault.detail
            );
            failure(fault.detail)
        })
    }

    /// Repeats a check that is due, unless it is under way.
    fn repeat(self: &Arc<Self>, pair: Arc<Pair>, server: DialledServer, roots: Roots) {
        if let Known::Verified { next, .. } = &mut *pair.known() {
            *next = Instant::now() + RETRY;
        }
        let verifier = self.clone();
        tokio::spawn(async move {
            let Ok(_check) = pair.check.try_lock() else { return };
            let by = Instant::now() + REPEATED;
            let outcome = verifier.check(&server, &roots, by).await;
            if let Err(fault) = &outcome {
                let (name, address) = (server.name(), server.place());
                warn!(%name, %address, "the server could not be verified again: {}", fault.detail);
            }
            pair.settle(&roots, &outcome, Instant::now());
        });
    }

    /// Makes the handshake.
    async fn check(
        &self,
        server: &DialledServer,
        roots: &[CertificateDer<'static>],
        by: Instant,
    ) -> Result<(), TlsFault> {
        let DialledServer { set, own, permit, address, caller } = server;
        let permit = match address {
            Some(address) => permit.only(*address).ok_or_else(|| not_made("internal"))?,
            None => permit.clone(),
        };
        let dialled = self.dialler.dial((set, own), &permit, caller, by).await;
        let dialled = dialled.map_err(|stop| match &stop {
            Stop::Detailed(detailed) => not_made(&format!("{}: {}", stop.code(), detailed.detail)),
            Stop::Denied(_) | Stop::Failed(_) => not_made(stop.code()),
        })?;
        let (name, socket) = (server.name(), dialled.upstream);
        let Examined { stream, certificate } = self.tls.examine(socket, name, roots, by).await;
        match (stream, certificate) {
            (Ok(_), _) => Ok(()),
            (Err(fault), Some(SeenCertificate { issuer, .. })) => {
                let detail = format!("issuer: {issuer}; {}", fault.detail);
                Err(TlsFault { detail, ..fault })
            }
            (Err(fault), None) => Err(fault),
        }
    }

    fn pair(&self, key: PairKey) -> Arc<Pair> {
        if let Some(pair) = self.pairs.get(&key) {
            return pair.clone();
        }
        if self.pairs.len() >= MOST_PAIRS {
            let now = Instant::now();
            self.pairs.retain(|_, pair| match &*pair.known() {
                Known::Verified { at, .. } => now.saturating_duration_since(*at) < LONGEST,
                Known::Refused { until, .. } => now < *until,
                Known::Nothing => false,
            });
            if self.pairs.len() >= MOST_PAIRS {
                self.pairs.clear();
            }
        }
        self.pairs.entry(key).or_default().clone()
    }
}

/// The fault of a check that could not connect.
fn not_made(why: &str) -> TlsFault {
    TlsFault {
        failure: Failure { side: Side::Upstream, cause: Cause::UpstreamCertificate },
        detail: format!("the check could not connect: {why}"),
        is_of_certificate: false,
        rejected: None,
    }
}

fn failure(detail: impl Into<String>) -> DetailedFailure {
    DetailedFailure {
        failure: Failure { side: Side::Upstream, cause: Cause::UpstreamCertificate },
        detail: detail.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(is_of_certificate: bool) -> TlsFault {
        let failure = Failure { side: Side::Upstream, cause: Cause::UpstreamTls };
        TlsFault { failure, detail: "issuer: Corp".into(), is_of_certificate, rejected: None }
    }

    fn roots(bytes: &[&[u8]]) -> Roots {
        bytes.iter().map(|one| CertificateDer::from(one.to_vec())).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_verification_holds_for_an_hour_and_through_failed_checks_for_another() {
        let pair = Pair::default();
        let (none, start) = (roots(&[]), Instant::now());
        let at = |minutes: u64| start + Duration::from_secs(60 * minutes);
        let standing = |minutes| pair.known().standing(&none, at(minutes));
        assert_eq!(standing(0), Standing::Unknown);
        pair.settle(&none, &Ok(()), start);
        assert_eq!(standing(59), Standing::Holds);
        assert_eq!(standing(60), Standing::Ages);
        pair.settle(&none, &Err(fault(false)), at(60));
        assert_eq!([standing(60), standing(61)], [Standing::Holds, Standing::Ages]);
        assert_eq!([standing(119), standing(120)], [Standing::Ages, Standing::Unknown]);
        pair.settle(&none, &Ok(()), at(119));
        assert_eq!(standing(170), Standing::Holds);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_certificate_takes_effect_at_once_and_is_checked_again_soon() {
        let pair = Pair::default();
        let (none, now) = (roots(&[]), Instant::now());
        pair.settle(&none, &Ok(()), now);
        pair.settle(&none, &Err(fault(true)), now);
        let standing = |after| pair.known().standing(&none, now + after);
        assert_eq!(standing(Duration::ZERO), Standing::Refused("issuer: Corp".into()));
        assert_eq!(standing(REFUSED), Standing::Unknown);
        // What could not be checked was never verified.
        let pair = Pair::default();
        pair.settle(&none, &Err(fault(false)), now);
        let standing = |after| pair.known().standing(&none, now + after);
        assert_eq!(standing(Duration::ZERO), Standing::Refused("issuer: Corp".into()));
        assert_eq!(standing(FAILED), Standing::Unknown);
    }

    #[tokio::test(start_paused = true)]
    async fn other_roots_are_another_verification() {
        let pair = Pair::default();
        let now = Instant::now();
        pair.settle(&roots(&[b"a"]), &Ok(()), now);
        assert_eq!(pair.known().standing(&roots(&[b"a"]), now), Standing::Holds);
        assert_eq!(pair.known().standing(&roots(&[]), now), Standing::Unknown);
    }
}
