//! The state of a session, from the accepted connection to the tunnel.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

use super::gate::Gate;
use crate::account::{Arrival, Open, Stage};
use crate::config::{ListenerSpec, Mode, TlsOfListeners, TlsPaths};
use crate::dial::Upstream;
use crate::hello::Hello;
use crate::limits::{PendingSlot, SessionPermit, SetupSlot};
use crate::listen::tls::{ClientCertificate, ClientStream};
use crate::policy::{Cause, Cleared, ClientIdentity, Enforcement, Failure, PolicySet, Side};

/// An accepted connection, without a runtime.
#[derive(Debug)]
pub struct Incoming {
    /// The state that all sessions share.
    pub gate: Arc<Gate>,
    /// The listener that accepted it.
    pub listener: Arc<ListenerSpec>,
    /// Whether the listener accepts sessions.
    pub admission: Admission,
    /// The connection.
    pub socket: OwnedFd,
    /// The address of the peer.
    pub peer: SocketAddr,
    /// Its slot among the connections that have not sent a request.
    pub slot: PendingSlot,
    /// When it was accepted.
    pub accepted: std::time::Instant,
}

/// What a listener does with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It serves them.
    Open,
    /// It rejects them as `draining`, because the gate shuts down.
    Draining,
}

/// One connection, from accept to its record.
pub(super) struct Session {
    pub(super) gate: Arc<Gate>,
    pub(super) listener: Arc<ListenerSpec>,
    pub(super) admission: Admission,
    pub(super) client: ClientIdentity,
    /// Boxed, because most tunnels have none.
    pub(super) certificate: Option<Box<CertificateWatch>>,
    pub(super) account: Open,
    /// Its slot among the pending connections, until it counts as an open session.
    pub(super) slot: Option<PendingSlot>,
    /// Its slot among the open sessions.
    pub(super) permit: Option<SessionPermit>,
    /// Its slot among the sessions that are not tunnels yet. `None` before and after that.
    pub(super) setup: Option<SetupSlot>,
    /// The client's port, where it connected itself: for parents that want a PROXY header.
    pub(super) peer_port: u16,
    /// By when the request must be complete.
    pub(super) request_deadline: Instant,
    /// Subscribed before `policy` is read, so that no reload is missed.
    pub(super) policy_updates: watch::Receiver<Arc<PolicySet>>,
    pub(super) policy: Arc<PolicySet>,
}

/// A tunnel that can be relayed.
pub(super) struct Tunnel {
    pub(super) client: ClientStream,
    pub(super) upstream: Upstream,
    /// The registry's address. `None` if a parent has chosen it.
    pub(super) address: Option<SocketAddr>,
    pub(super) cleared: Cleared,
    pub(super) hello: Box<Hello>,
}

/// A client certificate, and the trust anchors to verify it after a reload.
#[derive(Debug)]
pub struct CertificateWatch {
    certificate: ClientCertificate,
    /// Marked as seen when the certificate was last verified.
    tls: watch::Receiver<Arc<TlsOfListeners>>,
    /// When it must be verified again; `None` if nothing in its chain expires later.
    expiry: Option<SystemTime>,
    /// Whether it was valid when it was last verified.
    is_valid: bool,
}

impl Session {
    /// Opens the record of a connection, and takes the policy that judges it.
    pub(super) fn open(incoming: Incoming) -> (Box<Self>, OwnedFd) {
        let Incoming { gate, listener, admission, socket, peer, slot, accepted } = incoming;
        let mut policy_updates = gate.policy.clone();
        let policy = policy_updates.borrow_and_update().clone();
        let limits = policy.limits();
        let (first, timeout) = match listener.mode {
            Mode::Connect | Mode::Mirror => (Stage::Head, limits.head_timeout),
            Mode::Transparent(_) => (Stage::Hello, limits.hello_timeout),
        };
        let mut account = gate.account.open(Arrival {
            client: peer.ip(),
            listener: listener.name.clone(),
            accepted,
            first,
        });
        account.record.generation = policy.generation();
        let session = Self {
            gate,
            listener,
            admission,
            client: ClientIdentity::at(peer.ip()),
            certificate: None,
            account,
            slot: Some(slot),
            permit: None,
            setup: None,
            peer_port: peer.port(),
            request_deadline: Instant::now() + timeout,
            policy_updates,
            policy,
        };
        (Box::new(session), socket)
    }

    /// Returns the enforcement on this listener.
    pub(super) fn enforcement(&self) -> Enforcement {
        self.listener.enforcement.unwrap_or(self.policy.rules().enforcement)
    }
}

impl CertificateWatch {
    /// Watches a certificate that was just verified.
    pub(super) fn new(
        certificate: ClientCertificate,
        tls: watch::Receiver<Arc<TlsOfListeners>>,
    ) -> Self {
        let expiry = certificate.next_expiry(SystemTime::now());
        Self { certificate, tls, expiry, is_valid: true }
    }

    /// Verifies the certificate again if the listener's TLS files changed, or if a certificate in
    /// the chain has expired. Returns whether it is still valid.
    pub fn is_still_valid(&mut self, paths: &TlsPaths) -> bool {
        let now = SystemTime::now();
        let has_expired = self.expiry.is_some_and(|expiry| expiry <= now);
        if !has_expired && !self.tls.has_changed().unwrap_or(false) {
            return self.is_valid;
        }
        self.expiry = self.certificate.next_expiry(now);
        let every = self.tls.borrow_and_update().clone();
        let judged = every.get(paths).map(|tls| self.certificate.judge_by(tls));
        self.is_valid = matches!(judged, Some(Ok(())));
        self.is_valid
    }

    /// Returns the time until it must be verified again; `None` if it need not be.
    #[must_use]
    pub fn until_expiry(&self) -> Option<Duration> {
        Some(self.expiry?.duration_since(SystemTime::now()).unwrap_or_default())
    }
}

/// An error of the gate itself.
pub(super) const INTERNAL: Failure = Failure { side: Side::Gate, cause: Cause::Internal };

/// The client closed or reset its connection.
pub(super) const CLIENT_ABORTED: Failure =
    Failure { side: Side::Client, cause: Cause::ClientAborted };
