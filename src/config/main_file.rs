//! `pullgate.toml`: what it may say, and what it says when it is silent.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use super::source::Source;
use super::table::Table;
use super::{AdminAddress, AuditTarget, Listener, Mode, Settings};
use crate::policy::{
    Enforcement, HostKind, Limits, Located, Name, Pin, Place, Rules, never_dialled, parse_host,
    parse_port, parse_range,
};

/// What the main file says.
#[derive(Debug)]
pub(super) struct Main {
    pub(super) settings: Settings,
    /// Without the registries.
    pub(super) rules: Rules,
    /// The folder of the registries, as it is written, and where.
    pub(super) registries: Located<String>,
    /// Where `deny-all = true` stands.
    pub(super) deny_all: Option<Place>,
}

/// The folder of registries where `[policy] registries` is silent.
const REGISTRIES: &str = "registries.d";

/// No wait of the gate is longer than a day.
const MILLISECONDS: RangeInclusive<u64> = 1..=24 * 60 * 60 * 1000;
const SESSIONS: RangeInclusive<u64> = 1..=1_000_000;

const WRITE_MODE: &str = "write mode = \"connect\" or mode = \"transparent\"";
const WRITE_ADDRESS: &str = "write it as \"127.0.0.1:3128\" or \"[::1]:3128\"";

pub(super) fn read(source: &Source<'_>) -> Main {
    let toml = source.toml();
    let mut file = Table::of_file(source, &toml);
    let mut taken = HashSet::new();
    let listeners = listeners(source, &mut file, &mut taken);
    let admin =
        file.table("admin", "[admin]").and_then(|table| admin_address(source, table, &mut taken));
    let mut rules = Rules::default();
    let mut registries = Located { value: REGISTRIES.to_owned(), place: source.whole() };
    let mut deny_all = None;
    if let Some(mut table) = file.table("policy", "[policy]") {
        registries.place = table.place().clone();
        registries = match table.string("registries") {
            Some(folder) if folder.value.is_empty() => {
                let remedy = "name a folder, such as \"registries.d\"";
                source.fault(folder.place, "registries is empty", remedy);
                registries
            }
            Some(folder) => folder,
            None => registries,
        };
        rules.enforcement = enforcement(source, &mut table).unwrap_or_default();
        deny_all = table.boolean("deny-all").filter(|found| found.value).map(|found| found.place);
        table.finish();
    }
    if let Some(mut table) = file.table("dns", "[dns]") {
        for written in table.strings("servers") {
            rules.dns_servers.extend(server(source, &written));
        }
        if let Some(hosts) = table.table("hosts", "[dns.hosts]") {
            rules.pins = pins(source, hosts);
        }
        table.finish();
    }
    if let Some(mut table) = file.table("addresses", "[addresses]") {
        for written in table.strings("allow") {
            rules.allowed_addresses.extend(range(source, &written));
        }
        table.finish();
    }
    if let Some(table) = file.table("limits", "[limits]") {
        rules.limits = limits(table);
    }
    let audit = file.table("audit", "[audit]").and_then(|table| audit(source, table));
    file.finish();
    let audit = audit.unwrap_or(AuditTarget::StandardOutput);
    Main { settings: Settings { listeners, admin, audit }, rules, registries, deny_all }
}

/// A path as the file means it: relative to the folder that the file is in.
pub(super) fn beside(source: &Source<'_>, path: &str) -> PathBuf {
    Path::new(&**source.file()).parent().unwrap_or(Path::new("")).join(path)
}

fn listeners(
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

fn enforcement(source: &Source<'_>, table: &mut Table<'_>) -> Option<Enforcement> {
    let written = table.string("enforcement")?;
    match written.value.as_str() {
        "enforce" => Some(Enforcement::Enforce),
        "report" => Some(Enforcement::Report),
        other => {
            let remedy = "write \"enforce\" or \"report\"";
            source.fault(written.place, format!("enforcement {other:?} is unknown"), remedy);
            None
        }
    }
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

fn admin_address(
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

fn audit(source: &Source<'_>, mut table: Table<'_>) -> Option<AuditTarget> {
    let path = table.string("path");
    table.finish();
    let path = path?;
    match path.value.as_str() {
        "-" => Some(AuditTarget::StandardOutput),
        "" => {
            let remedy = "write \"-\" for standard output, or a path";
            source.fault(path.place, "path is empty", remedy);
            None
        }
        other => Some(AuditTarget::File(beside(source, other))),
    }
}

/// A DNS server: an address, and a port where it is not 53.
fn server(source: &Source<'_>, written: &Located<String>) -> Option<SocketAddr> {
    const DNS: u16 = 53;
    let text = &written.value;
    let alone = || text.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, DNS));
    let parsed = text.parse().ok().or_else(alone);
    if parsed.is_none() {
        let what = format!("{text:?} is no address of a DNS server");
        source.fault(written.place.clone(), what, "write it as \"10.0.0.2\" or \"127.0.0.1:5353\"");
    }
    parsed
}

fn pins(source: &Source<'_>, hosts: Table<'_>) -> HashMap<Name, Vec<Pin>> {
    let mut pins: HashMap<Name, Vec<Pin>> = HashMap::new();
    for (host, answers) in hosts.entries() {
        let Some(answers) = answers else { continue };
        let found: Vec<Pin> = answers.iter().filter_map(|one| pin(source, one)).collect();
        let name = match Name::parse(&host.value) {
            Ok(name) => name,
            Err(fault) => {
                let what = match parse_host(&host.value) {
                    Ok(_) => format!("{:?} has a port", host.value),
                    Err(_) => format!("{:?}: the host {fault}", host.value),
                };
                source.fault(host.place, what, "write one host name, which holds for each port");
                continue;
            }
        };
        if matches!(HostKind::of(&name), HostKind::Storage { .. }) {
            let what = format!("{name} is a storage account");
            source.warn(host.place.clone(), what, "take it out: no policy allows it");
        }
        // TOML's keys differ by case, host names do not.
        if pins.insert(name, found).is_some() {
            source.fault(host.place, format!("{:?} stands here twice", host.value), "keep it once");
        }
    }
    pins
}

/// A fixed answer, with a port where it replaces the target's.
fn pin(source: &Source<'_>, written: &Located<String>) -> Option<Pin> {
    let text = &written.value;
    let with_port = || {
        // SocketAddr's own parser takes "+443" and leading zeros.
        let (_, port) = text.rsplit_once(':')?;
        let port = parse_port(port)?;
        let address = text.parse::<SocketAddr>().ok()?.ip();
        Some(Pin { address, port: Some(port) })
    };
    let alone = text.parse().ok().map(|address| Pin { address, port: None });
    let Some(pin) = alone.or_else(with_port) else {
        source.fault(
            written.place.clone(),
            format!("{text:?} is no address"),
            "write it as \"10.1.0.4\", \"10.1.0.4:8443\" or \"[fd00::4]:8443\"",
        );
        return None;
    };
    if let Some(why) = never_dialled(&IpNet::from(pin.address)) {
        let what = format!("{} is {why}, which is never dialled", pin.address);
        source.warn(written.place.clone(), what, "take it out");
    }
    Some(pin)
}

fn range(source: &Source<'_>, written: &Located<String>) -> Option<IpNet> {
    let place = written.place.clone();
    let Some(range) = parse_range(&written.value) else {
        let what = format!("{:?} is no range of addresses", written.value);
        let remedy = "write it as 10.1.0.0/24, fd00:1::/64 or a single address";
        source.fault(place, what, remedy);
        return None;
    };
    if let Some(why) = never_dialled(&range) {
        source.fault(place, format!("{range} is {why}, which nothing opens"), "take it out");
        return None;
    }
    if range.prefix_len() == 0 {
        let what = format!("{range} opens every address that can be opened, for every registry");
        source.warn(place, what, "list the ranges that are needed");
    }
    Some(range)
}

fn limits(mut table: Table<'_>) -> Limits {
    let mut limits = Limits::default();
    let mut wait = |key, limit: &mut Duration| {
        if let Some(milliseconds) = table.number(key, MILLISECONDS) {
            *limit = Duration::from_millis(milliseconds);
        }
    };
    wait("head-timeout-ms", &mut limits.head_timeout);
    wait("hello-timeout-ms", &mut limits.hello_timeout);
    wait("dial-timeout-ms", &mut limits.dial_timeout);
    wait("idle-timeout-ms", &mut limits.idle_timeout);
    let mut count = |key, limit: &mut usize| {
        if let Some(number) = table.number(key, SESSIONS).and_then(|one| usize::try_from(one).ok())
        {
            *limit = number;
        }
    };
    count("open-sessions", &mut limits.open_sessions);
    count("open-sessions-per-client", &mut limits.open_sessions_per_client);
    table.finish();
    limits
}
