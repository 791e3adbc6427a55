//! `[[listen]]` and `[admin]`: where clients come in, and where the operator looks in.

use std::collections::HashSet;
use std::net::SocketAddr;

use super::{beside, enforcement};
use crate::config::source::Source;
use crate::config::table::Table;
use crate::config::{AdminAddress, Listener, Mode};
use crate::policy::Located;

const WRITE_MODE: &str = "write mode = \"connect\" or mode = \"transparent\"";
const WRITE_ADDRESS: &str = "write it as \"127.0.0.1:3128\" or \"[::1]:3128\"";

pub(super) fn listeners(
    source: &Source<'_>,
    file: &mut Table<'_>,
    taken: &mut HashSet<SocketAddr>,
) -> Vec<Listener> {
    let tables = file.tables("listen", "[[listen]]");
    if tables.is_empty() && !file.has("listen") {
        let remedy = "write [[listen]] with mode = \"connect\" and address = \"127.0.0.1:3128\"";
        source.missing(&source.whole(), "there is no [[listen]]", remedy);
    }
    let listener = |mut table: Table<'_>| {
        let mode = mode(source, &mut table);
        let address = table.string("address");
        if address.is_none() && !table.has("address") {
            let remedy = "write address = \"127.0.0.1:3128\"";
            source.missing(table.place(), "a [[listen]] has no address", remedy);
        }
        let capture = table.string("capture");
        let enforcement = enforcement(source, &mut table);
        table.finish();
        if let (Some(mode), Some(capture)) = (mode, capture) {
            judge_capture(source, mode, &capture);
        }
        let address = socket_address(source, &address?, taken)?;
        Some(Listener { mode: mode?, address, enforcement })
    };
    tables.into_iter().filter_map(listener).collect()
}

fn mode(source: &Source<'_>, table: &mut Table<'_>) -> Option<Mode> {
    let Some(written) = table.string("mode") else {
        if !table.has("mode") {
            source.missing(table.place(), "a [[listen]] has no mode", WRITE_MODE);
        }
        return None;
    };
    let what = match written.value.as_str() {
        "connect" => return Some(Mode::Connect),
        "transparent" => return Some(Mode::Transparent),
        other => format!("mode {other:?} is unknown"),
    };
    source.fault(written.place, what, WRITE_MODE);
    None
}

/// How traffic comes to a transparent listener; there is one way yet.
fn judge_capture(source: &Source<'_>, mode: Mode, written: &Located<String>) {
    let what = match (mode, written.value.as_str()) {
        (Mode::Transparent, "redirect") => return,
        (Mode::Transparent, "tproxy") => "this release cannot capture by TPROXY",
        (Mode::Transparent, _) => "capture is unknown",
        (Mode::Connect, _) => "capture is for transparent listeners",
    };
    let remedy = "write capture = \"redirect\" on a transparent listener, or take it out";
    source.fault(written.place.clone(), what, remedy);
}

/// An address to listen on, that no other listener has `taken`.
fn socket_address(
    source: &Source<'_>,
    written: &Located<String>,
    taken: &mut HashSet<SocketAddr>,
) -> Option<SocketAddr> {
    let place = || written.place.clone();
    let Ok(address) = written.value.parse::<SocketAddr>() else {
        let what = format!("{:?} is no address and port", written.value);
        source.fault(place(), what, WRITE_ADDRESS);
        return None;
    };
    if address.port() != 0 && !taken.insert(address) {
        source.fault(place(), format!("{address} is listened on twice"), "keep one");
        return None;
    }
    if address.ip().is_unspecified() {
        let what = format!("{address} is open to every network of this machine");
        source.warn(place(), what, "name the address of the network that the clients are in");
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
