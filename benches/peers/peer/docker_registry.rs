//! docker-registry as a pull-through cache. Unlike the others it does not fetch a layer again, but it
//! asks the registry about each tag.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::place::{Place, version_of};
use crate::process::{Daemon, program};

/// Starts it with the files of its own certificate and key.
pub fn start(place: &Place<'_>, (certificate, key): &(PathBuf, PathBuf)) -> anyhow::Result<Daemon> {
    let Place { folder, address, origin, .. } = place;
    let text = format!(
        "version: 0.1
log:
  level: error
  accesslog:
    disabled: true
storage:
  cache:
    blobdescriptor: inmemory
  filesystem:
    rootdirectory: {store}
http:
  addr: {address}
  tls:
    certificate: {certificate}
    key: {key}
proxy:
  remoteurl: https://{origin}
",
        store = folder.join("store").display(),
        certificate = certificate.display(),
        key = key.display(),
    );
    let file = folder.join("registry.yml");
    fs::write(&file, text)?;
    let mut command = Command::new(program("docker-registry").unwrap_or_default());
    command.arg("serve").arg(file).env("SSL_CERT_FILE", place.write_certificate()?);
    Daemon::start(&mut command, &folder.join("log"))?.accepting(*address)
}

pub fn version() -> String {
    version_of("docker-registry", "--version")
}
