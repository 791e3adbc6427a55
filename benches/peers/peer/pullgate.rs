//! pullgate as built by `cargo bench`, with its audit and metrics enabled as always.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::{Kind, Place};
use crate::process::Daemon;
use crate::wire::{DATA, LOGIN};

/// The program of this build.
const BUILT: &str = env!("CARGO_BIN_EXE_pullgate");

/// Returns the program of a kind.
fn program(kind: Kind, place: &Place<'_>) -> PathBuf {
    let built = Path::new(BUILT);
    if kind.is_other() { place.other.unwrap_or(built) } else { built }.to_owned()
}

pub fn start(kind: Kind, place: &Place<'_>) -> anyhow::Result<Daemon> {
    let mode = if kind == Kind::Transparent { "transparent" } else { "connect" };
    let (more, registry) = match kind {
        Kind::Unbatched => ("[relay]\nbatch-ms = 0", String::new()),
        Kind::Verifying => ("[policy]\nverify-upstream = true", ca(place)?),
        _ => ("", String::new()),
    };
    let gate = Gate { mode, more, registry: &registry, ..Gate::new(place) };
    launch(&program(kind, place), place, &gate)
}

/// A gate with TLS to its clients, with the files of its own certificate and key.
pub fn start_with_tls(
    kind: Kind,
    place: &Place<'_>,
    files: &(PathBuf, PathBuf),
) -> anyhow::Result<Daemon> {
    let gate = Gate { tls: &tls_line(files), ..Gate::new(place) };
    launch(&program(kind, place), place, &gate)
}

/// The line of a listener for TLS.
fn tls_line((certificate, key): &(PathBuf, PathBuf)) -> String {
    let (certificate, key) = (certificate.display(), key.display());
    format!("tls = {{ certificate = \"{certificate}\", key = \"{key}\" }}")
}

/// The mirror of a registry, with the files of its own certificate and key.
pub fn start_mirror(place: &Place<'_>, files: &(PathBuf, PathBuf)) -> anyhow::Result<Daemon> {
    let tls = tls_line(files);
    let registry = format!("{}[mirror]\ndefault = true\nblobs = \"relay\"\n", ca(place)?);
    let gate = Gate { mode: "mirror", tls: &tls, registry: &registry, ..Gate::new(place) };
    launch(Path::new(BUILT), place, &gate)
}

/// A gate that inspects the login server. Returns the certificate of its authority as well.
pub fn start_inspecting(place: &Place<'_>) -> anyhow::Result<(Daemon, Vec<u8>)> {
    let (certificate, key) = (place.folder.join("ca.pem"), place.folder.join("ca.key"));
    let more = format!(
        "[inspect]\nca = {{ certificate = \"{}\", key = \"{}\" }}",
        certificate.display(),
        key.display()
    );
    let registry = format!("{}[inspect]\nhosts = \"login\"\n", ca(place)?);
    let gate = Gate { more: &more, registry: &registry, ..Gate::new(place) };
    let file = configure(place, &gate)?;
    let made = Command::new(BUILT).args(["ca", "create", "--config"]).arg(&file).output()?;
    anyhow::ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let authority = CertificateDer::from_pem_file(&certificate)?;
    Ok((launch(Path::new(BUILT), place, &gate)?, authority.to_vec()))
}

/// The second gate, behind the measured one: its parent, or what it takes for the origin. `files`: its
/// certificate and key, if it speaks TLS.
pub fn start_second(
    kind: Kind,
    place: &Place<'_>,
    at: SocketAddr,
    files: Option<&(PathBuf, PathBuf)>,
) -> anyhow::Result<Daemon> {
    let mode = if kind == Kind::BeforeGate { "transparent" } else { "connect" };
    let folder = place.folder.join("second");
    let tls = files.map(tls_line).unwrap_or_default();
    let gate = Gate { folder: &folder, mode, address: at, tls: &tls, ..Gate::new(place) };
    launch(Path::new(BUILT), place, &gate)
}

/// The gate that reaches its registries through the second one. `certificate`: that of the second one,
/// if it speaks TLS.
pub fn start_before(
    kind: Kind,
    place: &Place<'_>,
    second: SocketAddr,
    certificate: Option<&Path>,
) -> anyhow::Result<Daemon> {
    if kind == Kind::BeforeGate {
        let place = Place { origin: second, ..*place };
        return launch(Path::new(BUILT), &place, &Gate::new(&place));
    }
    let tls = certificate.map(|file| format!("tls = {{ ca = \"{}\" }}", file.display()));
    let tls = tls.unwrap_or_default();
    let more = format!(
        "[policy]\nparent = \"next\"\n[[parent]]\nname = \"next\"\naddresses = [\"{second}\"]\n\
         connect = \"name\"\n{tls}"
    );
    launch(&program(kind, place), place, &Gate { more: &more, ..Gate::new(place) })
}

/// The line of a registry's file by which the gate trusts the origin.
fn ca(place: &Place<'_>) -> std::io::Result<String> {
    Ok(format!("ca = \"{}\"\n", place.write_certificate()?.display()))
}

/// One gate: where its files are, and where it listens.
struct Gate<'a> {
    folder: &'a Path,
    mode: &'a str,
    address: SocketAddr,
    /// The line of the listener for TLS.
    tls: &'a str,
    /// Further tables.
    more: &'a str,
    /// Further lines of the registry's file.
    registry: &'a str,
}

impl<'a> Gate<'a> {
    /// A gate with CONNECT.
    fn new(place: &Place<'a>) -> Self {
        let (folder, address) = (place.folder, place.address);
        Self { folder, mode: "connect", address, tls: "", more: "", registry: "" }
    }
}

fn launch(program: &Path, place: &Place<'_>, gate: &Gate<'_>) -> anyhow::Result<Daemon> {
    let file = configure(place, gate)?;
    let mut command = Command::new(program);
    let command = command.arg("run").arg("--config").arg(file).env_clear();
    Daemon::start(command, &gate.folder.join("log"))?.accepting(gate.address)
}

/// Writes its files. Returns the path of the main one.
fn configure(place: &Place<'_>, gate: &Gate<'_>) -> anyhow::Result<PathBuf> {
    let Place { origin, tunnels, .. } = place;
    let Gate { folder, mode, address, tls, more, registry } = gate;
    let text = format!(
        r#"[[listen]]
mode = "{mode}"
address = "{address}"
{tls}
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
    let registry = format!("login-server = \"{LOGIN}\"\ndata-endpoints = [\"{DATA}\"]\n{registry}");
    fs::create_dir_all(folder.join("registries.d"))?;
    fs::write(folder.join("registries.d/contoso.toml"), registry)?;
    let file = folder.join("pullgate.toml");
    fs::write(&file, text)?;
    Ok(file)
}

pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}
