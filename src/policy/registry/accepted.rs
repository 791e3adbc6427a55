//! `accept-shared-storage` and `accept-single-label`: keys that repeat hosts of the registry, so that
//! the exposure is explicit.

use std::collections::{HashMap, HashSet};

use crate::policy::cloud::HostKind;
use crate::policy::host::{HostFault, parse_host, parse_host_or_label};
use crate::policy::location::{Fault, Location};
use crate::policy::name::{Name, NameError};
use crate::policy::registry_spec::RegistrySpec;
use crate::policy::target::Target;

/// The hosts in both keys.
pub(super) struct Accepted {
    storage: HashSet<Name>,
    labels: HashSet<Name>,
}

impl Accepted {
    pub(super) fn of(spec: &RegistrySpec) -> Self {
        let storage = spec.accept_shared_storage.iter();
        let labels = spec.accept_single_label.iter();
        Self {
            storage: storage.filter_map(|host| Some(parse_host(&host.value).ok()?.name)).collect(),
            labels: labels.filter_map(|host| Name::parse_or_label(&host.value).ok()).collect(),
        }
    }

    /// Returns whether shared storage is accepted.
    pub(super) fn is_storage(&self, name: &Name) -> bool {
        self.storage.contains(name)
    }

    /// Parses a host, of one label only if that is accepted.
    ///
    /// # Errors
    /// What is wrong with the name or the port.
    pub(super) fn parse(&self, written: &str) -> Result<Target, HostFault> {
        let target = parse_host_or_label(written)?;
        if target.name.is_single_label() && !self.labels.contains(&target.name) {
            return Err(NameError::SingleLabel.into());
        }
        Ok(target)
    }
}

/// Checks that both keys repeat hosts of the registry. `seen`: all its hosts.
pub(super) fn judge(spec: &RegistrySpec, seen: &HashMap<Target, &Location>) -> Vec<Fault> {
    let written: HashSet<&Name> = seen.keys().map(|target| &target.name).collect();
    let mut faults = Vec::new();
    for accepted in &spec.accept_shared_storage {
        let (what, remedy) = match parse_host(&accepted.value) {
            Err(fault) => (format!("{:?}: {fault}", accepted.value), fault.remedy()),
            Ok(target) if matches!(HostKind::of(&target.name), HostKind::Storage { .. }) => (
                format!("{} is a storage account, which no policy allows", target.name),
                "remove it",
            ),
            Ok(target) if !written.contains(&target.name) => (
                format!("{} is accepted, but is not a host of this registry", target.name),
                "list it in data-endpoints or also, or remove it",
            ),
            Ok(_) => continue,
        };
        let place = accepted.place.clone();
        faults.push(Fault { place, what, remedy: remedy.to_owned() });
    }
    for accepted in &spec.accept_single_label {
        let (what, remedy) = match Name::parse_or_label(&accepted.value) {
            Err(fault) => {
                let what = format!("{:?}: the host {fault}", accepted.value);
                (what, "write one label without a port, such as \"edge-parent\"")
            }
            Ok(name) if !name.is_single_label() => {
                (format!("{name} has more than one label"), "remove it: it needs no consent")
            }
            Ok(name) if !written.contains(&name) => (
                format!("{name} is accepted, but is not a host of this registry"),
                "write it in login-server, data-endpoints or also, or remove it",
            ),
            Ok(_) => continue,
        };
        let place = accepted.place.clone();
        faults.push(Fault { place, what, remedy: remedy.to_owned() });
    }
    faults
}
