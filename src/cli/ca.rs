//! `pullgate ca`: the authority of `[inspect]`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::config_argument::ConfigArgument;
use super::output;
use crate::config::{self, AuthorityFacts, AuthorityPaths};
use crate::inspect::authority;
use crate::policy::Name;
use crate::reload;

/// Make, renew and show the authority that signs certificates for inspected tunnels.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make an authority that permits exactly the inspected hosts. It is valid for 90 days.
    Create(ConfigArgument),
    /// Make a new certificate for the authority's key, for the hosts that are inspected now. The old
    /// one stays valid until it expires.
    Renew(ConfigArgument),
    /// Print fingerprint, permitted hosts and expiry of the authority's certificates.
    Show(ConfigArgument),
}

/// Days before the expiry in which a renewal is due.
const DUE: i64 = 14;
const DAY: i64 = 24 * 60 * 60;

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (Command::Create(config) | Command::Renew(config) | Command::Show(config)) = &args.command;
    let inspected = reload::read_files(&config.path()).and_then(|files| config::inspected(&files));
    let (paths, names) = match inspected {
        Ok(inspected) => inspected,
        Err(faults) => {
            output::print_faults(&faults);
            return Ok(ExitCode::FAILURE);
        }
    };
    match &args.command {
        Command::Create(_) => create(&paths, &names)?,
        Command::Renew(_) => renew(&paths, &names)?,
        Command::Show(_) => {}
    }
    show(&paths, &names)
}

fn create(paths: &AuthorityPaths, names: &BTreeSet<Name>) -> anyhow::Result<()> {
    for path in [&paths.certificate, &paths.key] {
        if path.exists() {
            bail!("{} exists: use pullgate ca renew, or remove it", path.display());
        }
    }
    let made = authority::create(names, SystemTime::now())?;
    write(&paths.key, &made.key, 0o600)?;
    write(&paths.certificate, &made.certificate, 0o644)
}

fn renew(paths: &AuthorityPaths, names: &BTreeSet<Name>) -> anyhow::Result<()> {
    let reading = |path: &PathBuf| format!("{}: it cannot be read", path.display());
    let key = fs::read_to_string(&paths.key).with_context(|| reading(&paths.key))?;
    let old = fs::read(&paths.certificate).with_context(|| reading(&paths.certificate))?;
    let mut all = authority::renew(names, &key, SystemTime::now())
        .with_context(|| format!("{}: it is not usable", paths.key.display()))?;
    // Clients that have an older certificate trust the same key by it, until it expires.
    let now = now();
    for certificate in certificates(&old)? {
        if AuthorityFacts::read(&certificate).is_some_and(|facts| facts.validity.1 > now) {
            all.push_str(&pem(&certificate));
        }
    }
    let fresh = paths.certificate.with_extension("new");
    let _ = fs::remove_file(&fresh);
    write(&fresh, &all, 0o644)?;
    fs::rename(&fresh, &paths.certificate)
        .with_context(|| format!("{}: it cannot be replaced", paths.certificate.display()))
}

/// Writes a file that does not exist yet.
fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let writing = || format!("{}: it cannot be written", path.display());
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).with_context(writing)?;
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = file.with_context(writing)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).with_context(writing)
}

/// Prints the certificates, the one in use first. Fails if it does not serve.
fn show(paths: &AuthorityPaths, names: &BTreeSet<Name>) -> anyhow::Result<ExitCode> {
    let path = paths.certificate.display();
    let bytes = fs::read(&paths.certificate).with_context(|| {
        format!("{path}: it cannot be read; make an authority with pullgate ca create")
    })?;
    let mut out = String::new();
    let mut serves = false;
    let wanted: BTreeSet<String> = names.iter().map(|name| name.as_str().to_owned()).collect();
    for (number, certificate) in certificates(&bytes)?.iter().enumerate() {
        let Some(facts) = AuthorityFacts::read(certificate) else {
            bail!("{path}: a certificate in it is broken");
        };
        let left = facts.validity.1.saturating_sub(now());
        let days = left / DAY;
        let permitted = facts.permitted.unwrap_or_default();
        let is_first = number == 0;
        let role = if is_first { "in use" } else { "older, for clients that still trust it" };
        writeln!(out, "{path}: {role}")?;
        writeln!(out, "  fingerprint: {}", fingerprint(certificate))?;
        let hosts = permitted.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        writeln!(out, "  permits:     {hosts}")?;
        match left {
            ..0 => writeln!(out, "  expired:     {} days ago; run pullgate ca renew", -days)?,
            _ if is_first && days < DUE => {
                writeln!(out, "  expires:     in {days} days; run pullgate ca renew")?;
            }
            _ => writeln!(out, "  expires:     in {days} days")?,
        }
        if is_first {
            serves = left >= 0 && permitted == wanted;
            if permitted != wanted {
                let wanted = wanted.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
                writeln!(out, "  inspected:   {wanted}; run pullgate ca renew")?;
            }
        }
    }
    output::print(&out)?;
    Ok(if serves { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn certificates(bytes: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    all.context("the authority's certificate is not PEM")
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let digest = digest(&SHA256, certificate);
    digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
