//! `pullgate kit containerd` and others: the files that configure clients to pull through the mirror.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};

use crate::cli::config_argument::ConfigArgument;
use crate::config::{Loaded, Mode};
use crate::tools::client_files::{self, ClientKind, MirrorAddress, Offered, files};

#[derive(Debug, clap::Args)]
pub(super) struct ClientsArgs {
    /// Only this registry: the name of its file without the ending.
    #[arg(long, value_name = "NAME")]
    registry: Option<String>,
    /// How clients reach the gate: a name in its certificate, and a port if it differs from the
    /// listener's. Default: the address of the first mirror listener.
    #[arg(long, value_name = "HOST[:PORT]")]
    gate: Option<String>,
    /// The authority of inspected registries, where the configuration has a mirror, too.
    #[arg(long)]
    pub(super) inspect: bool,
    #[command(flatten)]
    pub(super) config: ConfigArgument,
}

/// Returns the files for a kind of client.
pub(super) fn text(
    kind: ClientKind,
    args: &ClientsArgs,
    loaded: &Loaded,
) -> anyhow::Result<String> {
    let mut listeners = loaded.settings.listeners.iter();
    let Some(listener) = listeners.find(|one| one.mode == Mode::Mirror) else {
        bail!("the configuration has no mirror listener: add a [[listen]] with mode = \"mirror\"");
    };
    let scheme = if listener.tls.is_some() { "https" } else { "http" };
    let authority = authority(args.gate.as_deref(), listener.address);
    let is_asked = |name: &str| args.registry.as_deref().is_none_or(|asked| asked == name);
    let registries = loaded.policy.rules().registries.iter();
    let offered: Vec<Offered> = registries
        .filter(|registry| is_asked(registry.name()))
        .filter_map(|registry| registry.mirror())
        .map(|mirror| Offered {
            names: mirror.names().map(ToString::to_string).collect(),
            is_default: mirror.is_default(),
        })
        .collect();
    if offered.is_empty() {
        match &args.registry {
            Some(name) => bail!("the registry {name:?} does not exist or has no [mirror]"),
            None => bail!("no registry has a [mirror]"),
        }
    }
    Ok(files(kind, &MirrorAddress { authority, scheme }, &offered))
}

/// Returns whether clients can use a mirror.
pub(super) fn has_mirror(loaded: &Loaded) -> bool {
    loaded.settings.listeners.iter().any(|one| one.mode == Mode::Mirror)
}

/// Returns the script that makes a kind of client trust the authority for inspected registries.
pub(super) fn trust(
    kind: ClientKind,
    args: &ClientsArgs,
    loaded: &Loaded,
) -> anyhow::Result<String> {
    let is_asked = |name: &str| args.registry.as_deref().is_none_or(|asked| asked == name);
    let registries = loaded.policy.rules().registries.iter();
    let hosts: Vec<String> = registries
        .filter(|registry| is_asked(registry.name()))
        .filter_map(|registry| registry.inspect())
        .flat_map(|inspect| inspect.hosts_of_clients())
        .collect();
    if hosts.is_empty() {
        bail!("the registry does not exist or has no [inspect]");
    }
    let Some(path) = loaded.authority.as_ref().map(|authority| authority.expiry().path) else {
        bail!("the configuration has no [inspect] ca");
    };
    let pem = std::fs::read_to_string(&path);
    let pem = pem.with_context(|| format!("{}: it cannot be read", path.display()))?;
    Ok(client_files::trust(kind, &hosts, &pem))
}

fn authority(gate: Option<&str>, address: SocketAddr) -> String {
    match gate {
        Some(gate) if gate.contains(':') => gate.to_owned(),
        Some(gate) => format!("{gate}:{}", address.port()),
        None => address.to_string(),
    }
}
