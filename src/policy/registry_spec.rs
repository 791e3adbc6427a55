//! The content of a registry file, as written, before any rule is applied.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use super::addresses::PrivateOnly;
use super::budget::Budgets;
use super::inspect::InspectSpec;
use super::location::{Located, Location};
use super::mirror::{MirrorSpec, TunnelHosts};
use super::parent::ParentChoice;
use super::preset::PresetInUse;

/// The content of a registry file, as written.
#[derive(Debug, Clone)]
pub struct RegistrySpec {
    /// The stem of its file.
    pub name: Arc<str>,
    /// Its file.
    pub file: Arc<str>,
    /// The format of the file.
    pub origin: Origin,
    /// The login server with an optional port (default 443); an error if it is missing.
    pub login: Option<Located<String>>,
    /// The login server's name in Azure, of a registry with a custom domain.
    pub azure_login: Option<Located<String>>,
    /// The data endpoints.
    pub data: DataSpec,
    /// The login servers of single replicas.
    pub regional: Vec<Located<String>>,
    /// Further hosts.
    pub also: Vec<Located<String>>,
    /// Private ranges that its names can resolve to.
    pub private_addresses: Vec<Located<String>>,
    /// Whether public addresses are rejected.
    pub private_only: PrivateOnly,
    /// Hosts of shared storage that are explicitly accepted.
    pub accept_shared_storage: Vec<Located<String>>,
    /// Hosts of one label that are explicitly accepted.
    pub accept_single_label: Vec<Located<String>>,
    /// The upload budgets of its hosts.
    pub budgets: Budgets,
    /// The clients that it admits.
    pub clientele: Clientele,
    /// Maximum download rate of all its tunnels, in bytes per second.
    pub download_bytes_per_second: Option<u64>,
    /// How its tunnels leave.
    pub parent: ParentChoice,
    /// Which of its hosts tunnels may reach.
    pub tunnel: TunnelHosts,
    /// `[mirror]`.
    pub mirror: Option<MirrorSpec>,
    /// `[inspect]`.
    pub inspect: Option<InspectSpec>,
    /// Roots for its servers beside the system's.
    pub ca: Arc<[CertificateDer<'static>]>,
    /// The preset that some of these hosts are from.
    pub preset: Option<PresetInUse>,
}

impl RegistrySpec {
    /// Creates a registry with only a login server.
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
            accept_single_label: Vec::new(),
            budgets: Budgets::default(),
            clientele: Clientele::default(),
            download_bytes_per_second: None,
            parent: ParentChoice::Inherited,
            tunnel: TunnelHosts::default(),
            mirror: None,
            inspect: None,
            ca: Arc::default(),
            preset: None,
        }
    }
}

/// The data endpoints of a registry, as written.
#[derive(Debug, Clone)]
pub enum DataSpec {
    /// A list of hosts.
    Listed(Vec<Located<String>>),
    /// `"every-region"`, and further hosts in regions that this release does not know.
    EveryRegion {
        /// The place of the word.
        place: Location,
        /// The further hosts.
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
    /// TOML, written by the operator.
    #[default]
    Operator,
    /// JSON, the output of `az`.
    Az,
}

/// The clients that a registry file admits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Clientele {
    /// Not given: all clients if there is no `[[client]]`, otherwise none.
    #[default]
    Unsaid,
    /// `"everyone"`: also clients without a group.
    Everyone,
    /// The groups with these names.
    Named(Vec<Located<String>>),
}
