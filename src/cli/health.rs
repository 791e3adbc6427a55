//! `pullgate health`: reports by its exit code whether the gate on this machine accepts sessions.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;

use super::config_argument::ConfigArgument;
use super::output;
use crate::config::{self, AdminAddress};
use crate::reload;
use crate::tools::health;

/// Ask the gate on this machine whether it accepts sessions: exit code 0 if it does, 1 if not.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The admin listener: an address and port, or unix:PATH. Default: [admin] address of the
    /// configuration.
    #[arg(long, value_name = "ADDRESS", value_parser = admin_address)]
    admin: Option<AdminAddress>,
    /// Ask /healthz, which also succeeds while the gate drains. Use it for liveness probes.
    #[arg(long)]
    live: bool,
    /// Timeout for the whole request.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 2_000,
          value_parser = clap::value_parser!(u64).range(1..=60_000))]
    timeout_ms: u64,
    #[command(flatten)]
    config: ConfigArgument,
}

/// Maximum size of a response, in bytes.
const LARGEST: usize = 64 << 10;

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let address = match &args.admin {
        Some(address) => address.clone(),
        None => configured(args)?,
    };
    let page = if args.live { "/healthz" } else { "/readyz" };
    match health::ask(&address, page, Duration::from_millis(args.timeout_ms), LARGEST) {
        Ok(health) => {
            output::print(&health.text)?;
            Ok(if health.well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Err(error) => bail!("no gate answers at the admin address {address}: {error}"),
    }
}

/// Returns the address in the main file. Does not read the registry files, because an error in them
/// does not make a running gate unhealthy.
fn configured(args: &Args) -> anyhow::Result<AdminAddress> {
    let path = args.config.path();
    let named = config::named_by(&reload::read_main(&path)).map_err(|faults| {
        let first = faults.first().map(ToString::to_string).unwrap_or_default();
        anyhow::anyhow!("{first}; or name the admin listener with --admin")
    })?;
    match named.admin {
        Some(address) => Ok(address),
        None => bail!(
            "{} has no [admin] address to ask: add [admin] address = \"127.0.0.1:9128\"",
            path.display()
        ),
    }
}

/// Parses the value of `--admin`.
pub(super) fn admin_address(text: &str) -> Result<AdminAddress, String> {
    match text.strip_prefix("unix:") {
        Some("") => Err("the Unix socket has no path: write unix:/run/pullgate/admin.sock".into()),
        Some(path) => Ok(AdminAddress::Unix(path.into())),
        None => text.parse::<SocketAddr>().map(AdminAddress::Tcp).map_err(|_| {
            "expected an address and port such as 127.0.0.1:9128, or unix:PATH".into()
        }),
    }
}
