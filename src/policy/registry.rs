//! One registry of the policy: its hosts, where they may resolve to, and who named them where.

use std::sync::Arc;

use ipnet::IpNet;

use super::addresses::PrivateOnly;
use super::fault::Place;
use super::target::Target;

/// What a host is to its registry; `endpoint` in audit lines and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndpointKind {
    /// The login server: authentication, content discovery, every write.
    Login,
    /// A dedicated data endpoint, or the blob host of a registry outside Azure.
    Data,
    /// A login server of one replica.
    Regional,
    /// A further host that the operator named.
    Also,
}

impl EndpointKind {
    /// Every kind.
    pub const ALL: &'static [Self] = &[Self::Login, Self::Data, Self::Regional, Self::Also];

    /// The code that audit lines and metrics carry.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Data => "data",
            Self::Regional => "regional",
            Self::Also => "also",
        }
    }
}

/// A host of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Name and port.
    pub target: Target,
    /// What it is to its registry.
    pub kind: EndpointKind,
    /// Where the operator named it.
    pub place: Place,
}

/// A registry, whole and sound: what has the type was judged by the rules for loading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// Its file's stem: the name in labels, logs and `explain`.
    pub name: Arc<str>,
    /// Its file.
    pub file: Arc<str>,
    /// Its hosts, the login server first.
    pub endpoints: Vec<Endpoint>,
    /// Private ranges that its names may resolve to.
    pub private_addresses: Arc<[IpNet]>,
    /// Whether public answers are refused.
    pub private_only: PrivateOnly,
}
