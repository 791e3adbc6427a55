//! One registry of the policy: its hosts, where they may resolve to, and who named them where.
//!
//! [`Registry::new`] holds the rules for loading that concern one registry alone; what registries
//! have among one another is [`PolicySet::new`](super::PolicySet::new)'s. Whatever is refused is
//! refused with its place and a remedy, all faults at once.

mod rules;

use std::sync::Arc;

use ipnet::IpNet;

use super::addresses::PrivateOnly;
use super::budget::Budgets;
use super::clients::Clientele;
use super::location::{Fault, Located, Location};
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

/// What a file says of a registry, as it is written.
#[derive(Debug, Clone)]
pub struct RegistrySpec {
    /// Its file's stem.
    pub name: Arc<str>,
    /// Its file.
    pub file: Arc<str>,
    /// Who wrote the file.
    pub origin: Origin,
    /// The login server, with a port where it is not 443; a fault where there is none.
    pub login: Option<Located<String>>,
    /// The data endpoints.
    pub data: DataSpec,
    /// The login servers of single replicas.
    pub regional: Vec<Located<String>>,
    /// Further hosts.
    pub also: Vec<Located<String>>,
    /// Private ranges that its names may resolve to.
    pub private_addresses: Vec<Located<String>>,
    /// Whether public answers are refused.
    pub private_only: PrivateOnly,
    /// Hosts that all tenants of a storage share, accepted all the same.
    pub accept_shared_storage: Vec<Located<String>>,
    /// How much may be sent to its hosts.
    pub budgets: Budgets,
    /// Whom it lets in.
    pub clientele: Clientele,
    /// Bytes that may come down in a second, over all its tunnels.
    pub download_bytes_per_second: Option<u64>,
}

impl RegistrySpec {
    /// A registry of a login server alone.
    #[must_use]
    pub fn new(name: Arc<str>, login: Located<String>) -> Self {
        Self {
            name,
            file: login.place.file.clone(),
            origin: Origin::Operator,
            login: Some(login),
            data: DataSpec::Listed(Vec::new()),
            regional: Vec::new(),
            also: Vec::new(),
            private_addresses: Vec::new(),
            private_only: PrivateOnly::No,
            accept_shared_storage: Vec::new(),
            budgets: Budgets::default(),
            clientele: Clientele::default(),
            download_bytes_per_second: None,
        }
    }
}

/// The data endpoints of a registry, as they are written.
#[derive(Debug, Clone)]
pub enum DataSpec {
    /// One by one.
    Listed(Vec<Located<String>>),
    /// `"every-region"`, and hosts beside it, in regions that this release does not know.
    EveryRegion {
        /// Where the word stands.
        place: Location,
        /// The hosts beside it.
        further: Vec<Located<String>>,
    },
}

/// Who wrote a registry's file, which decides what its reader can do about a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// The operator, in TOML.
    #[default]
    Operator,
    /// The `az` command, in JSON.
    Az,
}

/// A registry, whole and sound: what has the type was judged by the rules for loading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    name: Arc<str>,
    file: Arc<str>,
    endpoints: Vec<Endpoint>,
    private_addresses: Arc<[IpNet]>,
    private_only: PrivateOnly,
    budgets: Budgets,
    clientele: Clientele,
    download_bytes_per_second: Option<u64>,
}

impl Registry {
    /// Judges what a file says.
    ///
    /// # Errors
    /// Every fault.
    pub fn new(spec: &RegistrySpec) -> Result<Self, Vec<Fault>> {
        let rules::Sound { endpoints, private_addresses } = rules::judge(spec)?;
        Ok(Self {
            name: spec.name.clone(),
            file: spec.file.clone(),
            endpoints,
            private_addresses,
            private_only: spec.private_only,
            budgets: spec.budgets,
            clientele: spec.clientele.clone(),
            download_bytes_per_second: spec.download_bytes_per_second,
        })
    }

    /// Its file's stem: the name in labels, logs and `explain`.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its file.
    #[must_use]
    pub fn file(&self) -> &Arc<str> {
        &self.file
    }

    /// Its hosts, the login server first.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Private ranges that its names may resolve to.
    #[must_use]
    pub fn private_addresses(&self) -> &Arc<[IpNet]> {
        &self.private_addresses
    }

    /// Whether public answers are refused.
    #[must_use]
    pub fn private_only(&self) -> PrivateOnly {
        self.private_only
    }

    /// How much may be sent to its hosts.
    #[must_use]
    pub fn budgets(&self) -> Budgets {
        self.budgets
    }

    /// Bytes that may come down in a second, over all its tunnels.
    #[must_use]
    pub fn download_bytes_per_second(&self) -> Option<u64> {
        self.download_bytes_per_second
    }

    /// Whom it lets in, as its file says it.
    #[must_use]
    pub fn clientele(&self) -> &Clientele {
        &self.clientele
    }
}
