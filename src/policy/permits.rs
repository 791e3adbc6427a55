//! Permissions as values: [`Allowed`] to resolve a name, [`Permit`] to dial, [`Cleared`] to relay.
//! Only the decisions of a [`PolicySet`](super::PolicySet) create them.

use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rustls::pki_types::CertificateDer;

use super::addresses::{AddressFault, PrivateOnly};
use super::budget::Budget;
use super::clients::Client;
use super::endpoint::EndpointKind;
use super::inspect::Inspect;
use super::location::Location;
use super::parent::Route;
use super::reason::Denial;
use super::target::Target;

/// The registry and endpoint that allow a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The name of the registry.
    pub registry: Arc<str>,
    /// Its metric label.
    pub label: Arc<str>,
    /// The kind of the host.
    pub endpoint: EndpointKind,
    /// The place in the configuration that names the host.
    pub place: Location,
    /// The upload budget; `None` means unlimited.
    pub upload: Option<Budget>,
    /// Maximum download rate of the registry, in bytes per second; `None` means unlimited.
    pub download_bytes_per_second: Option<u64>,
    /// Roots for its servers beside the system's.
    pub ca: Arc<[CertificateDer<'static>]>,
    pub(super) inspect: Option<Arc<Inspect>>,
    pub(super) private_addresses: Arc<[IpNet]>,
    pub(super) private_only: PrivateOnly,
}

/// The permission to resolve a name. Only a decision creates it.
#[derive(Debug, Clone)]
pub struct Allowed {
    pub(super) target: Target,
    pub(super) grant: Option<Grant>,
    pub(super) client: Option<Arc<Client>>,
    pub(super) would_deny: Option<Denial>,
    pub(super) route: Route,
}

impl Allowed {
    /// Returns the target.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Returns what allows it; `None` if no registry names it and report mode allowed it.
    #[must_use]
    pub fn grant(&self) -> Option<&Grant> {
        self.grant.as_ref()
    }

    /// Returns the roots for its server beside the system's.
    #[must_use]
    pub fn roots(&self) -> Arc<[CertificateDer<'static>]> {
        self.grant.as_ref().map(|grant| grant.ca.clone()).unwrap_or_default()
    }

    /// Returns how a tunnel to it is inspected; `None` if it is not.
    #[must_use]
    pub fn inspect(&self) -> Option<&Arc<Inspect>> {
        self.grant.as_ref()?.inspect.as_ref()
    }

    /// Returns the group of the client; `None` if it has none.
    #[must_use]
    pub fn client(&self) -> Option<&Arc<Client>> {
        self.client.as_ref()
    }

    /// Returns the denial that enforcement would have caused.
    #[must_use]
    pub fn would_deny(&self) -> Option<&Denial> {
        self.would_deny.as_ref()
    }

    /// How its tunnels leave: directly or through a parent proxy.
    #[must_use]
    pub fn route(&self) -> &Route {
        &self.route
    }
}

/// The right to dial: an allowed name, its route and its vetted addresses. Only a judgement makes it.
#[derive(Debug, Clone)]
pub struct Permit {
    pub(super) allowed: Allowed,
    pub(super) addresses: Vec<SocketAddr>,
}

impl Permit {
    /// Returns the allowed name.
    #[must_use]
    pub fn allowed(&self) -> &Allowed {
        &self.allowed
    }

    /// The addresses that were vetted, in the resolver's order. Empty only if the route is a parent
    /// that is asked to connect by name.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns the right to dial one of its addresses and no other; `None` if it is not one of them.
    #[must_use]
    pub fn only(&self, address: SocketAddr) -> Option<Self> {
        let addresses = self.addresses.contains(&address).then(|| vec![address])?;
        Some(Self { allowed: self.allowed.clone(), addresses })
    }
}

/// The permission to relay: the ClientHello named the allowed host. Only a decision creates it.
#[derive(Debug)]
pub struct Cleared {
    pub(super) permit: Permit,
}

impl Cleared {
    /// Returns the permit that it was created from.
    #[must_use]
    pub fn permit(&self) -> &Permit {
        &self.permit
    }
}

/// The result of judging addresses: the permit and the rejected addresses.
#[derive(Debug)]
pub struct Vetted {
    /// The permission to dial.
    pub permit: Permit,
    /// The rejected addresses, and why.
    pub dropped: Vec<(SocketAddr, AddressFault)>,
}

/// A denial, because all addresses of a name were rejected.
#[derive(Debug)]
pub struct NoneVetted {
    /// The denial for the client.
    pub denial: Denial,
    /// The rejected addresses, and why.
    pub dropped: Vec<(SocketAddr, AddressFault)>,
}
