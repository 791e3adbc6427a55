//! Why a host that no registry names is denied, with the way out where there is one.

use std::collections::{HashMap, HashSet};

use super::cloud::{HostKind, without_private_link};
use super::name::{Name, NameError};
use super::reason::{Denial, Reason};
use super::registry::Registry;
use super::target::TargetError;

/// What the registries tell of hosts that none of them names.
#[derive(Debug)]
pub(super) struct Strangers {
    /// Hosts that presets in use have on other dates, and what their denials say of it.
    absent_from_presets: HashMap<Name, Box<str>>,
    /// Labels of Azure's registries, for telling an unnamed replica from a stranger.
    labels: HashSet<(Box<str>, &'static str)>,
}

impl Strangers {
    pub(super) fn new(registries: &[Registry]) -> Self {
        let presets = registries.iter().filter_map(Registry::preset);
        let absent = presets.flat_map(|preset| &preset.absent);
        let absent = absent.map(|host| (host.name.clone(), host.why.to_string().into()));
        let endpoints = registries.iter().flat_map(Registry::endpoints);
        let labels = endpoints.filter_map(|endpoint| match HostKind::of(&endpoint.target.name) {
            // A registry with a domain of its own is known by its data endpoints.
            HostKind::Login { cloud, label } | HostKind::Data { cloud, label, .. } => {
                Some((label.into(), cloud.registry_suffix))
            }
            _ => None,
        });
        Self { absent_from_presets: absent.collect(), labels: labels.collect() }
    }

    /// Returns the denial. `is_named`: whether a registry names some other host.
    pub(super) fn denial(&self, name: &Name, is_named: impl Fn(&str) -> bool) -> Denial {
        if let Some(hint) = self.absent_from_presets.get(name) {
            return Denial::with_remedy(Reason::HostNotAllowed, &**hint);
        }
        if name.is_single_label() {
            let fault = TargetError::Name(NameError::SingleLabel);
            return Denial::with_remedy(fault.reason(), fault.to_string());
        }
        match HostKind::of(name) {
            HostKind::Storage { .. } => {
                Denial::with_remedy(Reason::StorageAccount, "enable dedicated data endpoints")
            }
            HostKind::Data { cloud, label, .. } | HostKind::Regional { cloud, label, .. }
                if self.labels.contains(&(label.into(), cloud.registry_suffix)) =>
            {
                let remedy = "a new replica? see az acr show-endpoints";
                Denial::with_remedy(Reason::HostNotAllowed, remedy)
            }
            HostKind::UnderRegistrySuffix { .. } => match without_private_link(name) {
                Some(public) => {
                    let reason = match is_named(&public) {
                        true => Reason::HostNotAllowed,
                        false => Reason::OtherRegistry,
                    };
                    Denial::with_remedy(reason, format!("ask for {public}"))
                }
                None => Reason::OtherRegistry.into(),
            },
            HostKind::Login { .. }
            | HostKind::Data { .. }
            | HostKind::Regional { .. }
            | HostKind::KnownRegistry { .. } => Reason::OtherRegistry.into(),
            HostKind::SharedStorage | HostKind::Elsewhere => Reason::HostNotAllowed.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::policy::location::{Located, Location};
    use crate::policy::registry_spec::{DataSpec, RegistrySpec};

    #[test]
    fn names_of_private_link_and_replicas_of_custom_domains_are_told() {
        let file: Arc<str> = "registries.d/contoso.toml".into();
        let at = |value: &str| Located {
            value: value.to_owned(),
            place: Location { file: file.clone(), line: 1 },
        };
        let mut spec = RegistrySpec::new("contoso".into(), at("registry.contoso.com"));
        spec.azure_login = Some(at("contoso.azurecr.io"));
        spec.also = vec![at("contoso.azurecr.io")];
        spec.data = DataSpec::Listed(vec![at("contoso.eastus.data.azurecr.io")]);
        let strangers = Strangers::new(&[Registry::new(&spec).unwrap()]);
        for (host, reason, remedy) in [
            (
                "contoso.privatelink.azurecr.io",
                Reason::HostNotAllowed,
                Some("ask for contoso.azurecr.io"),
            ),
            (
                "fabrikam.privatelink.azurecr.io",
                Reason::OtherRegistry,
                Some("ask for fabrikam.azurecr.io"),
            ),
            (
                "contoso.westus.data.azurecr.io",
                Reason::HostNotAllowed,
                Some("a new replica? see az acr show-endpoints"),
            ),
            ("a.b.azurecr.io", Reason::OtherRegistry, None),
        ] {
            let name = Name::parse(host).unwrap();
            let denial = strangers.denial(&name, |host| host == "contoso.azurecr.io");
            assert_eq!((denial.reason, denial.remedy.as_deref()), (reason, remedy), "{host}");
        }
    }
}
