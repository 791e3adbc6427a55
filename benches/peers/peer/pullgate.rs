//! pullgate as built by `cargo bench`, with its audit and metrics enabled as always.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Kind, Place};
use crate::process::Daemon;
use crate::wire::{DATA, LOGIN};

pub fn start(kind: Kind, place: &Place<'_>) -> anyhow::Result<Daemon> {
    let Place { folder, address, origin, tunnels, .. } = place;
    let mode = if kind == Kind::Transparent { "transparent" } else { "connect" };
    let relay = if kind == Kind::Unbatched { "[relay]\nbatch-ms = 0" } else { "" };
    let text = format!(
        r#"[[listen]]
mode = "{mode}"
address = "{address}"
[dns.hosts]
"{LOGIN}" = ["{origin}"]
"{DATA}" = ["{origin}"]
[addresses]
allow = ["127.0.0.0/8", "{host}/32"]
[limits]
open-sessions = {tunnels}
open-sessions-per-client = {tunnels}
[audit]
path = "audit.jsonl"
{relay}
"#,
        host = origin.ip(),
    );
    let registry = format!("login-server = \"{LOGIN}\"\ndata-endpoints = [\"{DATA}\"]\n");
    fs::create_dir_all(folder.join("registries.d"))?;
    fs::write(folder.join("registries.d/contoso.toml"), registry)?;
    let file = folder.join("pullgate.toml");
    fs::write(&file, text)?;
    let built = Path::new(env!("CARGO_BIN_EXE_pullgate"));
    let program = if kind == Kind::Other { place.other.unwrap_or(built) } else { built };
    let mut command = Command::new(program);
    let command = command.arg("run").arg("--config").arg(file).env_clear();
    Daemon::start(command, &folder.join("log"))?.accepting(*address)
}

pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}
