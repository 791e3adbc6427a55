//! HAProxy 2: an allow-list by SNI, because it is not a forward proxy; and, to compare the cost of
//! rejections with a reason, a configuration that answers CONNECT with 403. With TLS to its clients it
//! judges the SNI inside; with TLS to a parent proxy it judges nothing.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::Kind;
use super::place::{Place, version_of};
use crate::certificate::Certificate;
use crate::process::{Daemon, program};
use crate::wire::{DATA, LOGIN};

pub fn start(kind: Kind, place: &Place<'_>) -> anyhow::Result<Daemon> {
    let Place { origin, .. } = place;
    let (mode, global, options, judgement) = match kind {
        Kind::HaproxyConnect => ("http", "", "", by_authority(origin.port())),
        Kind::HaproxySplice => {
            let forced = "option splice-request\n    option splice-response";
            ("tcp", "tune.pipesize 1048576", forced, by_name())
        }
        _ => ("tcp", "", "option splice-auto", by_name()),
    };
    let judged = Frontend { mode, global, options, tls: "", judgement };
    launch(place, &judged, &format!("{origin}"))
}

/// Starts it with TLS to its clients.
pub fn start_with_tls(place: &Place<'_>, own: &Certificate) -> anyhow::Result<Daemon> {
    let file = place.folder.join("own.pem");
    fs::write(&file, own.bundle())?;
    let tls = format!("ssl crt {}", file.display());
    launch(place, &Frontend { tls: &tls, judgement: by_name(), ..PLAIN }, &place.origin.to_string())
}

/// Starts it before a parent proxy with this certificate, to which it speaks TLS.
pub fn start_before_parent(
    place: &Place<'_>,
    (parent, certificate): (SocketAddr, &Path),
) -> anyhow::Result<Daemon> {
    let server = format!("{parent} ssl verify required ca-file {}", certificate.display());
    launch(place, &PLAIN, &server)
}

/// What differs between the configurations.
struct Frontend<'a> {
    mode: &'a str,
    global: &'a str,
    options: &'a str,
    /// The end of its `bind` line.
    tls: &'a str,
    judgement: String,
}

const PLAIN: Frontend<'static> =
    Frontend { mode: "tcp", global: "", options: "", tls: "", judgement: String::new() };

fn launch(place: &Place<'_>, frontend: &Frontend<'_>, server: &str) -> anyhow::Result<Daemon> {
    let Place { folder, address, tunnels, .. } = place;
    let Frontend { mode, global, options, tls, judgement } = frontend;
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
    bind {address} {tls}
    {judgement}
    default_backend origin
backend origin
    server origin {server}
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
