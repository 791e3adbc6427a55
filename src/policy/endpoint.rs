//! A host of a registry and its kind.

use super::location::Location;
use super::target::Target;

/// The kind of a host; `endpoint` in audit lines and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndpointKind {
    /// The login server: authentication, content discovery and all writes.
    Login,
    /// A dedicated data endpoint, or the blob host of a registry outside Azure.
    Data,
    /// The login server of one replica.
    Regional,
    /// A further host that the operator added.
    Also,
}

impl EndpointKind {
    /// All kinds.
    pub const ALL: &'static [Self] = &[Self::Login, Self::Data, Self::Regional, Self::Also];

    /// Returns the code in audit lines and metrics.
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
    /// Its kind.
    pub kind: EndpointKind,
    /// Its place in the configuration.
    pub place: Location,
}
