//! pullgate as built by `cargo bench`, with its audit and metrics enabled as always.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Kind, Place};
use crate::process::Daemon;
use crate::wire::{DATA, LOGIN};

pub fn start(kind: Kind, place: &Place<'_>) -> anyhow::Result<Daemon> {
    let mode = if kind == Kind::Transparent { "transparent" } else { "connect" };
    let more = match kind {
        Kind::Unbatched => "[relay]\nbatch-ms = 0",
        Kind::Verifying => "[policy]\nverify-upstream = true",
        _ => "",
    };
    let built = Path::new(env!("CARGO_BIN_EXE_pullgate"));
    let program = if kind == Kind::Other { place.other.unwrap_or(built) } else { built };
    launch(program, place, &Gate { folder: place.folder, mode, address: place.address, more })
}

/// The gate that is the parent of the measured one.
pub fn start_parent(place: &Place<'_>, at: SocketAddr) -> anyhow::Result<Daemon> {
    let folder = place.folder.join("parent");
    let built = Path::new(env!("CARGO_BIN_EXE_pullgate"));
    launch(built, place, &Gate { folder: &folder, mode: "connect", address: at, more: "" })
}

/// A gate that reaches its registries through a parent.
pub fn start_behind(place: &Place<'_>, parent: SocketAddr) -> anyhow::Result<Daemon> {
    let more = format!(
        "[policy]\nparent = \"next\"\n[[parent]]\nname = \"next\"\naddresses = [\"{parent}\"]\n\
         connect = \"name\""
    );
    let built = Path::new(env!("CARGO_BIN_EXE_pullgate"));
    let gate = Gate { folder: place.folder, mode: "connect", address: place.address, more: &more };
    launch(built, place, &gate)
}

/// One gate: where its files are, and where it listens.
struct Gate<'a> {
    folder: &'a Path,
    mode: &'a str,
    address: SocketAddr,
    /// Further tables.
    more: &'a str,
}

fn launch(program: &Path, place: &Place<'_>, gate: &Gate<'_>) -> anyhow::Result<Daemon> {
    let Place { origin, tunnels, .. } = place;
    let Gate { folder, mode, address, more } = gate;
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
{more}
"#,
        host = origin.ip(),
    );
    let mut registry = format!("login-server = \"{LOGIN}\"\ndata-endpoints = [\"{DATA}\"]\n");
    if more.contains("verify-upstream") {
        let body = STANDARD.encode(place.certificate);
        let pem = format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        fs::create_dir_all(folder)?;
        fs::write(folder.join("origin.pem"), pem)?;
        registry.push_str("ca = \"../origin.pem\"\n");
    }
    fs::create_dir_all(folder.join("registries.d"))?;
    fs::write(folder.join("registries.d/contoso.toml"), registry)?;
    let file = folder.join("pullgate.toml");
    fs::write(&file, text)?;
    let mut command = Command::new(program);
    let command = command.arg("run").arg("--config").arg(file).env_clear();
    Daemon::start(command, &folder.join("log"))?.accepting(*address)
}

pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}
