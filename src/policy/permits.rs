//! What a session holds once it is allowed something. The rights grow: [`Allowed`] to look up,
//! [`Permit`] to dial, [`Cleared`] to relay. Only the judgements of a
//! [`PolicySet`](super::PolicySet) make them.

use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::addresses::{AddressFault, PrivateOnly};
use super::budget::Budget;
use super::clients::Client;
use super::endpoint::EndpointKind;
use super::location::Location;
use super::reason::Denial;
use super::target::Target;

/// A registry and endpoint by which a target is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The registry's name.
    pub registry: Arc<str>,
    /// Its metric label.
    pub label: Arc<str>,
    /// What the host is to it.
    pub endpoint: EndpointKind,
    /// Where the operator named it.
    pub place: Location,
    /// How much may be sent to it; nothing where that is unbounded.
    pub upload: Option<Budget>,
    /// Bytes that may come down from the registry in a second; nothing where that is unbounded.
    pub download_bytes_per_second: Option<u64>,
    pub(super) private_addresses: Arc<[IpNet]>,
    pub(super) private_only: PrivateOnly,
}

/// An allowed name: the right to look it up. Only a judgement makes it.
#[derive(Debug, Clone)]
pub struct Allowed {
    pub(super) target: Target,
    pub(super) grant: Option<Grant>,
    pub(super) client: Option<Arc<Client>>,
    pub(super) would_deny: Option<Denial>,
}

impl Allowed {
    /// What was asked for.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// By what it is allowed; nothing where no registry names it and report mode let it pass.
    #[must_use]
    pub fn grant(&self) -> Option<&Grant> {
        self.grant.as_ref()
    }

    /// As which group of clients, where there is one.
    #[must_use]
    pub fn client(&self) -> Option<&Arc<Client>> {
        self.client.as_ref()
    }

    /// What would have denied it, were the policy enforced.
    #[must_use]
    pub fn would_deny(&self) -> Option<&Denial> {
        self.would_deny.as_ref()
    }
}

/// The right to dial: an allowed name and its vetted addresses. Only a judgement makes it.
#[derive(Debug, Clone)]
pub struct Permit {
    pub(super) allowed: Allowed,
    pub(super) addresses: Vec<SocketAddr>,
}

impl Permit {
    /// The name that is permitted.
    #[must_use]
    pub fn allowed(&self) -> &Allowed {
        &self.allowed
    }

    /// The addresses that were vetted, in the resolver's order; never empty.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

/// The right to relay: a permit whose hello named the permitted host. Only a judgement makes it.
#[derive(Debug)]
pub struct Cleared {
    pub(super) permit: Permit,
}

impl Cleared {
    /// What it grew from.
    #[must_use]
    pub fn permit(&self) -> &Permit {
        &self.permit
    }
}

/// What a judgement of addresses found: the permit, and what it left out.
#[derive(Debug)]
pub struct Vetted {
    /// The right to dial.
    pub permit: Permit,
    /// The addresses that may not be dialled, and why.
    pub dropped: Vec<(SocketAddr, AddressFault)>,
}

/// A denial of all the addresses that a name resolved to.
#[derive(Debug)]
pub struct NoneVetted {
    /// What the client is told.
    pub denial: Denial,
    /// The addresses, and why each may not be dialled.
    pub dropped: Vec<(SocketAddr, AddressFault)>,
}
