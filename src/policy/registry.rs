//! One registry of the policy: its hosts, their addresses, and their places in the configuration.
//!
//! [`Registry::new`] applies the rules for one registry; [`PolicySet::new`](super::PolicySet::new)
//! applies those between registries. All errors are reported at once, with place and remedy.

mod accepted;
mod ranges;
mod rules;

use std::sync::Arc;

use ipnet::IpNet;
use rustls::pki_types::CertificateDer;

use super::addresses::PrivateOnly;
use super::budget::Budgets;
use super::endpoint::Endpoint;
use super::inspect::Inspect;
use super::location::Fault;
use super::mirror::{Mirror, TunnelHosts};
use super::parent::ParentChoice;
use super::preset::PresetInUse;
use super::registry_spec::{Clientele, RegistrySpec};

/// A valid registry.
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
    inspect: Option<Arc<Inspect>>,
    ca: Arc<[CertificateDer<'static>]>,
    preset: Option<PresetInUse>,
    parent: ParentChoice,
}

impl Registry {
    /// Judges a registry file.
    ///
    /// # Errors
    /// All errors.
    pub fn new(spec: &RegistrySpec) -> Result<Self, Vec<Fault>> {
        let rules::Sound { endpoints, private_addresses } = rules::judge(spec)?;
        let mirror = spec.mirror.as_ref().map(|mirror| Mirror::new(mirror, &endpoints));
        let mirror = mirror.transpose()?.map(Arc::new);
        let inspect = spec.inspect.as_ref().map(|inspect| Inspect::new(inspect, &endpoints));
        let inspect = inspect.map(Arc::new);
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
            inspect,
            ca: spec.ca.clone(),
            preset: spec.preset.clone(),
            parent: spec.parent.clone(),
        })
    }

    /// Returns the stem of its file: the name in labels, logs and `explain`.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns its file.
    #[must_use]
    pub fn file(&self) -> &Arc<str> {
        &self.file
    }

    /// Returns its hosts, the login server first.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Returns the private ranges that its names can resolve to.
    #[must_use]
    pub fn private_addresses(&self) -> &Arc<[IpNet]> {
        &self.private_addresses
    }

    /// Returns whether public addresses are rejected.
    #[must_use]
    pub fn private_only(&self) -> PrivateOnly {
        self.private_only
    }

    /// Returns the upload budgets of its hosts.
    #[must_use]
    pub fn budgets(&self) -> Budgets {
        self.budgets
    }

    /// Returns the maximum download rate of all its tunnels, in bytes per second.
    #[must_use]
    pub fn download_bytes_per_second(&self) -> Option<u64> {
        self.download_bytes_per_second
    }

    /// How its tunnels leave, as its file says it.
    #[must_use]
    pub fn parent(&self) -> &ParentChoice {
        &self.parent
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

    /// Returns how its tunnels are inspected; `None` where they are not.
    #[must_use]
    pub fn inspect(&self) -> Option<&Arc<Inspect>> {
        self.inspect.as_ref()
    }

    /// Returns the roots for its servers beside the system's.
    #[must_use]
    pub fn ca(&self) -> &Arc<[CertificateDer<'static>]> {
        &self.ca
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
