//! Squid: a forward proxy; with peek it checks the name in the hello, like pullgate.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use super::Kind;
use super::place::{Place, version_of};
use crate::certificate::Certificate;
use crate::process::{Daemon, program};
use crate::wire::{DATA, LOGIN};

/// The program that signs certificates for Squid.
const SIGNER: &str = "/usr/lib/squid/security_file_certgen";

pub fn start(kind: Kind, place: &Place<'_>) -> anyhow::Result<Daemon> {
    match kind {
        Kind::SquidPeek => launch(place, &peeking(place.folder)?),
        _ => launch(place, &(String::new(), String::new())),
    }
}

/// A Squid that decrypts the tunnels to the login server, with certificates that `authority` signs.
pub fn start_decrypting(place: &Place<'_>, authority: &Certificate) -> anyhow::Result<Daemon> {
    launch(place, &decrypting(place, authority)?)
}

/// Starts it with these words for its port, and these rules.
fn launch(place: &Place<'_>, (bump, rules): &(String, String)) -> anyhow::Result<Daemon> {
    let Place { folder, address, origin, descriptors, .. } = place;
    // Started by root, it switches to another user, who needs access to this folder.
    open_to_all(folder)?;
    let hosts = folder.join("hosts");
    fs::write(&hosts, format!("{} {LOGIN} {DATA}\n", origin.ip()))?;
    let text = format!(
        "http_port {address} {bump}
hosts_file {hosts}
acl hosts dstdomain {LOGIN} {DATA}
http_access allow hosts
http_access deny all
{rules}
access_log none
cache_log {log}
cache deny all
cache_mem 8 MB
pid_filename none
pinger_enable off
max_filedescriptors {descriptors}
coredump_dir {folder}
shutdown_lifetime 0 seconds
visible_hostname squid.invalid
",
        hosts = hosts.display(),
        log = folder.join("cache.log").display(),
        folder = folder.display(),
    );
    let file = folder.join("squid.conf");
    fs::write(&file, text)?;
    let mut command = Command::new(program("squid").unwrap_or_default());
    let log = folder.join("log");
    // Shared memory is named after the service, and a Squid that was killed leaves it behind, where
    // the next one of that name does not start.
    let service = format!("bench{}", address.port());
    let command = command.args(["-N", "-d", "1", "-n", &service, "-f"]).arg(file);
    let started = Daemon::start(command, &log)?.accepting(*address);
    // Squid has its memory mapped by now; nobody else opens it by name.
    for part in ["metadata", "queues", "readers"] {
        let _ = fs::remove_file(format!("/dev/shm/{service}-cf__{part}.shm"));
    }
    started
}

/// Returns the words for its port, and the rules, with which it reads the SNI and splices.
fn peeking(folder: &Path) -> anyhow::Result<(String, String)> {
    let (certificate, key) = Certificate::of_authority()?.write(folder)?;
    let bump = format!(
        "ssl-bump generate-host-certificates=off tls-cert={} tls-key={}",
        certificate.display(),
        key.display()
    );
    let rules = format!(
        "acl names ssl::server_name {LOGIN} {DATA}
acl first at_step SslBump1
ssl_bump peek first
ssl_bump splice names
ssl_bump terminate all"
    );
    Ok((bump, rules))
}

/// Returns the same, with which it decrypts the tunnels to the login server.
fn decrypting(place: &Place<'_>, authority: &Certificate) -> anyhow::Result<(String, String)> {
    let store = place.folder.join("signed");
    let made = Command::new(SIGNER).arg("-c").arg("-s").arg(&store).args(["-M", "4MB"]).output()?;
    anyhow::ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for path in ["", "certs", "index.txt", "size"].map(|name| store.join(name)) {
        open_to_all(&path)?;
    }
    let (certificate, key) = authority.write(place.folder)?;
    let bump = format!(
        "ssl-bump generate-host-certificates=on dynamic_cert_mem_cache_size=4MB tls-cert={} \
         tls-key={}",
        certificate.display(),
        key.display()
    );
    let rules = format!(
        "sslcrtd_program {SIGNER} -s {store} -M 4MB
tls_outgoing_options cafile={trusted}
acl login ssl::server_name {LOGIN}
acl data ssl::server_name {DATA}
acl first at_step SslBump1
ssl_bump peek first
ssl_bump bump login
ssl_bump splice data
ssl_bump terminate all",
        store = store.display(),
        trusted = place.write_certificate()?.display(),
    );
    Ok((bump, rules))
}

fn open_to_all(path: &Path) -> std::io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o777))
}

pub fn version() -> String {
    version_of("squid", "-v")
}
