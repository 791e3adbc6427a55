//! What all sessions share.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::account::Account;
use crate::config::TlsOfListeners;
use crate::dial::Resolver;
#[cfg(feature = "mirror")]
use crate::forward::Forward;
use crate::limits::{Passwords, PendingConnections, Quotas, Sessions};
use crate::listen::http::connect::Accepted;
use crate::policy::{OwnAddresses, PolicySet};
use crate::relay::Relay;

/// The state that all sessions share.
#[derive(Debug)]
pub struct Gate {
    /// The policy in force. Open sessions end when its sender is dropped.
    pub policy: watch::Receiver<Arc<PolicySet>>,
    /// The gate's own addresses, which are never dialled.
    pub own: watch::Receiver<Arc<OwnAddresses>>,
    /// TLS of the listeners.
    pub tls: watch::Receiver<Arc<TlsOfListeners>>,
    /// Looks up allowed names.
    pub resolver: Arc<Resolver>,
    /// Moves the bytes of tunnels.
    pub relay: Relay,
    /// Counts the open sessions, and how fast they begin.
    pub sessions: Sessions,
    /// Upload quotas and download rates that tunnels share.
    pub quotas: Quotas,
    /// Checks passwords.
    pub passwords: Passwords,
    /// The answers to an accepted CONNECT.
    pub accepted: Accepted,
    /// Connections that have not sent a request yet.
    pub pending: Arc<PendingConnections>,
    /// How many sessions the process has descriptors for, whatever the policy's limit is.
    pub max_sessions: usize,
    /// Asks registries, where a listener is a mirror.
    #[cfg(feature = "mirror")]
    pub forward: Option<Arc<Forward>>,
    /// Cancelled when no new request is to be served.
    pub draining: CancellationToken,
    /// Writes one record for each session.
    pub account: Arc<Account>,
}
