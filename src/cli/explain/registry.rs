//! Explains a registry: its hosts, and the clients that can use it.

use std::fmt::{self, Write as _};

use serde::{Serialize, Serializer};

use crate::policy::{Grant, PolicySet, PresetInUse};

/// A registry of the policy. The fields are the keys of `--json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct RegistryReport {
    registry: String,
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    preset: Option<ExplainedPreset>,
    clients: AllowedClients,
    hosts: Vec<Host>,
    /// The hosts whose tunnels are inspected.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    inspected: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Host {
    host: String,
    endpoint: &'static str,
    place: String,
}

/// The preset that contains the hosts.
#[derive(Debug, Serialize)]
pub(super) struct ExplainedPreset {
    pub(super) name: String,
    pub(super) date: String,
}

impl ExplainedPreset {
    /// Returns the preset that contains a host; `None` if the registry file lists it.
    pub(super) fn of(set: &PolicySet, grant: &Grant) -> Option<Self> {
        let registry = set.rules().registries.iter().find(|one| *one.name() == grant.registry)?;
        registry.preset().filter(|preset| preset.place == grant.place).map(Into::into)
    }
}

impl From<&PresetInUse> for ExplainedPreset {
    fn from(preset: &PresetInUse) -> Self {
        Self { name: preset.name.to_string(), date: preset.date.to_string() }
    }
}

/// The clients that can use a registry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AllowedClients {
    Everyone,
    Named(Vec<String>),
}

impl AllowedClients {
    pub(super) fn of(set: &PolicySet, registry: &str) -> Self {
        match set.admitted(registry) {
            None => Self::Everyone,
            Some(groups) => {
                Self::Named(groups.iter().map(|client| client.name.to_string()).collect())
            }
        }
    }
}

impl Serialize for AllowedClients {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Everyone => out.serialize_str("everyone"),
            Self::Named(names) => names.serialize(out),
        }
    }
}

impl fmt::Display for AllowedClients {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everyone => out.write_str("everyone"),
            Self::Named(names) if names.is_empty() => out.write_str("nobody"),
            Self::Named(names) => out.write_str(&names.join(", ")),
        }
    }
}

/// Returns the registry with this name; `None` if the policy has none.
pub(super) fn named(set: &PolicySet, name: &str) -> Option<RegistryReport> {
    let registry = set.rules().registries.iter().find(|registry| &**registry.name() == name)?;
    let hosts = registry.endpoints().iter().map(|endpoint| Host {
        host: endpoint.target.to_string(),
        endpoint: endpoint.kind.code(),
        place: endpoint.place.to_string(),
    });
    Some(RegistryReport {
        registry: name.to_owned(),
        file: registry.file().to_string(),
        preset: registry.preset().map(Into::into),
        clients: AllowedClients::of(set, name),
        hosts: hosts.collect(),
        inspected: registry.inspect().iter().flat_map(|one| one.hosts_of_clients()).collect(),
    })
}

impl RegistryReport {
    pub(super) fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            return crate::cli::output::print_json(self);
        }
        let mut out = String::new();
        writeln!(out, "{}: a registry of the policy", self.registry)?;
        writeln!(out, "  file:      {}", self.file)?;
        if let Some(ExplainedPreset { name, date }) = &self.preset {
            writeln!(out, "  preset:    {name} of {date}")?;
        }
        writeln!(out, "  allowed:   {}", self.clients)?;
        if !self.inspected.is_empty() {
            writeln!(out, "  inspected: {}", self.inspected.join(", "))?;
        }
        for Host { host, endpoint, place } in &self.hosts {
            writeln!(out, "  host:      {host} ({endpoint}), {place}")?;
        }
        crate::cli::output::print(&out)
    }
}
