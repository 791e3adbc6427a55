//! A resolver that logs what it is asked.

use super::daemon::Daemon;
use super::lab::{HOSTS, Lab, Way, address, outside};
use super::site::{Place, RESOLVER};

/// dnsmasq on 127.0.0.53, which knows the given names and nothing else. Its log has the queries.
pub fn dnsmasq(lab: &Lab, records: &[(&str, &str)]) -> Daemon {
    let records = records.iter().map(|(name, address)| format!("{name},{address}"));
    let line = command_line(&["127.0.0.53"], records);
    let words: Vec<&str> = line.iter().map(String::as_str).collect();
    lab.daemon("dnsmasq", &words).accepts(address("127.0.0.53:53"))
}

/// Which addresses a resolver has of the registries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// dnsmasq outside, which knows the registries' names, by one family or both, and `example.com`.
pub fn resolver(lab: &Lab, families: &[Family]) -> Daemon {
    resolver_of(lab, |_| families.to_vec())
}

/// The same, which knows each name by families of its own.
pub fn resolver_of(lab: &Lab, families: impl Fn(&str) -> Vec<Family>) -> Daemon {
    let records = HOSTS.iter().enumerate().map(|(number, (name, _))| {
        let addresses = outside(number);
        let told = families(name).into_iter().map(|family| addresses[family as usize].clone());
        std::iter::once((*name).to_owned()).chain(told).collect::<Vec<_>>().join(",")
    });
    let records = records.chain(["example.com,198.51.100.66".to_owned()]);
    let line = command_line(&RESOLVER, records);
    let words: Vec<&str> = line.iter().map(String::as_str).collect();
    lab.daemon("dnsmasq", &words).accepts(address("198.51.100.53:53"))
}

/// dnsmasq on 127.0.0.53 of a namespace, which answers everything: a stub resolver.
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
    let listen = listen.iter().map(|address| format!("--listen-address={address}"));
    let records = records.map(|record| format!("--host-record={record}"));
    // Everything else does not exist, and is not passed on.
    let fixed = fixed.split_whitespace().map(ToOwned::to_owned);
    fixed.chain(listen).chain(["--local=/#/".to_owned()]).chain(records).collect()
}
