//! `pullgate.toml`: what it may say, and what it says when it is silent.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use super::source::{Source, Table};
use super::{AdminAddress, AuditTarget, Listener, Mode, Settings};
use crate::policy::{
    Class, Enforcement, Limits, Located, Name, Pin, Rules, class_of, parse_port, parse_range,
};

/// What the main file says.
#[derive(Debug)]
pub(super) struct Main {
    pub(super) settings: Settings,
    /// Without the registries.
    pub(super) rules: Rules,
    pub(super) registries: String,
    pub(super) deny_all: bool,
}

/// The folder of registries where `[policy] registries` is silent.
const REGISTRIES: &str = "registries.d";

/// A day, in milliseconds: no wait of the gate is longer.
const DAY: u64 = 24 * 60 * 60 * 1000;

const MILLISECONDS: Range<u64> = 1..DAY + 1;
const SESSIONS: Range<u64> = 1..1_000_001;

pub(super) fn read(source: &Source<'_>) -> Main {
    let table = source.toml();
    let mut file = Table::new(source, table.get_ref(), "");
    let listeners = listeners(source, &mut file);
    let admin = file.table("admin", "[admin]").and_then(|mut table| {
        let address = table.string("address");
        if address.is_none() {
            source.fault(
                source.whole(),
                "[admin] has no address",
                "write address = \"127.0.0.1:9128\"",
            );
        }
        table.finish();
        admin_address(source, &address?)
    });
    let mut rules = Rules::default();
    let mut registries = REGISTRIES.to_owned();
    let mut deny_all = false;
    if let Some(mut table) = file.table("policy", "[policy]") {
        if let Some(folder) = table.string("registries") {
            registries = folder.value;
        }
        rules.enforcement = enforcement(source, &mut table).unwrap_or_default();
        deny_all = table.boolean("deny-all").is_some_and(|found| found.value);
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
    let mut audit = AuditTarget::StandardOutput;
    if let Some(mut table) = file.table("audit", "[audit]") {
        audit = match table.string("path") {
            Some(path) if path.value.is_empty() => {
                source.fault(
                    path.place,
                    "path is empty",
                    "write \"-\" for standard output, or a path",
                );
                audit
            }
            Some(path) if path.value != "-" => AuditTarget::File(path.value.into()),
            _ => audit,
        };
        table.finish();
    }
    file.finish();
    Main { settings: Settings { listeners, admin, audit }, rules, registries, deny_all }
}

fn listeners(source: &Source<'_>, file: &mut Table<'_>) -> Vec<Listener> {
    let mut listeners: Vec<Listener> = Vec::new();
    let written = file.tables("listen", "[[listen]]");
    if written.is_empty() {
        let remedy = "write [[listen]] with mode = \"connect\" and address = \"127.0.0.1:3128\"";
        source.fault(source.whole(), "there is no [[listen]]", remedy);
    }
    for Located { value: mut table, place } in written {
        let mode = table.string("mode");
        let address = table.string("address");
        let capture = table.string("capture");
        let enforcement = enforcement(source, &mut table);
        table.finish();
        let known = mode.as_ref().and_then(|mode| match mode.value.as_str() {
            "connect" => Some(Mode::Connect),
            "transparent" => Some(Mode::Transparent),
            _ => None,
        });
        let Some(known) = known else {
            let (what, place) = match mode {
                Some(mode) => (format!("mode {:?} is unknown", mode.value), mode.place),
                None => ("a [[listen]] has no mode".to_owned(), place),
            };
            let remedy = "write mode = \"connect\" or mode = \"transparent\"";
            source.fault(place, what, remedy);
            continue;
        };
        if let Some(capture) = &capture {
            let what = match (known, capture.value.as_str()) {
                (Mode::Transparent, "redirect") => None,
                (Mode::Transparent, "tproxy") => Some("this release cannot capture by TPROXY"),
                (Mode::Transparent, _) => Some("capture is unknown"),
                (Mode::Connect, _) => Some("capture is for transparent listeners"),
            };
            if let Some(what) = what {
                let remedy =
                    "write capture = \"redirect\" on a transparent listener, or take it out";
                source.fault(capture.place.clone(), what, remedy);
            }
        }
        let Some(address) = address else {
            let remedy = "write address = \"127.0.0.1:3128\"";
            source.fault(place, "a [[listen]] has no address", remedy);
            continue;
        };
        let Some(parsed) = socket_address(source, &address) else { continue };
        if parsed.port() != 0 && listeners.iter().any(|known| known.address == parsed) {
            source.fault(address.place, format!("{parsed} is listened on twice"), "keep one");
            continue;
        }
        listeners.push(Listener { mode: known, address: parsed, enforcement });
    }
    listeners
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

fn socket_address(source: &Source<'_>, written: &Located<String>) -> Option<SocketAddr> {
    let parsed = written.value.parse().ok();
    if parsed.is_none() {
        source.fault(
            written.place.clone(),
            format!("{:?} is no address and port", written.value),
            "write it as \"127.0.0.1:3128\" or \"[::1]:3128\"",
        );
    }
    parsed
}

fn admin_address(source: &Source<'_>, written: &Located<String>) -> Option<AdminAddress> {
    if let Some(path) = written.value.strip_prefix("unix:") {
        return Some(AdminAddress::Unix(PathBuf::from(path)));
    }
    socket_address(source, written).map(AdminAddress::Tcp)
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
        let mut found = Vec::new();
        for answer in answers.into_vec() {
            match pin(&answer.value) {
                Some(pin) => found.push(pin),
                None => source.fault(
                    answer.place,
                    format!("{:?} is no address", answer.value),
                    "write it as \"10.1.0.4\", \"10.1.0.4:8443\" or \"[fd00::4]:8443\"",
                ),
            }
        }
        match Name::parse(&host.value) {
            Err(fault) => {
                let what = format!("{:?}: the host {fault}", host.value);
                source.fault(host.place, what, "write the host name alone, without a port");
            }
            Ok(_) if found.is_empty() => source.fault(
                host.place,
                format!("{:?} has no address", host.value),
                "give it one, or take it out",
            ),
            Ok(name) => {
                if pins.insert(name, found).is_some() {
                    let what = format!("{:?} stands here twice", host.value);
                    source.fault(host.place, what, "keep it once");
                }
            }
        }
    }
    pins
}

fn pin(text: &str) -> Option<Pin> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(Pin { address, port: None });
    }
    let (address, port) = text.rsplit_once(':')?;
    let address = match address.strip_prefix('[') {
        Some(inner) => IpAddr::V6(inner.strip_suffix(']')?.parse().ok()?),
        None => IpAddr::V4(address.parse().ok()?),
    };
    Some(Pin { address, port: Some(parse_port(port)?) })
}

fn range(source: &Source<'_>, written: &Located<String>) -> Option<ipnet::IpNet> {
    let Some(range) = parse_range(&written.value) else {
        source.fault(
            written.place.clone(),
            format!("{:?} is no range of addresses", written.value),
            "write it as 10.1.0.0/24, fd00:1::/64 or a single address",
        );
        return None;
    };
    // A wide range may hold an address that nothing opens: that one stays closed. A range of which
    // both ends are such is a mistake.
    let never = |address| matches!(class_of(address), Class::Never(_));
    if never(range.network()) && never(range.broadcast()) {
        source.fault(
            written.place.clone(),
            format!("{range} can be opened by nothing"),
            "take it out",
        );
        return None;
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
