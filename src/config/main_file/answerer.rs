//! `[answerer]`: the DNS server for clients of a gateway.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::listen::socket_address;
use crate::config::settings::{AnswerWith, Answerer, ListenerSpec, Mode};
use crate::config::source::Source;
use crate::config::table::Table;
use crate::policy::{Located, Location, NameServer, canonical};

/// Default of the queries per second for each client. A pull sends two dozen at once.
const QUERIES: u32 = 100;
const MOST_QUERIES: RangeInclusive<u64> = 1..=1_000_000;

const WRITE_ADDRESSES: &str = "write addresses = [\"10.0.0.1\"]";

pub(super) fn read(
    source: &Source<'_>,
    mut table: Table<'_>,
    taken: &mut HashSet<SocketAddr>,
) -> Option<Answerer> {
    let has_addresses = table.has("addresses");
    let written = table.strings("addresses");
    if written.is_empty() {
        let what = match has_addresses {
            true => "addresses names none",
            false => "[answerer] has no addresses",
        };
        source.missing(table.place(), what, WRITE_ADDRESSES);
    }
    let given: Vec<SocketAddr> =
        written.iter().filter_map(|written| address(source, written, taken)).collect();
    let is_real = is_real(source, &mut table);
    let names_gate = table.has("gate-addresses");
    let gate = table.strings("gate-addresses");
    let queries = table.number("queries-per-second", MOST_QUERIES);
    table.finish();
    if let Some(first) = gate.first().filter(|_| is_real == Some(true)) {
        let what = "gate-addresses are for answer = \"gate\"";
        source.fault(first.place.clone(), what, "remove them, or change the answer");
    }
    let gate: Vec<IpAddr> = match names_gate {
        true => gate.iter().filter_map(|written| gate_address(source, written)).collect(),
        false => given.iter().map(SocketAddr::ip).collect(),
    };
    let answer = if is_real? { AnswerWith::Real } else { AnswerWith::Gate(gate) };
    let queries_per_second = queries.and_then(|one| u32::try_from(one).ok()).unwrap_or(QUERIES);
    Some(Answerer { addresses: given, answer, queries_per_second })
}

/// The gate must not query itself.
pub(super) fn judge_servers(
    source: &Source<'_>,
    answerer: &Answerer,
    servers: &[Located<NameServer>],
) {
    for Located { value, place } in servers.iter() {
        if answerer.addresses.iter().any(|own| NameServer::from(*own) == *value) {
            let what = format!("{value} is the gate's own DNS server: it would query itself");
            source.fault(place.clone(), what, "name the servers that know the registries");
        }
    }
}

/// The gate must listen at the addresses in its DNS answers.
pub(super) fn judge_listeners(
    source: &Source<'_>,
    answerer: &Answerer,
    place: Location,
    listeners: &[Arc<ListenerSpec>],
) {
    let is_met = listeners.iter().any(|one| matches!(one.mode, Mode::Transparent(_)));
    if matches!(answerer.answer, AnswerWith::Gate(_)) && !is_met && source.is_faultless() {
        let what = "clients are sent to the gate, which has no transparent listener";
        let remedy = "add a [[listen]] with mode = \"transparent\", or write answer = \"real\"";
        source.warn(place, what, remedy);
    }
}

/// Parses an address that clients query. It must be specific, because answers are sent from it.
fn address(
    source: &Source<'_>,
    written: &Located<String>,
    taken: &mut HashSet<SocketAddr>,
) -> Option<SocketAddr> {
    let Some(address) = parse(&written.value) else {
        let what = format!("{:?} is not a valid listen address", written.value);
        source.fault(written.place.clone(), what, WRITE_ADDRESSES);
        return None;
    };
    let unfit = match (address.ip().is_unspecified(), address.port()) {
        (true, _) => "is a wildcard address, but answers must come from the queried address",
        (_, 0) => "has port 0, but clients must know the port",
        _ => {
            let written = Located { value: address.to_string(), place: written.place.clone() };
            return socket_address(source, &written, taken);
        }
    };
    source.fault(written.place.clone(), format!("{address} {unfit}"), WRITE_ADDRESSES);
    None
}

/// Parses an address with an optional port. The default is 53.
fn parse(text: &str) -> Option<SocketAddr> {
    const DNS: u16 = 53;
    let alone = || text.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, DNS));
    text.parse().ok().or_else(alone)
}

/// Returns whether clients get real addresses. The default is the gate's own.
fn is_real(source: &Source<'_>, table: &mut Table<'_>) -> Option<bool> {
    let Some(written) = table.string("answer") else {
        return (!table.has("answer")).then_some(false);
    };
    match written.value.as_str() {
        "gate" => Some(false),
        "real" => Some(true),
        other => {
            let what = format!("answer {other:?} is unknown");
            source.fault(written.place, what, "write \"gate\" or \"real\"");
            None
        }
    }
}

fn gate_address(source: &Source<'_>, written: &Located<String>) -> Option<IpAddr> {
    let address = written.value.parse().ok().map(canonical);
    let address = address.filter(|address: &IpAddr| !address.is_unspecified());
    if address.is_none() {
        let what = format!("{:?} is not an IP address", written.value);
        source.fault(written.place.clone(), what, "write gate-addresses = [\"10.0.0.1\"]");
    }
    address
}
