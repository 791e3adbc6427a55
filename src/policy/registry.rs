//! One registry of the policy: its hosts, where they may resolve to, and who named them where.
//!
//! [`Registry::new`] holds the rules for loading that concern one registry alone; what registries
//! have among one another is [`PolicySet::new`](super::PolicySet::new)'s. Whatever is refused is
//! refused with its place and a remedy, all faults at once.

use std::collections::HashSet;
use std::sync::Arc;

use ipnet::IpNet;

use super::addresses::PrivateOnly;
use super::azure::HostKind;
use super::fault::{Fault, Located, Place};
use super::name::{Name, NameError};
use super::target::{Target, parse_port};

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

/// What a file says of a registry, as it is written.
#[derive(Debug, Clone)]
pub struct RegistrySpec {
    /// Its file's stem.
    pub name: Arc<str>,
    /// The login server, with a port where it is not 443.
    pub login: Located<String>,
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
}

impl RegistrySpec {
    /// A registry of a login server alone.
    #[must_use]
    pub fn new(name: Arc<str>, login: Located<String>) -> Self {
        Self {
            name,
            login,
            data: DataSpec::Listed(Vec::new()),
            regional: Vec::new(),
            also: Vec::new(),
            private_addresses: Vec::new(),
            private_only: PrivateOnly::No,
            accept_shared_storage: Vec::new(),
        }
    }
}

/// The data endpoints of a registry, as they are written.
#[derive(Debug, Clone)]
pub enum DataSpec {
    /// One by one.
    Listed(Vec<Located<String>>),
    /// `"every-region"`, and where it stands.
    EveryRegion(Place),
}

/// A registry, whole and sound: what has the type was judged by the rules for loading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    name: Arc<str>,
    file: Arc<str>,
    endpoints: Vec<Endpoint>,
    private_addresses: Arc<[IpNet]>,
    private_only: PrivateOnly,
}

impl Registry {
    /// Judges what a file says.
    ///
    /// # Errors
    /// Every fault.
    pub fn new(spec: &RegistrySpec) -> Result<Self, Vec<Fault>> {
        let mut judge = Judge::new(spec);
        judge.login();
        judge.data();
        for host in &spec.regional {
            judge.host(host, EndpointKind::Regional);
        }
        for host in &spec.also {
            judge.host(host, EndpointKind::Also);
        }
        judge.accepted_are_listed();
        let private_addresses = judge.private_addresses();
        if !judge.faults.is_empty() {
            return Err(judge.faults);
        }
        Ok(Self {
            name: spec.name.clone(),
            file: spec.login.place.file.clone(),
            endpoints: judge.endpoints,
            private_addresses,
            private_only: spec.private_only,
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
}

/// The label that an Azure registry's hosts have in common, and the suffix of its cloud.
type Owner = (String, &'static str);

struct Judge<'a> {
    spec: &'a RegistrySpec,
    owner: Option<Owner>,
    endpoints: Vec<Endpoint>,
    seen: HashSet<Target>,
    faults: Vec<Fault>,
}

impl<'a> Judge<'a> {
    fn new(spec: &'a RegistrySpec) -> Self {
        Self { spec, owner: None, endpoints: Vec::new(), seen: HashSet::new(), faults: Vec::new() }
    }

    fn fault(&mut self, place: &Place, what: impl Into<String>, remedy: impl Into<String>) {
        self.faults.push(Fault { place: place.clone(), what: what.into(), remedy: remedy.into() });
    }

    fn login(&mut self) {
        let spec = self.spec;
        let written = &spec.login.value;
        if let Ok(target) = parse_host(written) {
            match HostKind::of(&target.name) {
                HostKind::Login { cloud, label } => {
                    self.owner = Some((label.to_owned(), cloud.registry_suffix));
                }
                HostKind::Data { .. }
                | HostKind::Regional { .. }
                | HostKind::UnderRegistrySuffix { .. } => {
                    return self.fault(
                        &spec.login.place,
                        format!("{written} is not a login server"),
                        "name the login server, such as contoso.azurecr.io",
                    );
                }
                _ => {}
            }
        }
        self.host(&spec.login, EndpointKind::Login);
    }

    fn data(&mut self) {
        let spec = self.spec;
        let place = match &spec.data {
            DataSpec::Listed(hosts) => {
                for host in hosts {
                    self.host(host, EndpointKind::Data);
                }
                return;
            }
            DataSpec::EveryRegion(place) => place,
        };
        let Some((label, suffix)) = self.owner.clone() else {
            return self.fault(
                place,
                "every-region is for Azure's registries",
                "list the data endpoints one by one",
            );
        };
        let cloud = super::azure::CLOUDS.iter().find(|cloud| cloud.registry_suffix == suffix);
        for region in cloud.map_or(&[][..], |cloud| cloud.regions) {
            let value = format!("{label}.{region}.data.{suffix}");
            self.host(&Located { value, place: place.clone() }, EndpointKind::Data);
        }
    }

    /// Takes a host in, or finds what is wrong with it.
    fn host(&mut self, host: &Located<String>, kind: EndpointKind) {
        let Located { value: written, place } = host;
        let target = match parse_host(written) {
            Ok(target) => target,
            Err(HostFault::Name(NameError::Wildcard)) => return self.wildcard(written, place),
            Err(fault) => {
                let remedy = "write host or host:port, as az acr show-endpoints prints it";
                return self.fault(place, format!("{written:?}: {fault}"), remedy);
            }
        };
        if let Some((what, remedy)) = self.objection(&target.name, kind) {
            return self.fault(place, what, remedy);
        }
        if !self.seen.insert(target.clone()) {
            return self.fault(place, format!("{target} stands here twice"), "keep it once");
        }
        self.endpoints.push(Endpoint { target, kind, place: place.clone() });
    }

    /// What speaks against a host, and the remedy.
    fn objection(&self, name: &Name, kind: EndpointKind) -> Option<(String, String)> {
        use EndpointKind::{Also, Data, Login, Regional};
        let found = HostKind::of(name);
        let foreign = |label: &str, suffix: &str| {
            self.owner.as_ref().is_none_or(|owner| (owner.0.as_str(), owner.1) != (label, suffix))
        };
        let elsewhere = || {
            let what = format!("{name} belongs to another registry");
            Some((what, "give that registry a file of its own".to_owned()))
        };
        let misplaced = |what: &str, key: &str| {
            Some((format!("{name} is {what}"), format!("move it to {key}")))
        };
        match (found, kind) {
            (HostKind::Storage { .. }, _) => Some((
                format!("{name} is a storage account, which no policy opens"),
                self.enable_data_endpoints(),
            )),
            (HostKind::SharedStorage, _) => {
                let accepted = self.spec.accept_shared_storage.iter();
                let listed = |one: &Located<String>| {
                    parse_host(&one.value).is_ok_and(|target| target.name == *name)
                };
                if accepted.into_iter().any(listed) {
                    return None;
                }
                let what = format!("{name} is storage that all its tenants share");
                let remedy = "whoever allows it allows writes to any account there; where that is \
                              meant, list it in accept-shared-storage too";
                Some((what, remedy.to_owned()))
            }
            (HostKind::UnderRegistrySuffix { cloud }, _) => Some((
                format!("{name} is no form of host that a registry of {} has", cloud.title),
                "take it from what az acr show-endpoints prints".to_owned(),
            )),
            (HostKind::Login { cloud, label }, _) if foreign(label, cloud.registry_suffix) => {
                elsewhere()
            }
            (
                HostKind::Data { cloud, label, .. } | HostKind::Regional { cloud, label, .. },
                Data | Regional,
            ) if foreign(label, cloud.registry_suffix) => {
                let of = self.owner.as_ref().map_or_else(
                    || format!("{}, which is not in Azure", self.spec.login.value),
                    |(label, suffix)| format!("{label}.{suffix}"),
                );
                let what = format!("{name} has another label or cloud than the login server {of}");
                Some((what, "give that registry a file of its own".to_owned()))
            }
            (HostKind::Data { .. } | HostKind::Regional { .. }, Also) => elsewhere(),
            // Docker Hub's own auth.docker.io is no other registry's.
            (HostKind::KnownRegistry, Also) if !self.login_is_known() => elsewhere(),
            (HostKind::Login { .. }, Data | Regional | Also) => {
                misplaced("a login server", "login-server")
            }
            (HostKind::Data { .. }, Regional) => misplaced("a data endpoint", "data-endpoints"),
            (HostKind::Regional { .. }, Data) => {
                misplaced("a regional endpoint", "regional-endpoints")
            }
            (_, Regional) if !matches!(found, HostKind::Regional { .. }) => Some((
                format!("{name} is no regional endpoint"),
                "write label.region.geo.suffix, or list it in also".to_owned(),
            )),
            (HostKind::Elsewhere | HostKind::KnownRegistry, Data) if self.owner.is_some() => {
                let what = format!("{name} is no data endpoint of an Azure registry");
                Some((what, "list it in also, where it is needed at all".to_owned()))
            }
            (_, Login | Data | Regional | Also) => None,
        }
    }

    /// Whether the registry itself is a known one outside Azure.
    fn login_is_known(&self) -> bool {
        parse_host(&self.spec.login.value)
            .is_ok_and(|target| HostKind::of(&target.name) == HostKind::KnownRegistry)
    }

    fn wildcard(&mut self, written: &str, place: &Place) {
        let behind = written.trim_start_matches(['*', '.']);
        let host = Name::parse(&format!("any.{behind}"));
        let storage =
            host.as_ref().is_ok_and(|name| matches!(HostKind::of(name), HostKind::Storage { .. }));
        if storage {
            // What az prints while dedicated data endpoints are off.
            let what = format!(
                "{written} is the storage of every tenant: dedicated data endpoints are off"
            );
            let remedy = self.enable_data_endpoints();
            self.fault(place, what, remedy);
        } else {
            let what = format!("{written} is a wildcard");
            self.fault(place, what, "name each host");
        }
    }

    /// In the order that Microsoft asks for: allowed everywhere before it is switched.
    fn enable_data_endpoints(&self) -> String {
        let file = &self.spec.login.place.file;
        // A resource's name has no dash; a label of the Domain Name Label scope has a hash behind one.
        let label = self.owner.as_ref().and_then(|(label, _)| label.split('-').next());
        let name = label.unwrap_or("REGISTRY");
        format!(
            "import this file (pullgate import {file}), roll the policy out, then \
             az acr update --name {name} --data-endpoint-enabled"
        )
    }

    fn accepted_are_listed(&mut self) {
        let spec = self.spec;
        for accepted in &spec.accept_shared_storage {
            let name = parse_host(&accepted.value).map(|target| target.name);
            let listed =
                name.is_ok_and(|name| self.endpoints.iter().any(|one| one.target.name == name));
            let known = self.faults.iter().any(|fault| fault.what.contains(&accepted.value));
            if !listed && !known {
                self.fault(
                    &accepted.place,
                    format!("{:?} is accepted, but is no host of this registry", accepted.value),
                    "list it in data-endpoints or also, or take it out",
                );
            }
        }
    }

    fn private_addresses(&mut self) -> Arc<[IpNet]> {
        let spec = self.spec;
        let mut ranges = Vec::new();
        for written in &spec.private_addresses {
            match parse_range(&written.value) {
                Some(range) if is_private(&range) => ranges.push(range),
                Some(range) => self.fault(
                    &written.place,
                    format!("{range} is not private"),
                    "private-addresses takes ranges of RFC 1918, fc00::/7 and 100.64.0.0/10; \
                     others stand in [addresses] allow",
                ),
                None => self.fault(
                    &written.place,
                    format!("{:?} is no range of addresses", written.value),
                    "write it as 10.1.0.0/24, fd00:1::/64 or a single address",
                ),
            }
        }
        ranges.into()
    }
}

/// Why some text is no host of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostFault {
    /// Its name.
    #[error("the host {0}")]
    Name(#[from] NameError),
    /// Its port.
    #[error("the port is not a number from 1 to 65535")]
    Port,
}

/// Reads a host as policies write it: a name, and a port where it is not 443.
///
/// # Errors
/// What is wrong with either.
pub fn parse_host(text: &str) -> Result<Target, HostFault> {
    match text.split_once(':') {
        None => Ok(Target::https(Name::parse(text)?)),
        Some((_, rest)) if rest.contains(':') => Err(NameError::IpLiteral.into()),
        Some((host, port)) => {
            let name = Name::parse(host)?;
            Ok(Target { name, port: parse_port(port).ok_or(HostFault::Port)? })
        }
    }
}

/// Reads a range, or a single address as a range of one.
#[must_use]
pub fn parse_range(text: &str) -> Option<IpNet> {
    let alone = || text.parse::<std::net::IpAddr>().map(IpNet::from);
    let range = text.parse::<IpNet>().ok().or_else(|| alone().ok())?;
    Some(range.trunc())
}

/// Whether a range lies within what `private-addresses` may open.
fn is_private(range: &IpNet) -> bool {
    const PRIVATE: &[&str] =
        &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"];
    PRIVATE.iter().any(|outer| outer.parse::<IpNet>().is_ok_and(|outer| outer.contains(range)))
}
