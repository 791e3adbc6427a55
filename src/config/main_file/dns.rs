//! `[dns]`: the servers, and static addresses that take precedence.

use std::collections::HashMap;
use std::net::SocketAddr;

use ipnet::IpNet;

use crate::config::source::Source;
use crate::config::table::Table;
use crate::policy::{
    HostKind, Located, Name, NameServer, StaticAddress, never_dialled, parse_host, parse_port,
};

/// Parses a DNS server: an address, an optional port (default 53), and the interface of a
/// link-local address.
pub(super) fn server(source: &Source<'_>, written: &Located<String>) -> Option<NameServer> {
    let text = &written.value;
    let Some(server) = NameServer::parse(text) else {
        let what = format!("{text:?} is not the address of a DNS server");
        let remedy = "write it as \"10.0.0.2\", \"127.0.0.1:5353\" or \"fe80::53%eth0\"";
        source.fault(written.place.clone(), what, remedy);
        return None;
    };
    if server.lacks_zone() {
        let what = format!("{} is link-local, and no interface is named", server.ip());
        let remedy = format!("add its interface, such as \"{}%eth0\"", server.ip());
        source.warn(written.place.clone(), what, remedy);
    }
    Some(server)
}

pub(super) fn pins(source: &Source<'_>, hosts: Table<'_>) -> HashMap<Name, Vec<StaticAddress>> {
    let mut pins: HashMap<Name, Vec<StaticAddress>> = HashMap::new();
    for (host, answers) in hosts.entries() {
        let Some(answers) = answers else { continue };
        let found: Vec<StaticAddress> = answers.iter().filter_map(|one| pin(source, one)).collect();
        // A pin opens nothing, so a single label can have one without the registry's consent.
        let name = match Name::parse_or_label(&host.value) {
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
            source.warn(host.place.clone(), what, "remove it: no policy allows it");
        }
        // TOML keys are case-sensitive, host names are not.
        if pins.insert(name, found).is_some() {
            source.fault(host.place, format!("{:?} is listed twice", host.value), "keep it once");
        }
    }
    pins
}

/// Parses a static address, with an optional port that replaces the target's.
fn pin(source: &Source<'_>, written: &Located<String>) -> Option<StaticAddress> {
    let text = &written.value;
    let with_port = || {
        // The parser of SocketAddr accepts "+443" and leading zeros.
        let (_, port) = text.rsplit_once(':')?;
        let port = parse_port(port)?;
        let address = text.parse::<SocketAddr>().ok()?.ip();
        Some(StaticAddress { address, port: Some(port) })
    };
    let alone = text.parse().ok().map(|address| StaticAddress { address, port: None });
    let Some(pin) = alone.or_else(with_port) else {
        source.fault(
            written.place.clone(),
            format!("{text:?} is not an address"),
            "write it as \"10.1.0.4\", \"10.1.0.4:8443\" or \"[fd00::4]:8443\"",
        );
        return None;
    };
    if let Some(why) = never_dialled(&IpNet::from(pin.address)) {
        let what = format!("{} is {why}, which is never dialled", pin.address);
        source.warn(written.place.clone(), what, "remove it");
    }
    Some(pin)
}
