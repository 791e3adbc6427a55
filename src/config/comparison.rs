//! What a registry has according to `az`, against what its file in the policy allows.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::source::Source;
use super::values::RegistryDefaults;
use super::{azure, registry_file};
use crate::policy::{DataSpec, EndpointKind, Fault, HostKind, Registry, RegistrySpec, Target};

/// How the fault of a file that was not read ends.
const NOT_READ: &str = "it was not read";

/// Where the policy and the registry differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Hosts of the registry that the policy lacks.
    pub lacking: Vec<(Target, EndpointKind)>,
    /// Hosts of the policy that the registry lacks.
    pub surplus: Vec<(Target, EndpointKind)>,
}

impl Comparison {
    /// Returns whether both are equal.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lacking.is_empty() && self.surplus.is_empty()
    }
}

/// Compares what `az acr show-endpoints` printed with a registry's file, TOML or JSON.
///
/// `also` hosts are the operator's own, and `"every-region"` stands for replicas to come: neither
/// is a difference.
///
/// # Errors
/// Every fault of either text.
pub fn compare(
    printed: (&Arc<str>, &str),
    file: (&Arc<str>, &str),
) -> Result<Comparison, Vec<Fault>> {
    let import = azure::import(printed.0, printed.1);
    let in_policy = in_policy(file.0, file.1);
    let (import, (in_policy, to_come)) = match (import, in_policy) {
        (Ok(import), Ok(in_policy)) => (import, in_policy),
        (import, in_policy) => {
            let faults = [import.err(), in_policy.err()];
            return Err(faults.into_iter().flatten().flatten().collect());
        }
    };
    let made = Source::new(printed.0, &import.toml);
    let made =
        registry_file::read(&made, import.name.as_str().into(), &RegistryDefaults::default(), &[]);
    let at_azure = made.as_ref().map(Registry::new).transpose()?;
    let at_azure = at_azure.as_ref().map(hosts_of).unwrap_or_default();
    let only = |here: &Hosts, there: &Hosts| -> Vec<(Target, EndpointKind)> {
        let differs = |host: &(&Target, &EndpointKind)| !there.contains_key(host.0);
        here.iter().filter(differs).map(|(target, kind)| (target.clone(), *kind)).collect()
    };
    let mut comparison =
        Comparison { lacking: only(&at_azure, &in_policy), surplus: only(&in_policy, &at_azure) };
    comparison.surplus.retain(|(target, _)| !to_come.contains_key(target));
    Ok(comparison)
}

type Hosts = BTreeMap<Target, EndpointKind>;

/// The hosts that a registry's file allows, and those among them that are for replicas to come.
fn in_policy(file: &Arc<str>, text: &str) -> Result<(Hosts, Hosts), Vec<Fault>> {
    let source = Source::new(file, text);
    let path = Path::new(&**file);
    let name: Arc<str> =
        path.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default().into();
    let spec = match path.extension().is_some_and(|kind| kind == "json") {
        true => azure::read(&source, name, &RegistryDefaults::default()),
        false => registry_file::read(&source, name, &RegistryDefaults::default(), &[]),
    };
    let spec = spec.map(|spec| RegistrySpec { mirror: None, ..spec });
    let registry = spec.as_ref().map(Registry::new).transpose();
    let mut faults = source.take_faults();
    // Only hosts are compared: the files that it names are not read.
    faults.retain(|fault| !fault.what.ends_with(NOT_READ));
    match (spec, registry) {
        (Some(spec), Ok(Some(registry))) if faults.is_empty() => {
            Ok((hosts_of(&registry), to_come(&spec, &registry)))
        }
        (_, registry) => {
            faults.extend(registry.err().into_iter().flatten());
            Err(faults)
        }
    }
}

fn hosts_of(registry: &Registry) -> Hosts {
    let own = registry.endpoints().iter().filter(|one| one.kind != EndpointKind::Also);
    // A custom domain is not what az prints.
    let is_custom = |target: &Target| matches!(HostKind::of(&target.name), HostKind::Elsewhere);
    own.filter(|one| !is_custom(&one.target)).map(|one| (one.target.clone(), one.kind)).collect()
}

/// What `"every-region"` stands for.
fn to_come(spec: &RegistrySpec, registry: &Registry) -> Hosts {
    let DataSpec::EveryRegion { place, .. } = &spec.data else { return Hosts::new() };
    let endpoints = registry.endpoints().iter().filter(|one| one.place == *place);
    endpoints.map(|one| (one.target.clone(), one.kind)).collect()
}
