//! The firewall rules of a gateway: interfaces that they do not name, and what else the machine loads.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use crate::doctor::{gateway_policy, host_policy};
use crate::gateway::CAPTURES;
use crate::harness::{
    ATTACKER, Attacker, Blobs, Family, GATE_USER, INSIDE, Lab, PATIENCE, Place, find, resolver,
    wait_until,
};
use crate::wall::{GATEWAY, delivered, ip, settle};

/// Adds a second network between client and gateway, which no rule names.
fn second_network() {
    let here = |line: &str| {
        let ran = Command::new(find("ip")).args(line.split_whitespace()).output().unwrap();
        assert!(ran.status.success(), "{line}: {}", String::from_utf8_lossy(&ran.stderr));
    };
    here("link add second netns gateway type veth peer name eth1 netns client");
    for (place, device, addresses) in [
        ("gateway", "second", ["10.8.0.1/24", "fd08::1/64"]),
        ("client", "eth1", ["10.8.0.2/24", "fd08::2/64"]),
    ] {
        for address in addresses {
            let at_once = if address.contains(':') { "nodad" } else { "" };
            here(&format!("-n {place} address add {address} dev {device} {at_once}"));
        }
        here(&format!("-n {place} link set {device} up"));
    }
    for family in ["-4", "-6"] {
        here(&format!("-n client {family} route del default"));
    }
    here("-n client route add default via 10.8.0.1");
    here("-n client -6 route add default via fd08::1");
    here("route add 10.8.0.0/24 via 198.51.100.1");
    here("-6 route add fd08::/64 via 2001:db8::1");
}

/// Returns the addresses that the client can connect to: the attacker's, and the gateway's own program.
fn reaches_out(own: &[&str]) -> Vec<SocketAddr> {
    let patience = Duration::from_millis(300);
    let outside = ATTACKER.into_iter().flat_map(|to| [22, 443].map(|port| (ip(to), port)));
    let own = own.iter().map(|to| (ip(to), 2222));
    let all = outside.chain(own).map(SocketAddr::from);
    Place::Client.inside(|| {
        for to in ATTACKER.map(ip) {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            UdpSocket::bind(any).unwrap().send_to(b"secret", (to, 443)).unwrap();
        }
        all.filter(|at| TcpStream::connect_timeout(at, patience).is_ok()).collect()
    })
}

#[test]
fn a_gateway_drops_packets_from_unnamed_interfaces() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let _resolver = resolver(&lab, &[Family::V4, Family::V6]);
    let attacker = Attacker::start(&lab);
    lab.route_captured();
    second_network();
    let own = ["python3", "-m", "http.server", "--bind", "::", "2222"];
    let _own = lab
        .daemon_on(GATEWAY, "own", &own)
        .accepts_in(Place::Gateway, "127.0.0.1:2222".parse().unwrap());
    lab.load("");
    wait_until("without rules it is open", || {
        (reaches_out(&["10.8.0.1", "fd08::1"]).len() == 6).then_some(())
    });
    for (capture, capabilities, kit) in CAPTURES {
        let _gate = lab.gate_on_gateway(capabilities, &gateway_policy(capture, "gate"));
        lab.load(&lab.kit(kit));
        attacker.forget();
        assert_eq!(reaches_out(&["10.8.0.1", "fd08::1"]), [], "{capture}");
        settle();
        assert_eq!(attacker.reached(), 0, "{capture}");
    }
}

#[test]
fn a_gateway_drops_packets_from_a_renamed_interface() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let _resolver = resolver(&lab, &[Family::V4, Family::V6]);
    let attacker = Attacker::start(&lab);
    lab.route_captured();
    let own = ["python3", "-m", "http.server", "--bind", "::", "2222"];
    let _own = lab
        .daemon_on(GATEWAY, "own", &own)
        .accepts_in(Place::Gateway, "127.0.0.1:2222".parse().unwrap());
    let (capture, capabilities, kit) = CAPTURES[0];
    let _gate = lab.gate_on_gateway(capabilities, &gateway_policy(capture, "gate"));
    lab.load(&lab.kit(kit));
    Place::Gateway.run("ip link set inside down");
    Place::Gateway.run("ip link set inside name renamed");
    Place::Gateway.run("ip address replace fd07::1/64 dev renamed nodad");
    Place::Gateway.run("ip link set renamed up");
    attacker.forget();
    assert_eq!(reaches_out(&INSIDE), [], "{capture}");
    settle();
    assert_eq!(attacker.reached(), 0, "{capture}");
    lab.load("");
    wait_until("without rules it is open", || (reaches_out(&INSIDE).len() == 6).then_some(()));
}

#[test]
fn additions_of_the_operator_are_included() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let _resolver = resolver(&lab, &[Family::V4, Family::V6]);
    let attacker = Attacker::start(&lab);
    let added = lab.dir().join("nftables.d");
    fs::create_dir_all(&added).unwrap();
    let in_lab = |rules: &str| {
        let replaced = rules.replace("/etc/pullgate/nftables.d", added.to_str().unwrap());
        assert_ne!(replaced, rules);
        replaced
    };
    let reached = |place: Place, port: u16| {
        attacker.forget();
        let at = SocketAddr::new(ip(ATTACKER[0]), port);
        place.inside(|| TcpStream::connect_timeout(&at, Duration::from_millis(300))).is_ok()
    };
    let add = |name: &str, rule: &str| fs::write(added.join(name), format!("{rule}\n")).unwrap();
    add("host-output-log.nft", "ip daddr 198.51.100.66 tcp dport 22 accept");
    add("gateway-input.nft", "tcp dport 2222 accept");
    add(
        "gateway-forward.nft",
        "ip daddr 198.51.100.66 tcp dport 22 accept\nct state established accept",
    );
    add("another.nft", "accept");

    let (capture, capabilities, kit) = CAPTURES[0];
    let gate = lab.gate_on_gateway(capabilities, &host_policy(capture));
    lab.load(&in_lab(&lab.kit(&format!("nftables --user {GATE_USER}"))));
    assert!(reached(Place::Gateway, 22));
    assert!(!reached(Place::Gateway, 80));
    drop(gate);

    let _gate = lab.gate_on_gateway(capabilities, &gateway_policy(capture, "gate"));
    lab.load(&in_lab(&lab.kit(kit)));
    assert!(reached(Place::Client, 22));
    assert!(!reached(Place::Client, 80));
    let own = Place::Gateway.inside(|| TcpListener::bind((ip(INSIDE[0]), 2222)).unwrap());
    let at = own.local_addr().unwrap();
    Place::Client.inside(|| TcpStream::connect_timeout(&at, PATIENCE).unwrap());
}

#[test]
fn the_rules_replace_their_fallback_and_no_other_table() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let attacker = Attacker::start(&lab);
    let (capture, capabilities, _) = CAPTURES[0];
    let _resolver = resolver(&lab, &[Family::V4]);
    let _gate = lab.gate_on_gateway(capabilities, &host_policy(capture));
    let docker = "table ip nat {\n chain DOCKER { tcp dport 8080 dnat to 172.17.0.2:80; }\n}\n";
    lab.load(&(docker.to_owned() + &delivered("closed.nft")));
    assert_eq!(reaches_out(&[]), [], "the stand-in forwards nothing");
    for at in ATTACKER.map(|to| SocketAddr::new(ip(to), 443)) {
        let tried = || TcpStream::connect_timeout(&at, Duration::from_millis(300));
        assert!(Place::Gateway.inside(tried).is_err(), "the stand-in lets nothing out");
    }
    settle();
    assert_eq!(attacker.reached(), 0);

    let tables = || lab.sh(GATEWAY, "nft list tables").succeeded().stdout();
    assert_eq!(tables(), "table ip nat\ntable inet pullgate_closed");
    let file = lab.dir().join("printed.nft");
    fs::write(&file, lab.kit(&format!("nftables --user {GATE_USER}"))).unwrap();
    for _ in 0..2 {
        Place::Gateway.run(&format!("nft -f {}", file.display()));
        assert_eq!(tables(), "table ip nat\ntable inet pullgate_host");
    }
}
