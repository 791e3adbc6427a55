//! The rules for one registry file: which hosts belong to the registry, and which are rejected in
//! every key.

use std::collections::HashMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::accepted::{self, Accepted};
use super::ranges;
use crate::policy::cloud::{Cloud, HostKind, without_private_link};
use crate::policy::endpoint::{Endpoint, EndpointKind};
use crate::policy::host::{HostFault, parse_host};
use crate::policy::location::{Fault, Located, Location};
use crate::policy::name::{Name, NameError};
use crate::policy::registry_spec::{DataSpec, Origin, RegistrySpec};
use crate::policy::target::Target;

/// The result for a valid file.
pub(super) struct Sound {
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) private_addresses: Arc<[IpNet]>,
}

/// Judges a file and reports all errors.
pub(super) fn judge(spec: &RegistrySpec) -> Result<Sound, Vec<Fault>> {
    let mut judge = Judge::new(spec);
    judge.azure_login();
    judge.login();
    judge.data();
    for host in &spec.regional {
        judge.host(host, EndpointKind::Regional);
    }
    for host in &spec.also {
        judge.host(host, EndpointKind::Also);
    }
    judge.faults.extend(accepted::judge(spec, &judge.seen));
    let private_addresses = ranges::private(&spec.private_addresses, &mut judge.faults);
    if !judge.faults.is_empty() {
        return Err(judge.faults);
    }
    Ok(Sound { endpoints: judge.endpoints, private_addresses })
}

/// The owner of the registry, by its login server.
enum Owner {
    /// Azure: the label of its hosts, and its cloud.
    Azure { label: String, cloud: &'static Cloud },
    /// Another provider: what its hosts have in common, if it is known.
    Outside { family: Option<String> },
    /// The login server is invalid, so other hosts cannot be compared with it.
    Unknown,
}

impl Owner {
    /// `login`: the login server; `None` if it is absent or invalid.
    fn of(login: Option<&Target>) -> Self {
        let Some(target) = login else { return Self::Unknown };
        match HostKind::of(&target.name) {
            HostKind::Login { cloud, label }
            | HostKind::Data { cloud, label, .. }
            | HostKind::Regional { cloud, label, .. } => {
                Self::Azure { label: label.to_owned(), cloud }
            }
            HostKind::KnownRegistry { family } => Self::Outside { family: Some(family.to_owned()) },
            HostKind::Elsewhere | HostKind::SharedStorage => Self::Outside { family: None },
            HostKind::UnderRegistrySuffix { .. } | HostKind::Storage { .. } => Self::Unknown,
        }
    }

    fn kin(&self, label: &str, cloud: &Cloud) -> Kin {
        match self {
            Self::Unknown => Kin::Unknown,
            Self::Azure { label: own, cloud: in_cloud }
                if own == label && in_cloud.registry_suffix == cloud.registry_suffix =>
            {
                Kin::Own
            }
            Self::Azure { .. } | Self::Outside { .. } => Kin::Foreign,
        }
    }

    /// Returns the name for `az acr update --name`. The name of a resource has no dash; a label
    /// with Domain Name Label scope has a dash and a hash.
    fn resource(&self) -> &str {
        match self {
            Self::Azure { label, .. } => label.split('-').next().unwrap_or(label),
            Self::Outside { .. } | Self::Unknown => "NAME",
        }
    }
}

/// The relation of a host below an Azure registry suffix to this registry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kin {
    Own,
    Foreign,
    Unknown,
}

/// The cause and the remedy.
type Objection = (String, String);

struct Judge<'a> {
    spec: &'a RegistrySpec,
    owner: Owner,
    accepted: Accepted,
    endpoints: Vec<Endpoint>,
    /// All hosts, each with its first place.
    seen: HashMap<Target, &'a Location>,
    faults: Vec<Fault>,
}

impl<'a> Judge<'a> {
    fn new(spec: &'a RegistrySpec) -> Self {
        let accepted = Accepted::of(spec);
        let login = spec.azure_login.as_ref().or(spec.login.as_ref());
        Self {
            spec,
            owner: Owner::of(login.and_then(|login| accepted.parse(&login.value).ok()).as_ref()),
            accepted,
            endpoints: Vec::new(),
            seen: HashMap::new(),
            faults: Vec::new(),
        }
    }

    fn fault(&mut self, place: &Location, what: impl Into<String>, remedy: impl Into<String>) {
        self.faults.push(Fault { place: place.clone(), what: what.into(), remedy: remedy.into() });
    }

    fn login(&mut self) {
        match &self.spec.login {
            Some(login) => self.host(login, EndpointKind::Login),
            None => self.fault(
                &Location { file: self.spec.file.clone(), line: 1 },
                "login-server is missing",
                "write login-server = \"contoso.azurecr.io\"",
            ),
        }
    }

    fn data(&mut self) {
        let (place, listed) = match &self.spec.data {
            DataSpec::Listed(hosts) => (None, hosts),
            DataSpec::EveryRegion { place, further } => (Some(place), further),
        };
        for host in listed {
            self.host(host, EndpointKind::Data);
        }
        let Some(place) = place else { return };
        let (label, cloud) = match &self.owner {
            Owner::Azure { label, cloud } => (label.clone(), *cloud),
            Owner::Unknown => return,
            Owner::Outside { .. } => {
                let remedy = "list the data endpoints one by one";
                return self.fault(place, "every-region is for Azure's registries", remedy);
            }
        };
        for region in cloud.regions {
            // A host that is also listed is kept: a later release may know its region.
            let value = format!("{label}.{region}.data.{}", cloud.registry_suffix);
            if parse_host(&value).is_ok_and(|target| !self.seen.contains_key(&target)) {
                self.take(&value, place, EndpointKind::Data);
            }
        }
    }

    fn host(&mut self, host: &'a Located<String>, kind: EndpointKind) {
        self.take(&host.value, &host.place, kind);
    }

    /// Adds a host, or reports what is wrong with it.
    fn take(&mut self, written: &str, place: &'a Location, kind: EndpointKind) {
        let target = match self.accepted.parse(written) {
            Ok(target) => target,
            Err(HostFault::Name(NameError::Wildcard)) => return self.wildcard(written, place),
            Err(fault @ HostFault::Name(NameError::SingleLabel))
                if self.spec.origin == Origin::Operator =>
            {
                let remedy = "write the name in full; if clients ask for it so, as below a gateway \
                              of nested IoT Edge, list it in accept-single-label too";
                return self.fault(place, format!("{written:?}: {fault}"), remedy);
            }
            Err(fault) => {
                return self.fault(place, format!("{written:?}: {fault}"), fault.remedy());
            }
        };
        if let Some(first) = self.seen.insert(target.clone(), place) {
            let what = format!("{target} is listed twice (also in line {})", first.line);
            return self.fault(place, what, "keep it once");
        }
        if let Some((what, remedy)) = self.objection(&target.name, kind) {
            return self.fault(place, what, remedy);
        }
        self.endpoints.push(Endpoint { target, kind, place: place.clone() });
    }

    /// Returns why a host is not allowed in this key.
    // long: one match, a row for each kind of host under each key.
    fn objection(&self, name: &Name, kind: EndpointKind) -> Option<Objection> {
        use EndpointKind::{Also, Data, Login, Regional};
        match (HostKind::of(name), kind) {
            (HostKind::Storage { .. }, _) => {
                let remedy = match kind {
                    Also => "remove it".to_owned(),
                    Login | Data | Regional => self.instead_of_storage(),
                };
                Some((format!("{name} is a storage account, which no policy allows"), remedy))
            }
            (HostKind::UnderRegistrySuffix { .. }, _) if without_private_link(name).is_some() => {
                let public = without_private_link(name).unwrap_or_default();
                let remedy =
                    format!("write {public}, which clients ask for; DNS leads it to {name}");
                Some((format!("{name} is a name of Private Link's DNS zone"), remedy))
            }
            (HostKind::UnderRegistrySuffix { cloud }, _) => Some((
                format!("{name} is not a form of host that registries of {} have", cloud.title),
                "take it from what az acr show-endpoints prints".to_owned(),
            )),
            (HostKind::Login { .. }, Login) if self.spec.azure_login.is_some() => Some((
                format!("{name} is Azure's own name, not a custom domain"),
                "take azure-login-server out".to_owned(),
            )),
            (HostKind::Login { cloud, label }, Also)
                if self.spec.azure_login.is_some() && self.owner.kin(label, cloud) == Kin::Own =>
            {
                None
            }
            (HostKind::Login { .. }, Login) => None,
            (HostKind::Login { cloud, label }, _) => {
                Some(self.stray(name, self.owner.kin(label, cloud), "login-server"))
            }
            (
                HostKind::Data { cloud, label, .. } | HostKind::Regional { cloud, label, .. },
                Login,
            ) => Some((
                format!("{name} is not a login server"),
                format!("write login-server = \"{label}.{}\"", cloud.registry_suffix),
            )),
            (HostKind::Data { cloud, label, .. }, Data)
            | (HostKind::Regional { cloud, label, .. }, Regional) => {
                (self.owner.kin(label, cloud) == Kin::Foreign).then(|| self.other_label(name))
            }
            (HostKind::Data { cloud, label, .. }, Regional | Also) => {
                Some(self.stray(name, self.owner.kin(label, cloud), "data-endpoints"))
            }
            (HostKind::Regional { cloud, label, .. }, Data | Also) => {
                Some(self.stray(name, self.owner.kin(label, cloud), "regional-endpoints"))
            }
            (_, Regional) => Some((
                format!("{name} is not a regional endpoint"),
                "write it as contoso.eastus.geo.azurecr.io, or list it in also".to_owned(),
            )),
            (_, Data) if self.is_below_custom_domain(name) => None,
            (_, Data) if matches!(self.owner, Owner::Azure { .. }) => Some((
                format!("{name} is not a data endpoint of an Azure registry"),
                "list it in also if it is needed".to_owned(),
            )),
            (HostKind::KnownRegistry { family }, Also) => {
                let own = match &self.owner {
                    // auth.docker.io belongs to Docker Hub.
                    Owner::Outside { family: own } => own.as_deref() == Some(family),
                    Owner::Azure { .. } => false,
                    Owner::Unknown => true,
                };
                (!own).then(|| Self::another_registry(name))
            }
            (HostKind::SharedStorage, _) if !self.accepted.is_storage(name) => Some((
                format!("{name} is storage that all tenants share"),
                "clients that can reach it can write to an account of their own; if that is \
                 intended, list it in accept-shared-storage too"
                    .to_owned(),
            )),
            (
                HostKind::SharedStorage | HostKind::KnownRegistry { .. } | HostKind::Elsewhere,
                Login | Data | Also,
            ) => None,
        }
    }

    /// Whether a host is a data endpoint in the form of custom domains:
    /// `eastus.data.registry.contoso.com`.
    fn is_below_custom_domain(&self, name: &Name) -> bool {
        let Some(login) = &self.spec.login else { return false };
        let Ok(login) = parse_host(&login.value) else { return false };
        let front = name.as_str().strip_suffix(login.name.as_str());
        let region = front.and_then(|front| front.strip_suffix(".data."));
        self.spec.azure_login.is_some() && region.is_some_and(|region| !region.contains('.'))
    }

    /// Judges `azure-login-server`, which says whose a registry with a custom domain is.
    fn azure_login(&mut self) {
        let Some(login) = &self.spec.azure_login else { return };
        let (what, remedy) = match parse_host(&login.value) {
            Err(fault) => (format!("{:?}: {fault}", login.value), fault.remedy()),
            Ok(target) if matches!(HostKind::of(&target.name), HostKind::Login { .. }) => return,
            Ok(target) => (
                format!("{} is not a login server of Azure", target.name),
                "write the registry's name in Azure, such as contoso.azurecr.io",
            ),
        };
        self.fault(&login.place, what, remedy);
    }

    /// A host of Azure's that is under the wrong key, or in the wrong file.
    fn stray(&self, name: &Name, kin: Kin, key: &str) -> Objection {
        match kin {
            Kin::Foreign => Self::another_registry(name),
            Kin::Own | Kin::Unknown => {
                (format!("{name} is under the wrong key"), format!("move it to {key}"))
            }
        }
    }

    fn another_registry(name: &Name) -> Objection {
        let what = format!("{name} belongs to another registry");
        (what, "create a separate file for that registry".to_owned())
    }

    fn other_label(&self, name: &Name) -> Objection {
        let what = match &self.owner {
            Owner::Azure { label, cloud } => format!(
                "{name} has another label or cloud than the login server ({label}.{})",
                cloud.registry_suffix
            ),
            Owner::Outside { .. } | Owner::Unknown => {
                format!("{name} belongs to an Azure registry, and the login server does not")
            }
        };
        (what, "correct it, or create a separate file for that registry".to_owned())
    }

    fn wildcard(&mut self, written: &str, place: &Location) {
        let (what, remedy) = if is_storage_wildcard(written) {
            let what = format!(
                "{written} is the storage of every tenant: dedicated data endpoints are off"
            );
            (what, self.instead_of_storage())
        } else {
            let regions = written.contains(".data.") && matches!(self.owner, Owner::Azure { .. });
            let remedy = if regions {
                "name each host, or write data-endpoints = \"every-region\""
            } else {
                "name each host"
            };
            (format!("{written} is a wildcard"), remedy.to_owned())
        };
        self.fault(place, what, remedy);
    }

    /// Returns the remedy for storage hosts, in the order that Microsoft documents: allow the new
    /// endpoints everywhere before switching the registry.
    fn instead_of_storage(&self) -> String {
        let first = match (&self.owner, self.spec.origin) {
            (Owner::Outside { .. }, _) => {
                return "remove it".to_owned();
            }
            (_, Origin::Az) => {
                format!("import this file (pullgate import {})", self.spec.file)
            }
            (_, Origin::Operator) => {
                "list the dedicated data endpoints (pullgate import creates them from the \
                 output of az acr show-endpoints)"
                    .to_owned()
            }
        };
        format!(
            "{first}, deploy the policy, then run az acr update --name {} --data-endpoint-enabled",
            self.owner.resource()
        )
    }
}

/// Returns whether a wildcard is what `az` prints instead of data endpoints while they are off.
fn is_storage_wildcard(written: &str) -> bool {
    let behind = written.trim_start_matches(['*', '.']);
    let host = parse_host(&format!("any.{behind}"));
    host.is_ok_and(|target| matches!(HostKind::of(&target.name), HostKind::Storage { .. }))
}
