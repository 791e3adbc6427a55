//! A load balancer in front of the gate.

use std::fmt::Write as _;
use std::fs;

use super::daemon::Daemon;
use super::lab::{Lab, address};

/// HAProxy in TCP mode: relays from the address and options of each `bind` line to those of a
/// `server` line.
pub fn haproxy(lab: &Lab, ways: &[(&str, &str)]) -> Daemon {
    let mut config = String::from(
        "defaults\n mode tcp\n timeout connect 10s\n timeout client 60s\n timeout server 60s\n",
    );
    for (number, (from, to)) in ways.iter().enumerate() {
        write!(config, "listen way{number}\n bind {from}\n server gate {to}\n").unwrap();
    }
    let file = lab.dir().join("haproxy.cfg");
    fs::write(&file, config).unwrap();
    let mut daemon = lab.daemon("haproxy", &["haproxy", "-db", "-f", file.to_str().unwrap()]);
    for (from, _) in ways {
        daemon = daemon.accepts(address(from.split(' ').next().unwrap()));
    }
    daemon
}
