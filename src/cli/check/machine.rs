//! Checks the configuration against this machine: its addresses, and whether the audit can be
//! written. The results are warnings, because a configuration can be checked on another machine.

use std::fs::{self, OpenOptions};
use std::io;
use std::net::{IpAddr, TcpListener};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use rustix::fs::{Access, access};

use crate::config::{AdminAddress, AuditTarget, Settings};

/// Returns warnings about addresses and the audit, as the current user. Creates and changes nothing.
pub(super) fn warnings(settings: &Settings) -> Vec<String> {
    let mut addresses: Vec<IpAddr> =
        settings.listeners.iter().map(|listener| listener.address.ip()).collect();
    if let Some(answerer) = &settings.answerer {
        addresses.extend(answerer.addresses.iter().map(std::net::SocketAddr::ip));
    }
    if let Some(AdminAddress::Tcp(address)) = &settings.admin {
        addresses.push(address.ip());
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses.into_iter().filter_map(absent).chain(audit(&settings.audit)).collect()
}

/// Binds port 0, because a running gate holds the configured port.
fn absent(address: IpAddr) -> Option<String> {
    match TcpListener::bind((address, 0)) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Some(format!(
            "this machine does not have the address {address}, so the gate cannot listen on it; \
             `ip address` lists the addresses of this machine"
        )),
        _ => None,
    }
}

fn audit(target: &AuditTarget) -> Option<String> {
    let (path, error) = match target {
        AuditTarget::StandardOutput => return None,
        AuditTarget::File(path) => (path, file(path).err()?),
        AuditTarget::Syslog(path) | AuditTarget::Journal(path) => (path, socket(path).err()?),
    };
    let path = path.display();
    Some(format!(
        "the audit cannot be written to {path}: {error}; the gate will not start. Create the \
         folder and give it to the gate's user, or change [audit] path"
    ))
}

/// Checks that the file can be appended to or, if it does not exist, created.
fn file(path: &Path) -> io::Result<()> {
    match OpenOptions::new().append(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            Ok(access(folder.unwrap_or(Path::new(".")), Access::WRITE_OK | Access::EXEC_OK)?)
        }
        opened => opened.map(drop),
    }
}

fn socket(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.file_type().is_socket() {
        return Ok(());
    }
    Err(io::Error::other("it is not a socket"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_that_cannot_be_written_is_named_and_nothing_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert_eq!(audit(&AuditTarget::File(at("audit.jsonl"))), None);
        assert!(!at("audit.jsonl").exists(), "a check makes no file");
        fs::write(at("audit.jsonl"), "").unwrap();
        assert_eq!(audit(&AuditTarget::File(at("audit.jsonl"))), None);
        for target in [
            AuditTarget::File(at("absent/audit.jsonl")),
            AuditTarget::File(folder.path().to_owned()),
            AuditTarget::Syslog(at("absent")),
            AuditTarget::Journal(at("audit.jsonl")),
        ] {
            let warning = audit(&target).unwrap_or_default();
            assert!(warning.contains("the audit cannot be written to"), "{target:?}: {warning}");
        }
    }

    #[test]
    fn an_address_of_another_machine_is_named() {
        assert_eq!(absent("127.0.0.1".parse().unwrap()), None);
        assert_eq!(absent("0.0.0.0".parse().unwrap()), None);
        let warning = absent("192.0.2.77".parse().unwrap()).unwrap_or_default();
        assert!(warning.contains("192.0.2.77"), "{warning}");
    }
}
