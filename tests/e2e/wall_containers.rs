//! The firewall rules of a host and the containers on its bridges.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::doctor::host_policy;
use crate::gateway::CAPTURES;
use crate::harness::{
    ATTACKER, Attacker, Blobs, Family, GATE_USER, INSIDE, Lab, PATIENCE, Place, Policy, RESOLVER,
    Way, resolver, wait_until,
};
use crate::lan::{checksum, packet, question, syn};
use crate::wall::{behind_each, delivered, ip, readme, settle, without_gate};

/// Returns an echo request with a payload.
fn echo(from: IpAddr, to: IpAddr) -> Vec<u8> {
    let number = if from.is_ipv4() { 1 } else { 58 };
    let kind = if from.is_ipv4() { 8 } else { 128 };
    let body = [&[kind, 0, 0, 0, 0, 1, 0, 1][..], b"secret secret secret secret"].concat();
    // `packet` writes the checksum of UDP.
    let mut bytes = packet((from, 0).into(), (to, 0).into(), number, &body);
    let at = bytes.len() - body.len();
    bytes[at + 2..].copy_from_slice(&body[2..]);
    let pseudo = match (from, to) {
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let length = u16::try_from(body.len()).unwrap().to_be_bytes();
            [&from.octets()[..], &to.octets(), &[0, number], &length].concat()
        }
        _ => Vec::new(),
    };
    let sum = checksum(&[&pseudo, &bytes[at..]].concat());
    bytes[at + 2..at + 4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// Sends packets with the attacker's address as their source. The answers would go to the attacker.
fn forge_from_a_container(number: u16) {
    let hosts = [[INSIDE[0], "198.51.100.1"], [INSIDE[1], "2001:db8::1"]];
    for (attacker, hosts) in ATTACKER.into_iter().zip(hosts) {
        let from = SocketAddr::new(ip(attacker), 20_000 + number);
        for host in hosts.map(ip) {
            let domain = if host.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(255))).unwrap();
            if host.is_ipv4() {
                socket.set_header_included_v4(true).unwrap();
            }
            let elsewhere = ip(if host.is_ipv4() { "198.51.100.11" } else { "2001:db8::11" });
            // Its TTL ends on the way, which is reported to the sender.
            let mut short = question(from, (elsewhere, 9).into());
            short[if host.is_ipv4() { 8 } else { 7 }] = 1;
            for (to, bytes) in [
                (host, echo(from.ip(), host)),
                (host, question(from, (host, 9).into())),
                (host, question(from, (host, 53).into())),
                (host, syn(from, (host, 9).into())),
                (host, syn(from, (host, 3128).into())),
                (elsewhere, short),
            ] {
                socket.send_to(&bytes, &SocketAddr::new(to, 0).into()).unwrap();
            }
        }
    }
}

#[test]
fn a_container_that_forges_its_source_is_not_answered() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let _resolver = resolver(&lab, &[Family::V4]);
    let attacker = Attacker::start(&lab);
    lab.route_captured();
    for filter in [0, 2] {
        Place::Gateway.run(&format!(
            "sysctl -qw net.ipv4.conf.all.rp_filter={filter} net.ipv4.conf.inside.rp_filter={filter}"
        ));
        let holds = |wall: &str, rules: &str| {
            lab.load(rules);
            attacker.forget();
            Place::Client.inside(|| forge_from_a_container(filter));
            settle();
            assert_eq!(attacker.reached(), 0, "{wall}, rp_filter {filter}");
        };
        behind_each(&lab, RESOLVER[0], holds);
        for (name, rules) in without_gate() {
            holds(name, &rules);
        }
    }
    lab.load("");
    attacker.forget();
    Place::Client.inside(|| forge_from_a_container(9));
    wait_until("he is reached", || (attacker.reached() > 0).then_some(()));
}

#[test]
fn a_client_and_its_containers_reach_the_gate_and_nothing_else() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let attacker = Attacker::start(&lab);
    let gate = TcpListener::bind("198.51.100.254:3128").unwrap();
    let at = gate.local_addr().unwrap();
    for (name, rules) in [("client.nft", delivered("client.nft")), ("README.md", readme())] {
        lab.load(&rules);
        for place in [Place::Gateway, Place::Client] {
            let mut stream = place.inside(|| TcpStream::connect_timeout(&at, PATIENCE)).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut accepted = gate.accept().unwrap().0;
            stream.write_all(b"request").unwrap();
            accepted.read_exact(&mut [0; 7]).unwrap();
            accepted.write_all(b"answer").unwrap();
            stream.read_exact(&mut [0; 6]).unwrap();
            for to in ATTACKER.map(|to| SocketAddr::new(ip(to), 443)) {
                let tried = || TcpStream::connect_timeout(&to, Duration::from_millis(300));
                assert!(place.inside(tried).is_err(), "{name}: {to}");
            }
        }
    }
    assert_eq!(attacker.reached(), 0);
}

#[test]
fn a_container_on_a_bridge_pulls_through_the_bridges_address() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let _resolver = resolver(&lab, &[Family::V4]);
    lab.push("contoso.azurecr.io/app:1", 1, &[64 << 10]);
    lab.route_captured();
    let [v4, v6] = INSIDE;
    let proxies = [v4.to_owned(), format!("[{v6}]")]
        .map(|ip| format!("[[listen]]\nmode = \"connect\"\naddress = \"{ip}:3128\"\n"));
    let mut number = 0;
    let mut pulls = |rules: &str| {
        lab.load(rules);
        for proxy in [v4.to_owned(), format!("[{v6}]")] {
            number += 1;
            let to = lab.dir().join(format!("pulled-{number}"));
            let line = format!(
                "env HTTPS_PROXY=http://{proxy}:3128 skopeo copy docker://contoso.azurecr.io/app:1 \
                 dir:{}",
                to.display()
            );
            lab.sh(Way::In(Place::Client), &line).succeeded();
        }
    };
    for (capture, capabilities, _) in CAPTURES {
        let policy = host_policy(capture).with_more(&proxies.concat());
        let _gate = lab.gate_on_gateway(capabilities, &policy);
        let kind = if capture == "tproxy" { "tproxy" } else { "nftables" };
        pulls(&lab.kit(&format!("{kind} --user {GATE_USER}")));
    }
    let dns = format!("[dns]\nservers = [\"{}\"]\n", RESOLVER[0]);
    let policy = Policy::of(&["contoso"]).with_dns(&dns).with_more(&proxies.concat());
    let _gate = lab.gate_on_gateway("+net_bind_service", &policy);
    pulls(&delivered("same-host.nft"));
}

#[test]
fn the_rules_of_a_host_and_of_its_containers_work_together() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let _resolver = resolver(&lab, &[Family::V4, Family::V6]);
    let attacker = Attacker::start(&lab);
    lab.route_captured();
    for (capture, capabilities, kit) in CAPTURES {
        let [v4, v6] = INSIDE;
        let on_bridge = [v4.to_owned(), format!("[{v6}]")].map(|ip| {
            format!(
                "[[listen]]\nmode = \"transparent\"\naddress = \"{ip}:3129\"\n\
                 capture = \"{capture}\"\n"
            )
        });
        let policy = host_policy(capture).with_more(&on_bridge.concat());
        let _gate = lab.gate_on_gateway(capabilities, &policy);
        let kind = if capture == "tproxy" { "tproxy" } else { "nftables" };
        lab.load(&lab.kit(&format!("{kind} --user {GATE_USER}")));
        let file = lab.dir().join("containers.nft");
        fs::write(&file, lab.kit(kit)).unwrap();
        Place::Gateway.run(&format!("nft -f {}", file.display()));
        attacker.forget();
        for place in [Place::Gateway, Place::Client] {
            for to in ["198.51.100.66", "[2001:db8::66]"] {
                let line = format!(
                    "curl -sS -o /dev/null --resolve contoso.azurecr.io:443:{to} \
                     https://contoso.azurecr.io/v2/"
                );
                lab.sh(Way::In(place), &line).succeeded();
            }
            for to in ATTACKER.map(|to| SocketAddr::new(ip(to), 22)) {
                let tried = || TcpStream::connect_timeout(&to, Duration::from_millis(300));
                assert!(place.inside(tried).is_err(), "{capture}: {to}");
            }
        }
        settle();
        assert_eq!(attacker.reached(), 0, "{capture}");
    }
}
