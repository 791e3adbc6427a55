//! `[inspect]` of a registry file: which of its tunnels are decrypted, and the rules for the requests
//! in them.

use super::cloud::HostKind;
use super::endpoint::{Endpoint, EndpointKind};
use super::location::Location;
use super::name::Name;
use super::target::{HTTPS, Target};
use crate::oci::RequestRules;

/// The hosts of a registry whose tunnels are inspected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InspectedHosts {
    /// The login server and the regional servers. Layers stay spliced.
    #[default]
    Login,
    /// The data endpoints, too.
    All,
}

impl InspectedHosts {
    /// Returns whether tunnels to a host of this kind are inspected.
    #[must_use]
    pub fn include(self, kind: EndpointKind) -> bool {
        match kind {
            EndpointKind::Login | EndpointKind::Regional => true,
            EndpointKind::Data => self == Self::All,
            EndpointKind::Also => false,
        }
    }

    /// Returns the value of `hosts`.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::All => "all",
        }
    }
}

/// `[inspect]` of a registry file, as written.
#[derive(Debug, Clone)]
pub struct InspectSpec {
    /// The place of the table.
    pub place: Location,
    /// The hosts whose tunnels are inspected.
    pub hosts: InspectedHosts,
    /// The rules for requests.
    pub rules: RequestRules,
}

/// A registry whose tunnels are inspected. Reaching its hosts requires an allowed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspect {
    place: Location,
    hosts: InspectedHosts,
    rules: RequestRules,
    pub(super) endpoints: Vec<Endpoint>,
}

impl Inspect {
    pub(super) fn new(spec: &InspectSpec, endpoints: &[Endpoint]) -> Self {
        Self {
            place: spec.place.clone(),
            hosts: spec.hosts,
            rules: spec.rules.clone(),
            endpoints: endpoints.to_vec(),
        }
    }

    /// Returns the place of the table.
    #[must_use]
    pub fn place(&self) -> &Location {
        &self.place
    }

    /// Returns which hosts are inspected.
    #[must_use]
    pub fn hosts(&self) -> InspectedHosts {
        self.hosts
    }

    /// Returns the rules for requests.
    #[must_use]
    pub fn rules(&self) -> &RequestRules {
        &self.rules
    }

    /// Returns the names that need a certificate.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        let inspected = self.endpoints.iter().filter(|one| self.hosts.include(one.kind));
        inspected.map(|endpoint| &endpoint.target.name)
    }
}

impl Inspect {
    /// Returns the registry of another tenant for which a token is asked; `None` for this one, and for a
    /// service that is no host of Azure's registries.
    pub(super) fn foreign_service(&self, service: &str) -> Option<Name> {
        let name = Name::parse(service).ok()?;
        let asked = azure_registry(&name)?;
        let own = self.endpoints.iter().filter_map(|one| azure_registry(&one.target.name));
        let own: Vec<_> = own.collect();
        // A registry elsewhere names its service as it likes.
        (!own.is_empty() && !own.contains(&asked)).then(|| name.clone())
    }

    /// Returns the inspected hosts as clients write them, with a port other than 443.
    pub fn hosts_of_clients(&self) -> impl Iterator<Item = String> {
        let inspected = self.endpoints.iter().filter(|one| self.hosts.include(one.kind));
        inspected.map(|endpoint| match endpoint.target.port {
            HTTPS => endpoint.target.name.as_str().to_owned(),
            _ => endpoint.target.to_string(),
        })
    }
}

/// Returns the label and the suffix of a registry of Azure.
fn azure_registry(name: &Name) -> Option<(&str, &'static str)> {
    match HostKind::of(name) {
        HostKind::Login { cloud, label }
        | HostKind::Data { cloud, label, .. }
        | HostKind::Regional { cloud, label, .. } => Some((label, cloud.registry_suffix)),
        _ => None,
    }
}

/// Returns whether a `Host` header names the server of a tunnel, with or without its port.
#[must_use]
pub fn is_host(header: &str, target: &Target) -> bool {
    let host = match header.rsplit_once(':') {
        Some((host, port)) if port.parse() == Ok(target.port) && !port.starts_with(['+', '0']) => {
            host
        }
        Some(_) => return false,
        None => header,
    };
    host.eq_ignore_ascii_case(target.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_compared_whole() {
        let target = Target::https(Name::parse("contoso.azurecr.io").unwrap());
        for (header, expected) in [
            ("contoso.azurecr.io", true),
            ("CONTOSO.azurecr.io", true),
            ("contoso.azurecr.io:443", true),
            ("contoso.azurecr.io:0443", false),
            ("contoso.azurecr.io:+443", false),
            ("contoso.azurecr.io:80", false),
            ("contoso.azurecr.io:", false),
            ("contoso.azurecr.io.", false),
            ("fabrikam.azurecr.io", false),
            ("contoso.azurecr.io@fabrikam.azurecr.io", false),
            ("contoso.azurecr.io, fabrikam.azurecr.io", false),
            (" contoso.azurecr.io", false),
            ("10.0.0.1", false),
            ("", false),
        ] {
            assert_eq!(is_host(header, &target), expected, "{header:?}");
        }
    }

    #[test]
    fn tokens_are_for_this_registry_or_for_no_other_of_azure() {
        let inspected = |hosts: &[&str]| {
            let place = Location { file: "registries.d/contoso.toml".into(), line: 1 };
            let endpoint = |host: &&str| Endpoint {
                target: Target::https(Name::parse(host).unwrap()),
                kind: EndpointKind::Login,
                place: place.clone(),
            };
            let (hosts, rules) =
                (hosts.iter().map(endpoint).collect::<Vec<_>>(), RequestRules::default());
            let spec = InspectSpec { place: place.clone(), hosts: InspectedHosts::Login, rules };
            Inspect::new(&spec, &hosts)
        };
        let contoso = inspected(&["contoso.azurecr.io"]);
        let own_domain = inspected(&["registry.contoso.com", "contoso.eastus.data.azurecr.io"]);
        let elsewhere = inspected(&["harbor.contoso.com"]);
        for (registry, service, is_foreign) in [
            (&contoso, "contoso.azurecr.io", false),
            (&contoso, "CONTOSO.azurecr.io", false),
            (&contoso, "contoso.eastus.geo.azurecr.io", false),
            (&contoso, "fabrikam.azurecr.io", true),
            (&contoso, "Fabrikam.azurecr.io", true),
            (&contoso, "fabrikam.eastus.geo.azurecr.io", true),
            (&contoso, "contoso.azurecr.cn", true),
            (&contoso, "registry", false),
            (&contoso, "", false),
            (&own_domain, "contoso.azurecr.io", false),
            (&own_domain, "registry.contoso.com", false),
            (&own_domain, "fabrikam.azurecr.io", true),
            (&elsewhere, "harbor-registry", false),
            (&elsewhere, "fabrikam.azurecr.io", false),
        ] {
            assert_eq!(registry.foreign_service(service).is_some(), is_foreign, "{service}");
        }
    }
}
