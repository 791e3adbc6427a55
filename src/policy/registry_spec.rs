//! What a registry's file says, as it is written, before any rule has judged it.

use std::sync::Arc;

use super::addresses::PrivateOnly;
use super::budget::Budgets;
use super::location::{Located, Location};
use super::mirror::{MirrorSpec, TunnelHosts};
use super::preset::PresetInUse;

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
    /// The login server's name in Azure, of a registry with a custom domain.
    pub azure_login: Option<Located<String>>,
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
    /// Which of its hosts tunnels may reach.
    pub tunnel: TunnelHosts,
    /// `[mirror]`.
    pub mirror: Option<MirrorSpec>,
    /// The preset that some of these hosts are from.
    pub preset: Option<PresetInUse>,
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
            azure_login: None,
            data: DataSpec::Listed(Vec::new()),
            regional: Vec::new(),
            also: Vec::new(),
            private_addresses: Vec::new(),
            private_only: PrivateOnly::No,
            accept_shared_storage: Vec::new(),
            budgets: Budgets::default(),
            clientele: Clientele::default(),
            download_bytes_per_second: None,
            tunnel: TunnelHosts::default(),
            mirror: None,
            preset: None,
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

impl DataSpec {
    /// Returns the hosts that are listed one by one.
    #[must_use]
    pub fn listed(&self) -> &[Located<String>] {
        match self {
            Self::Listed(hosts) | Self::EveryRegion { further: hosts, .. } => hosts,
        }
    }

    /// Returns the same, to be added to.
    pub fn listed_mut(&mut self) -> &mut Vec<Located<String>> {
        match self {
            Self::Listed(hosts) | Self::EveryRegion { further: hosts, .. } => hosts,
        }
    }
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

/// Whom a registry's file lets in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Clientele {
    /// It does not say: everyone while there is no `[[client]]`, else nobody.
    #[default]
    Unsaid,
    /// `"everyone"`, of no group too.
    Everyone,
    /// The groups of these names.
    Named(Vec<Located<String>>),
}
