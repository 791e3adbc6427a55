//! A host of a registry, and what it is to the registry.

use super::location::Location;
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
    pub place: Location,
}
