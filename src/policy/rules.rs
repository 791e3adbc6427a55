//! Everything that a reload replaces, as the files say it: the input of
//! [`PolicySet`](super::PolicySet).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::clients::Client;
use super::limits::Limits;
use super::name::Name;
use super::name_server::NameServer;
use super::registry::Registry;
use super::users::Users;

/// Beyond so many registries the metric label is [`OTHER_LABEL`].
pub const LABELLED_REGISTRIES: usize = 1_000;

/// The metric label of the registries that have none of their own.
pub const OTHER_LABEL: &str = "other";

/// The metric label of a session that reached no registry's policy.
pub const NO_LABEL: &str = "none";

/// What happens to the reportable reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Enforcement {
    /// They deny.
    #[default]
    Enforce,
    /// They pass, recorded as `would-deny`.
    Report,
}

/// A fixed answer of `[dns.hosts]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StaticAddress {
    /// The address.
    pub address: IpAddr,
    /// Replaces the target's port when dialling.
    pub port: Option<u16>,
}

/// What the gate knows of its own place in the network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnAddresses {
    /// The addresses of its interfaces: dialled only where `[addresses] allow` covers them.
    pub interfaces: Vec<IpAddr>,
    /// Where it listens, the unspecified address standing for every interface: never dialled.
    pub listeners: Vec<SocketAddr>,
}

impl OwnAddresses {
    /// Whether one of its listeners is at the address.
    pub(super) fn listens_at(&self, address: SocketAddr) -> bool {
        self.listeners.iter().any(|listener| {
            let any = listener.ip().is_unspecified()
                && (address.ip().is_loopback() || self.interfaces.contains(&address.ip()));
            listener.port() == address.port() && (any || listener.ip() == address.ip())
        })
    }
}

/// Everything that a reload swaps. Registries' faults among one another are found by
/// [`PolicySet::new`](super::PolicySet::new).
#[derive(Debug, Default)]
pub struct Rules {
    /// The registries, in the order of their files' names.
    pub registries: Vec<Registry>,
    /// The `[[client]]`s, in their order.
    pub clients: Vec<Arc<Client>>,
    /// The users, where a client is known by one.
    pub users: Users,
    /// `[policy] enforcement`.
    pub enforcement: Enforcement,
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
}
