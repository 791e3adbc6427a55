//! `pullgate kit`: prints firewall rules that block every connection that bypasses the gate, and
//! files for clients of the mirror. Both are generated from the configuration.

mod clients;

use std::process::ExitCode;

use anyhow::Context as _;

use super::config_argument::ConfigArgument;
use super::output;
use crate::config::Capture;
use crate::tools::client_files::ClientKind;
use crate::tools::nftables::{self, Cgroup, Kit, Site, Word};

/// Print firewall rules that block every connection that bypasses the gate, or files for clients.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Rules that send traffic to the gate with redirect and dnat.
    Nftables(RulesArgs),
    /// Rules that send traffic to the gate with tproxy.
    Tproxy(RulesArgs),
    /// A shell script that adds the policy routes for tproxy.
    Routes,
    /// hosts.toml of containerd, for the mirror.
    Containerd(clients::ClientsArgs),
    /// registries.conf of podman, CRI-O and skopeo, for the mirror.
    Podman(clients::ClientsArgs),
    /// How docker pulls through the mirror.
    Docker(clients::ClientsArgs),
    /// registries.yaml of k3s, for the mirror.
    K3s(clients::ClientsArgs),
    /// buildkitd.toml of BuildKit, for the mirror.
    Buildkit(clients::ClientsArgs),
    /// How the IoT Edge runtime trusts the authority of inspected registries.
    Iotedge(clients::ClientsArgs),
}

#[derive(Debug, clap::Args)]
struct RulesArgs {
    /// For a gateway: the interfaces of its clients. Without it, the rules are for this host.
    #[arg(long, value_name = "INTERFACE", value_delimiter = ',', requires = "outside")]
    inside: Vec<Word>,
    /// For a gateway: every other interface that it needs. Packets from interfaces that are not named
    /// are dropped.
    #[arg(long, value_name = "INTERFACE", value_delimiter = ',', requires = "inside")]
    outside: Vec<Word>,
    /// The user that the gate on this host runs as, by name or number.
    #[arg(long, value_name = "USER", default_value = "pullgate", conflicts_with = "inside")]
    user: Word,
    /// The cgroup that the gate on this host runs in, such as pullgate.slice: processes outside it
    /// are not the gate, whatever their user. Needs Linux 5.13 and cgroup v2.
    #[arg(long, value_name = "CGROUP", conflicts_with = "inside")]
    cgroup: Option<Cgroup>,
    #[command(flatten)]
    config: ConfigArgument,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (args, capture) = match &args.what {
        What::Nftables(args) => (args, Capture::Redirect),
        What::Tproxy(args) => (args, Capture::Tproxy),
        What::Routes => return print(&nftables::routes()),
        What::Containerd(args) => return print_files(ClientKind::Containerd, args),
        What::Podman(args) => return print_files(ClientKind::Podman, args),
        What::Docker(args) => return print_files(ClientKind::Docker, args),
        What::K3s(args) => return print_files(ClientKind::K3s, args),
        What::Buildkit(args) => return print_files(ClientKind::Buildkit, args),
        What::Iotedge(args) => return print_files(ClientKind::IotEdge, args),
    };
    let Some(loaded) = args.config.load() else { return Ok(ExitCode::FAILURE) };
    let site = match args.inside.as_slice() {
        [] => Site::Host { user: &args.user, cgroup: args.cgroup.as_ref() },
        inside => Site::Gateway { inside, outside: &args.outside },
    };
    let kit = Kit { settings: &loaded.settings, policy: &loaded.policy, capture, site };
    print(&kit.rules().with_context(|| args.config.path().display().to_string())?)
}

fn print_files(kind: ClientKind, args: &clients::ClientsArgs) -> anyhow::Result<ExitCode> {
    let Some(loaded) = args.config.load() else { return Ok(ExitCode::FAILURE) };
    let text = match loaded.authority {
        Some(_) if !clients::has_mirror(&loaded) => clients::trust(kind, args, &loaded),
        Some(_) if args.inspect => clients::trust(kind, args, &loaded),
        _ => clients::text(kind, args, &loaded),
    };
    print(&text.with_context(|| args.config.path().display().to_string())?)
}

fn print(text: &str) -> anyhow::Result<ExitCode> {
    output::print(text)?;
    Ok(ExitCode::SUCCESS)
}
