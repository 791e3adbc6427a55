//! Squid: a forward proxy; with peek it checks the name in the hello, like pullgate.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use super::Kind;
use super::place::{Place, version_of};
use crate::process::{Daemon, program};
use crate::wire::{DATA, LOGIN};

pub fn start(kind: Kind, place: &Place<'_>) -> anyhow::Result<Daemon> {
    let Place { folder, address, origin, descriptors, .. } = place;
    // Started by root, it switches to another user, who needs access to this folder.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777))?;
    let hosts = folder.join("hosts");
    fs::write(&hosts, format!("{} {LOGIN} {DATA}\n", origin.ip()))?;
    let (bump, peek) = match kind {
        Kind::SquidPeek => peeking(folder)?,
        _ => (String::new(), String::new()),
    };
    let text = format!(
        "http_port {address} {bump}
hosts_file {hosts}
acl hosts dstdomain {LOGIN} {DATA}
http_access allow hosts
http_access deny all
{peek}
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
    let made = rcgen::generate_simple_self_signed(vec!["squid.invalid".to_owned()])?;
    let certificate = folder.join("certificate.pem");
    let key = made.signing_key.serialize_pem();
    fs::write(&certificate, format!("{key}{}", made.cert.pem()))?;
    let certificate = certificate.display();
    let bump = format!("ssl-bump generate-host-certificates=off tls-cert={certificate}");
    let rules = format!(
        "acl names ssl::server_name {LOGIN} {DATA}
acl first at_step SslBump1
ssl_bump peek first
ssl_bump splice names
ssl_bump terminate all"
    );
    Ok((bump, rules))
}

pub fn version() -> String {
    version_of("squid", "-v")
}
