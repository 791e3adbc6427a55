//! Everything that a reload replaces: the input of [`PolicySet`](super::PolicySet).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::clients::Client;
use super::limits::Limits;
use super::name::Name;
use super::name_server::NameServer;
use super::parent::{Parent, ParentChoice};
use super::registry::Registry;
use super::users::Users;

/// Number of registries with their own metric label. Further ones share [`OTHER_LABEL`].
pub const LABELLED_REGISTRIES: usize = 1_000;

/// The metric label of registries without their own.
pub const OTHER_LABEL: &str = "other";

/// The metric label of sessions without a registry.
pub const NO_LABEL: &str = "none";

/// What happens to reportable reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Enforcement {
    /// The session is denied.
    #[default]
    Enforce,
    /// The session is allowed and recorded as `would-deny`.
    Report,
}

/// A static address of `[dns.hosts]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StaticAddress {
    /// The address.
    pub address: IpAddr,
    /// The port to dial instead of the target's.
    pub port: Option<u16>,
}

/// The gate's own addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnAddresses {
    /// The addresses of its interfaces, dialled only if `[addresses] allow` covers them.
    pub interfaces: Vec<IpAddr>,
    /// Its listen addresses, never dialled. An unspecified address means every interface.
    pub listeners: Vec<SocketAddr>,
}

impl OwnAddresses {
    /// Returns whether the gate listens on the address.
    pub(super) fn listens_at(&self, address: SocketAddr) -> bool {
        self.listeners.iter().any(|listener| {
            let any = listener.ip().is_unspecified()
                && (address.ip().is_loopback() || self.interfaces.contains(&address.ip()));
            listener.port() == address.port() && (any || listener.ip() == address.ip())
        })
    }
}

/// Everything that a reload replaces. [`PolicySet::new`](super::PolicySet::new) reports errors
/// between registries.
#[derive(Debug, Default)]
pub struct Rules {
    /// The registries, in the order of their file names.
    pub registries: Vec<Registry>,
    /// The `[[client]]`s, in order.
    pub clients: Vec<Arc<Client>>,
    /// The users, if a client refers to any.
    pub users: Users,
    /// `[policy] enforcement`.
    pub enforcement: Enforcement,
    /// `[policy] verify-upstream`.
    pub verify_upstream: bool,
    /// `[addresses] allow`.
    pub allowed_addresses: Vec<IpNet>,
    /// `[dns] servers`; empty for the system's.
    pub dns_servers: Vec<NameServer>,
    /// `[dns] stale-ms`.
    pub dns_stale: Duration,
    /// `[dns.hosts]`.
    pub pins: HashMap<Name, Vec<StaticAddress>>,
    /// `[limits]`.
    pub limits: Limits,
    /// The `[[parent]]`s, in their order.
    pub parents: Vec<Arc<Parent>>,
    /// `[policy] parent`, for registries whose files do not say.
    pub parent: ParentChoice,
}
