//! `pullgate check`: prints every error in the configuration, or a summary of it.

mod machine;

use std::fmt::Write as _;
use std::process::ExitCode;

use super::config_argument::ConfigArgument;
use super::output;
use crate::config::{AdminAddress, AnswerWith, ListenerSpec, Loaded, Presence};
use crate::oci::Listing;
use crate::policy::{
    BlobHosts, Blobs, Enforcement, Inspect, Mirror, Name, Parent, Registry, Route,
};
use crate::reload;

/// Check the configuration. Report every error in every file, with file and line.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArgument,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Some(loaded) = args.config.load() else { return Ok(ExitCode::FAILURE) };
    output::print(&summary(&loaded)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the summary of a valid configuration, with its warnings.
fn summary(loaded: &Loaded) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    for warning in &loaded.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    let expiring = reload::expiry_warnings(loaded);
    for warning in expiring.into_iter().chain(machine::warnings(&loaded.settings)) {
        writeln!(out, "warning: {warning}")?;
    }
    let rules = loaded.policy.rules();
    for listener in &loaded.settings.listeners {
        let ListenerSpec { mode, address, enforcement, balancers, tls, .. } = &**listener;
        let reports = match enforcement.unwrap_or(rules.enforcement) {
            Enforcement::Enforce => "",
            Enforcement::Report => ", report mode: denials are only recorded",
        };
        let proxied = if balancers.is_some() { ", PROXY protocol" } else { "" };
        let clients = tls.as_ref().and_then(|tls| tls.clients.as_ref());
        let tls = match (tls, clients.map(|clients| clients.presence)) {
            (None, _) => "",
            (Some(_), None) => ", TLS",
            (Some(_), Some(Presence::Required)) => ", TLS with client certificates",
            (Some(_), Some(Presence::Optional)) => ", TLS with or without client certificates",
        };
        writeln!(out, "listens on {address} ({}{tls}{proxied}{reports})", mode.code())?;
    }
    if let Some(answerer) = &loaded.settings.answerer {
        let answers = match &answerer.answer {
            AnswerWith::Gate(addresses) => listed(addresses),
            AnswerWith::Real => "real addresses".to_owned(),
        };
        writeln!(out, "answers DNS on {} ({answers})", listed(&answerer.addresses))?;
    }
    match &loaded.settings.admin {
        Some(AdminAddress::Tcp(address)) => writeln!(out, "admin on {address}")?,
        Some(AdminAddress::Unix(path)) => writeln!(out, "admin on {}", path.display())?,
        None => {}
    }
    for parent in &rules.parents {
        writeln!(out, "parent {}", described(parent))?;
    }
    let registries = &rules.registries;
    for (registry, route) in loaded.policy.routes().take(MOST_TOLD) {
        let hosts = counted(registry.endpoints().len(), "host", "hosts");
        let how = origin_and_route(registry, route);
        writeln!(out, "{}: {hosts}, {}{how}", registry.name(), registry.file())?;
        let mirror = registry.mirror().map(|mirror| format!("  mirror: {}\n", mirrored(mirror)));
        let inspect = registry.inspect().map(|one| format!("  inspect: {}\n", inspected(one)));
        out.extend(mirror.into_iter().chain(inspect));
    }
    if let Some(more) = registries.len().checked_sub(MOST_TOLD).filter(|more| *more > 0) {
        writeln!(out, "and {more} more")?;
    }
    let hosts = registries.iter().map(|registry| registry.endpoints().len()).sum();
    let hosts = counted(hosts, "host", "hosts");
    let number = counted(registries.len(), "registry", "registries");
    writeln!(out, "ok: {number}, {hosts}, no errors")?;
    Ok(out)
}

/// The preset that a registry uses, and the parent through which it is reached.
fn origin_and_route(registry: &Registry, route: &Route) -> String {
    let preset = registry.preset().map(|one| format!(", preset {} of {}", one.name, one.date));
    let through = route.parent().map(|parent| format!(", through parent {}", parent.name));
    preset.unwrap_or_default() + &through.unwrap_or_default()
}

/// Where a parent is, and what it is asked for.
fn described(parent: &Parent) -> String {
    let tls = if parent.tls.is_some() { ", TLS" } else { "" };
    let (name, connect) = (&parent.name, parent.connect.code());
    format!("{name}: {} (connects by {connect}{tls})", listed(&parent.addresses))
}

/// What a mirror offers of a registry.
fn mirrored(mirror: &Mirror) -> String {
    let rules = mirror.rules();
    let all = |globs: Option<String>| globs.unwrap_or_else(|| "all".to_owned());
    let blobs = match mirror.blobs() {
        Blobs::Redirect => "redirected",
        Blobs::Relay(BlobHosts::Listed(_)) => "relayed",
        Blobs::Relay(BlobHosts::Announced) => "relayed from any host that the registry names",
    };
    let default = if mirror.is_default() { ", the default" } else { "" };
    format!(
        "as {}{default}; repositories: {}; tags: {}; listing: {}; blobs {blobs}",
        listed(&mirror.names().collect::<Vec<_>>()),
        all(rules.pull.as_ref().map(ToString::to_string)),
        all(rules.tags.as_ref().map(ToString::to_string)),
        if rules.listing == Listing::Allowed { "allowed" } else { "refused" },
    )
}

/// What is allowed in the inspected tunnels of a registry.
fn inspected(inspect: &Inspect) -> String {
    let rules = inspect.rules();
    let all = |globs: Option<String>| globs.unwrap_or_else(|| "all".to_owned());
    let names: Vec<_> = inspect.names().map(Name::as_str).collect();
    let push = if rules.push.is_empty() { "nothing".to_owned() } else { rules.push.to_string() };
    format!(
        "{}; pull: {}; push: {push}; tags: {}; listing: {}",
        names.join(", "),
        all(rules.pull.as_ref().map(ToString::to_string)),
        all(rules.tags.as_ref().map(ToString::to_string)),
        if rules.listing == Listing::Allowed { "allowed" } else { "refused" },
    )
}

/// At most this many registries are listed.
const MOST_TOLD: usize = 100;

fn listed(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn counted(number: usize, one: &str, many: &str) -> String {
    let noun = if number == 1 { one } else { many };
    format!("{number} {noun}")
}
