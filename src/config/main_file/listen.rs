//! `[[listen]]` and `[admin]`: the listeners for clients and for the operator.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::settings::{AdminAddress, Capture, ListenerSpec, Mode};
use crate::config::source::Source;
use crate::config::table::Table;
use crate::config::tls::{self, TlsPaths};
use crate::config::values::{beside, enforcement};
use crate::policy::{Located, parse_range};

const WRITE_MODE: &str = "write mode = \"connect\", mode = \"transparent\" or mode = \"mirror\"";
const WRITE_ADDRESS: &str = "write it as \"127.0.0.1:3128\" or \"[::1]:3128\"";

pub(super) fn listeners(
    source: &Source<'_>,
    file: &mut Table<'_>,
    taken: &mut HashSet<SocketAddr>,
) -> (Vec<Arc<ListenerSpec>>, Vec<Located<TlsPaths>>) {
    let tables = file.tables("listen", "[[listen]]");
    if tables.is_empty() && !file.has("listen") {
        let remedy = "write [[listen]] with mode = \"connect\" and address = \"127.0.0.1:3128\"";
        source.missing(&source.whole(), "no [[listen]] is configured", remedy);
    }
    let mut of_tls = Vec::new();
    let listener = |mut table: Table<'_>| {
        let word = mode(source, &mut table);
        let address = table.string("address");
        if address.is_none() && !table.has("address") {
            let remedy = "write address = \"127.0.0.1:3128\"";
            source.missing(table.place(), "a [[listen]] has no address", remedy);
        }
        let capture = capture(source, &mut table, word);
        let enforcement = enforcement(source, &mut table);
        let balancers = balancers(source, &mut table);
        let tls = table.table("tls", "tls");
        let tls = tls.and_then(|tls| tls::read(source, tls, |path| beside(source, path)));
        let place = table.place().clone();
        table.finish();
        if let (Some(ModeWord::Transparent), Some(tls)) = (word, &tls) {
            let what = "tls is for connect listeners: redirected clients use TLS with the registry";
            source.fault(tls.place.clone(), what, "remove it");
        }
        of_tls.extend(tls.clone());
        let address = socket_address(source, &address?, taken)?;
        if word.is_some_and(|word| matches!(word, ModeWord::Mirror))
            && tls.is_none()
            && !address.ip().to_canonical().is_loopback()
        {
            let what = "a mirror that is not on loopback needs tls";
            let remedy = "write tls = { certificate = \"tls/gate.pem\", key = \"tls/gate.key\" }";
            source.missing(&place, what, remedy);
        }
        let mode = match word? {
            ModeWord::Connect => Mode::Connect,
            ModeWord::Transparent => Mode::Transparent(capture?),
            ModeWord::Mirror => Mode::Mirror,
        };
        let (name, tls) = (address.to_string().into(), tls.map(|tls| tls.value));
        Some(Arc::new(ListenerSpec { mode, address, name, enforcement, balancers, tls }))
    };
    let listeners = tables.into_iter().filter_map(listener).collect();
    (listeners, of_tls)
}

/// Parses the value of `mode`.
#[derive(Debug, Clone, Copy)]
enum ModeWord {
    Connect,
    Transparent,
    Mirror,
}

fn mode(source: &Source<'_>, table: &mut Table<'_>) -> Option<ModeWord> {
    let Some(written) = table.string("mode") else {
        if !table.has("mode") {
            source.missing(table.place(), "a [[listen]] has no mode", WRITE_MODE);
        }
        return None;
    };
    let what = match written.value.as_str() {
        "connect" => return Some(ModeWord::Connect),
        "transparent" => return Some(ModeWord::Transparent),
        "mirror" if cfg!(feature = "mirror") => return Some(ModeWord::Mirror),
        "mirror" => {
            let what = "mode \"mirror\" is not part of this build";
            source.fault(written.place, what, "use a build with the feature `mirror`");
            return None;
        }
        other => format!("mode {other:?} is unknown"),
    };
    source.fault(written.place, what, WRITE_MODE);
    None
}

/// Returns how traffic reaches a transparent listener. The default is redirect.
fn capture(source: &Source<'_>, table: &mut Table<'_>, word: Option<ModeWord>) -> Option<Capture> {
    let Some(written) = table.string("capture") else {
        return (!table.has("capture")).then_some(Capture::Redirect);
    };
    let (what, remedy) = match (word?, written.value.as_str()) {
        (ModeWord::Transparent, "redirect") => return Some(Capture::Redirect),
        (ModeWord::Transparent, "tproxy") => return Some(Capture::Tproxy),
        (ModeWord::Transparent, other) => {
            (format!("capture {other:?} is unknown"), "write \"redirect\" or \"tproxy\"")
        }
        (ModeWord::Connect | ModeWord::Mirror, _) => {
            ("capture is for transparent listeners".to_owned(), "remove it, or change the mode")
        }
    };
    source.fault(written.place, what, remedy);
    None
}

/// Returns the networks that must send a PROXY header; `None` if the key is absent.
fn balancers(source: &Source<'_>, table: &mut Table<'_>) -> Option<Vec<IpNet>> {
    const WRITE_NETWORKS: &str = "write proxy-protocol-from = [\"10.0.0.0/24\"]";
    let required = table.string("proxy-protocol");
    let are_named = table.has("proxy-protocol-from");
    let written = table.strings("proxy-protocol-from");
    let Some(required) = required else {
        if let Some(first) = written.first().filter(|_| !table.has("proxy-protocol")) {
            let what = "proxy-protocol-from without proxy-protocol has no effect";
            source.fault(first.place.clone(), what, "write proxy-protocol = \"required\"");
        }
        return None;
    };
    if required.value != "required" {
        let what = format!("proxy-protocol {:?} is unknown", required.value);
        source.fault(required.place, what, "write \"required\", or remove it");
        return None;
    }
    if written.is_empty() {
        let what = match are_named {
            true => "proxy-protocol-from names no network",
            false => "proxy-protocol without networks would reject every client",
        };
        source.missing(&required.place, what, WRITE_NETWORKS);
        return None;
    }
    let network = |written: &Located<String>| {
        let place = written.place.clone();
        let Some(network) = parse_range(&written.value) else {
            let what = format!("{:?} is not an address range", written.value);
            source.fault(place, what, WRITE_NETWORKS);
            return None;
        };
        if network.prefix_len() == 0 {
            let what = format!("{network}: any client can forge its address");
            source.warn(place, what, "name the network of the load balancers");
        }
        Some(network)
    };
    Some(written.iter().filter_map(network).collect())
}

/// Parses a listen address. Two listeners must not share one (`taken`).
pub(super) fn socket_address(
    source: &Source<'_>,
    written: &Located<String>,
    taken: &mut HashSet<SocketAddr>,
) -> Option<SocketAddr> {
    let place = || written.place.clone();
    let Ok(address) = written.value.parse::<SocketAddr>() else {
        let what = format!("{:?} is not an address and port", written.value);
        source.fault(place(), what, WRITE_ADDRESS);
        return None;
    };
    if address.port() != 0 && !taken.insert(address) {
        source.fault(place(), format!("{address} is used by two listeners"), "keep one");
        return None;
    }
    if address.ip().is_unspecified() {
        let what = format!("{address} accepts clients from every network of this machine");
        source.warn(place(), what, "use the address of the clients' network");
    }
    Some(address)
}

pub(super) fn admin_address(
    source: &Source<'_>,
    mut table: Table<'_>,
    taken: &mut HashSet<SocketAddr>,
) -> Option<AdminAddress> {
    let address = table.string("address");
    if address.is_none() && !table.has("address") {
        let remedy = "write address = \"127.0.0.1:9128\"";
        source.missing(table.place(), "[admin] has no address", remedy);
    }
    table.finish();
    let written = address?;
    let Some(path) = written.value.strip_prefix("unix:") else {
        return socket_address(source, &written, taken).map(AdminAddress::Tcp);
    };
    if path.is_empty() {
        let remedy = "write it as \"unix:/run/pullgate/admin.sock\"";
        source.fault(written.place, "the Unix socket has no path", remedy);
        return None;
    }
    Some(AdminAddress::Unix(beside(source, path)))
}
