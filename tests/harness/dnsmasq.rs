//! A resolver that logs what it is asked.

use super::daemon::Daemon;
use super::lab::{Lab, address};

/// dnsmasq on 127.0.0.53, which knows the given names and nothing else. Its log has the queries.
pub fn dnsmasq(lab: &Lab, records: &[(&str, &str)]) -> Daemon {
    let fixed = "dnsmasq --keep-in-foreground --conf-file=/dev/null --user=root --pid-file= \
                 --listen-address=127.0.0.53 --bind-interfaces --no-resolv --no-hosts \
                 --log-queries --log-facility=- --local-ttl=1";
    let records = records.iter().map(|(name, address)| format!("--host-record={name},{address}"));
    // Everything else does not exist, and is not passed on.
    let line: Vec<String> = fixed
        .split_whitespace()
        .map(ToOwned::to_owned)
        .chain(["--local=/#/".to_owned()])
        .chain(records)
        .collect();
    let words: Vec<&str> = line.iter().map(String::as_str).collect();
    lab.daemon("dnsmasq", &words).accepts(address("127.0.0.53:53"))
}
