//! The state that all sessions share.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::account::Account;
use crate::config::{Authority, TlsOfListeners};
use crate::dial::{Dialler, Resolver, Verifier};
#[cfg(feature = "mirror")]
use crate::forward::Forward;
use crate::limits::{Passwords, PendingConnections, Quotas, Sessions};
use crate::listen::http::connect::AcceptedConnect;
#[cfg(feature = "inspect")]
use crate::listen::leaf::Leaves;
use crate::policy::{OwnAddresses, PolicySet};
use crate::relay::Relay;

/// The state that all sessions share.
#[derive(Debug)]
pub struct Gate {
    /// The current policy. Open sessions end when its sender is dropped.
    pub policy: watch::Receiver<Arc<PolicySet>>,
    /// The gate's own addresses, which are not dialled.
    pub own: watch::Receiver<Arc<OwnAddresses>>,
    /// The TLS of the listeners.
    pub tls: watch::Receiver<Arc<TlsOfListeners>>,
    /// The authority of inspected tunnels.
    pub authority: watch::Receiver<Option<Arc<Authority>>>,
    /// The certificates of inspected tunnels.
    #[cfg(feature = "inspect")]
    pub leaves: Leaves,
    /// Resolves allowed names.
    pub resolver: Arc<Resolver>,
    /// Verifies servers, where the policy wants it.
    pub verifier: Arc<Verifier>,
    /// Connects as it is permitted, directly or through parent proxies.
    pub dialler: Arc<Dialler>,
    /// Relays the bytes of tunnels.
    pub relay: Relay,
    /// Limits open sessions and their rate.
    pub sessions: Sessions,
    /// Upload quotas and download rates that tunnels share.
    pub quotas: Quotas,
    /// Verifies passwords.
    pub passwords: Passwords,
    /// The answers to an accepted CONNECT.
    pub accepted: AcceptedConnect,
    /// Connections that have not sent a request yet.
    pub pending: Arc<PendingConnections>,
    /// Maximum number of sessions by file descriptors, regardless of the policy.
    pub max_sessions: usize,
    /// The registry client of mirror listeners and inspected tunnels.
    #[cfg(feature = "mirror")]
    pub forward: Option<Arc<Forward>>,
    /// Cancelled when new requests must be rejected.
    pub draining: CancellationToken,
    /// Writes one record for each session.
    pub account: Arc<Account>,
}
