//! HAProxy 2: an allow-list by SNI, because it is not a forward proxy; and, to compare the cost of
//! rejections with a reason, a configuration that answers CONNECT with 403.

use std::fs;
use std::process::Command;

use super::Kind;
use super::place::{Place, version_of};
use crate::process::{Daemon, program};
use crate::wire::{DATA, LOGIN};

pub fn start(kind: Kind, place: &Place<'_>) -> anyhow::Result<Daemon> {
    let Place { folder, address, origin, tunnels, .. } = place;
    let (mode, global, options, judgement) = match kind {
        Kind::HaproxyConnect => ("http", "", "", by_authority(origin.port())),
        Kind::HaproxySplice => {
            let forced = "option splice-request\n    option splice-response";
            ("tcp", "tune.pipesize 1048576", forced, by_name())
        }
        _ => ("tcp", "", "option splice-auto", by_name()),
    };
    let text = format!(
        "global
    maxconn {tunnels}
    maxpipes 256
    {global}
defaults
    mode {mode}
    timeout connect 5s
    timeout client 600s
    timeout server 600s
    {options}
frontend gate
    bind {address}
    {judgement}
    default_backend origin
backend origin
    server origin {origin}
"
    );
    let file = folder.join("haproxy.cfg");
    fs::write(&file, text)?;
    let mut command = Command::new(program("haproxy").unwrap_or_default());
    // -db: in the foreground, one process.
    Daemon::start(command.arg("-db").arg("-f").arg(file), &folder.join("log"))?.accepting(*address)
}

fn by_name() -> String {
    format!(
        "tcp-request inspect-delay 5s
    acl allowed req.ssl_sni -i {LOGIN} {DATA}
    tcp-request content reject if {{ req.ssl_hello_type 1 }} !allowed
    tcp-request content accept if {{ req.ssl_hello_type 1 }}"
    )
}

fn by_authority(port: u16) -> String {
    format!(
        "acl allowed req.hdr(host) -i {LOGIN}:{port} {DATA}:{port}
    http-request deny unless METH_CONNECT allowed"
    )
}

pub fn version() -> String {
    version_of("haproxy", "-v")
}
