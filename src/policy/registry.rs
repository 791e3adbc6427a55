//! One registry of the policy: its hosts, where they may resolve to, and who named them where.
//!
//! [`Registry::new`] holds the rules for loading that concern one registry alone; what registries
//! have among one another is [`PolicySet::new`](super::PolicySet::new)'s. Whatever is refused is
//! refused with its place and a remedy, all faults at once.

mod ranges;
mod rules;

use std::sync::Arc;

use ipnet::IpNet;

use super::addresses::PrivateOnly;
use super::budget::Budgets;
use super::endpoint::Endpoint;
use super::location::Fault;
use super::mirror::{Mirror, TunnelHosts};
use super::preset::PresetInUse;
use super::registry_spec::{Clientele, RegistrySpec};

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
    tunnel: TunnelHosts,
    mirror: Option<Arc<Mirror>>,
    preset: Option<PresetInUse>,
}

impl Registry {
    /// Judges what a file says.
    ///
    /// # Errors
    /// Every fault.
    pub fn new(spec: &RegistrySpec) -> Result<Self, Vec<Fault>> {
        let rules::Sound { endpoints, private_addresses } = rules::judge(spec)?;
        let mirror = spec.mirror.as_ref().map(|mirror| Mirror::new(mirror, &endpoints));
        let mirror = mirror.transpose()?.map(Arc::new);
        Ok(Self {
            name: spec.name.clone(),
            file: spec.file.clone(),
            endpoints,
            private_addresses,
            private_only: spec.private_only,
            budgets: spec.budgets,
            clientele: spec.clientele.clone(),
            download_bytes_per_second: spec.download_bytes_per_second,
            tunnel: spec.tunnel,
            mirror,
            preset: spec.preset.clone(),
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

    /// Returns which of its hosts tunnels may reach.
    #[must_use]
    pub fn tunnel(&self) -> TunnelHosts {
        self.tunnel
    }

    /// Returns how the mirror offers it; `None` where it does not.
    #[must_use]
    pub fn mirror(&self) -> Option<&Arc<Mirror>> {
        self.mirror.as_ref()
    }

    /// Returns the preset that some of its hosts are from.
    #[must_use]
    pub fn preset(&self) -> Option<&PresetInUse> {
        self.preset.as_ref()
    }

    /// Whom it lets in, as its file says it.
    #[must_use]
    pub fn clientele(&self) -> &Clientele {
        &self.clientele
    }
}
