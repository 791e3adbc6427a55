//! A resolver that logs its queries.

use std::net::{SocketAddr, SocketAddrV6};

use nix::net::if_::if_nametoindex;

use super::daemon::Daemon;
use super::lab::{HOSTS, Lab, Way, address, outside};
use super::site::{Place, RESOLVER};

/// dnsmasq on 127.0.0.53 that knows only the given names. Its log contains the queries.
pub fn dnsmasq(lab: &Lab, records: &[(&str, &str)]) -> Daemon {
    dnsmasq_at(lab, "127.0.0.53", records)
}

/// The same at another address, which may be link-local with its zone.
pub fn dnsmasq_at(lab: &Lab, at: &str, records: &[(&str, &str)]) -> Daemon {
    let records = records.iter().map(|(name, address)| format!("{name},{address}"));
    let line = command_line(&[at], records);
    let words: Vec<&str> = line.iter().map(String::as_str).collect();
    let server = lab.daemon(&format!("dnsmasq-{at}"), &words);
    server.accepts(match at.split_once('%') {
        Some((ip, zone)) => {
            let zone = if_nametoindex(zone).unwrap();
            SocketAddrV6::new(ip.parse().unwrap(), 53, 0, zone).into()
        }
        None => SocketAddr::new(at.parse().unwrap(), 53),
    })
}

/// The address families that a resolver returns for the registries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// An external dnsmasq that knows the registries' names, in one or both families, and
/// `example.com`.
pub fn resolver(lab: &Lab, families: &[Family]) -> Daemon {
    resolver_of(lab, |_| families.to_vec())
}

/// An external dnsmasq with address families chosen per name.
pub fn resolver_of(lab: &Lab, families: impl Fn(&str) -> Vec<Family>) -> Daemon {
    let records = HOSTS.iter().enumerate().map(|(number, (name, _))| {
        let addresses = outside(number);
        let addresses_of_name =
            families(name).into_iter().map(|family| addresses[family as usize].clone());
        std::iter::once((*name).to_owned()).chain(addresses_of_name).collect::<Vec<_>>().join(",")
    });
    let records = records.chain(["example.com,198.51.100.66".to_owned()]);
    let line = command_line(&RESOLVER, records);
    let words: Vec<&str> = line.iter().map(String::as_str).collect();
    lab.daemon("dnsmasq", &words).accepts(address("198.51.100.53:53"))
}

/// dnsmasq on 127.0.0.53 of a namespace that answers everything: a stub resolver.
pub fn stub(lab: &Lab, place: Place) -> Daemon {
    let mut line = command_line(&["127.0.0.53"], std::iter::empty());
    line.retain(|word| word != "--local=/#/");
    line.push("--address=/#/198.51.100.66".to_owned());
    let words: Vec<&str> = line.iter().map(String::as_str).collect();
    lab.daemon_on(Way::In(place), "stub", &words).accepts_in(place, address("127.0.0.53:53"))
}

fn command_line(listen: &[&str], records: impl Iterator<Item = String>) -> Vec<String> {
    let fixed = "dnsmasq --keep-in-foreground --conf-file=/dev/null --user=root --pid-file= \
                 --bind-interfaces --no-resolv --no-hosts \
                 --log-queries --log-facility=- --local-ttl=1";
    let listen = listen.iter().map(|address| match address.split_once('%') {
        Some((_, interface)) => format!("--interface={interface}"),
        None => format!("--listen-address={address}"),
    });
    let records = records.map(|record| format!("--host-record={record}"));
    // All other names do not exist, and are not forwarded.
    let fixed = fixed.split_whitespace().map(ToOwned::to_owned);
    fixed.chain(listen).chain(["--local=/#/".to_owned()]).chain(records).collect()
}
