//! What there is to say of a registry: its hosts, and who may use it.

use std::fmt::{self, Write as _};

use serde::{Serialize, Serializer};

use crate::policy::{Grant, PolicySet, PresetInUse};

/// A registry of the policy; the keys of `--json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Told {
    registry: String,
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    preset: Option<ExplainedPreset>,
    clients: Clients,
    hosts: Vec<Host>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Host {
    host: String,
    endpoint: &'static str,
    place: String,
}

/// The preset that hosts are from.
#[derive(Debug, Serialize)]
pub(super) struct ExplainedPreset {
    pub(super) name: String,
    pub(super) date: String,
}

impl ExplainedPreset {
    /// Returns the preset that a host is from; `None` if its registry's file lists it.
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

/// Who may use a registry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Clients {
    Everyone,
    Named(Vec<String>),
}

impl Clients {
    pub(super) fn of(set: &PolicySet, registry: &str) -> Self {
        match set.admitted(registry) {
            None => Self::Everyone,
            Some(groups) => {
                Self::Named(groups.iter().map(|client| client.name.to_string()).collect())
            }
        }
    }
}

impl Serialize for Clients {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Everyone => out.serialize_str("everyone"),
            Self::Named(names) => names.serialize(out),
        }
    }
}

impl fmt::Display for Clients {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everyone => out.write_str("everyone"),
            Self::Named(names) if names.is_empty() => out.write_str("nobody"),
            Self::Named(names) => out.write_str(&names.join(", ")),
        }
    }
}

/// The registry of that name, where there is one.
pub(super) fn named(set: &PolicySet, name: &str) -> Option<Told> {
    let registry = set.rules().registries.iter().find(|registry| &**registry.name() == name)?;
    let hosts = registry.endpoints().iter().map(|endpoint| Host {
        host: endpoint.target.to_string(),
        endpoint: endpoint.kind.code(),
        place: endpoint.place.to_string(),
    });
    Some(Told {
        registry: name.to_owned(),
        file: registry.file().to_string(),
        preset: registry.preset().map(Into::into),
        clients: Clients::of(set, name),
        hosts: hosts.collect(),
    })
}

impl Told {
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
        writeln!(out, "  clients:   {}", self.clients)?;
        for Host { host, endpoint, place } in &self.hosts {
            writeln!(out, "  host:      {host} ({endpoint}), {place}")?;
        }
        crate::cli::output::print(&out)
    }
}
