//! A gateway: nftables redirects the traffic of a client without any setting to the gate.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use crate::cases::drafts::{Draft, names};
use crate::harness::{
    ATTACKER, Attacker, Blobs, Family, Gate, INSIDE, Image, Lab, PATIENCE, Place, Policy, RESOLVER,
    Way, resolver, sha256, wait_until,
};

const CLIENT: Way = Way::In(Place::Client);
const REFERENCE: &str = "contoso.azurecr.io/app:1";

/// How traffic is redirected to the gate: the capture mode, the gate's capabilities, and the `kit`
/// subcommand.
pub const CAPTURES: [(&str, &str, &str); 2] = [
    ("redirect", "+net_bind_service", "nftables --inside inside --outside outside"),
    ("tproxy", "+net_bind_service,+net_admin", "tproxy --inside inside --outside outside"),
];

/// A gateway whose DNS server answers with the real addresses.
pub fn policy(capture: &str) -> Policy {
    let bracketed = |ip: &str| if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let listening = |ip: &str| {
        format!(
            "[[listen]]\nmode = \"transparent\"\naddress = \"{}:3129\"\n\
             capture = \"{capture}\"\n",
            bracketed(ip)
        )
    };
    let answering = format!(
        "[answerer]\naddresses = [\"{}\", \"{}\"]\nanswer = \"real\"\n",
        INSIDE[0], INSIDE[1]
    );
    let dns = format!("[dns]\nservers = [\"{}\"]\n", RESOLVER[0]);
    Policy::of(&["contoso"])
        .with_dns(&dns)
        .with_more(&(INSIDE.map(listening).concat() + &answering))
}

/// Pulls with skopeo. Returns every file of the pulled image.
fn pull(lab: &Lab, name: &str) -> BTreeMap<String, Vec<u8>> {
    let to = lab.dir().join(name);
    let copy = "skopeo copy --preserve-digests";
    lab.sh(CLIENT, &format!("{copy} docker://{REFERENCE} dir:{}", to.display())).succeeded();
    files(&to)
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

/// Asserts that every session came from the client through its listener, and that layers were
/// spliced.
fn assert_relayed(gate: &Gate, image: &Image, family: Family) {
    let client = ["10.7.0.2", "fd07::2"][family as usize];
    let lines = gate.audit_of_pulls();
    assert!(!lines.is_empty());
    for line in &lines {
        assert_eq!(line["outcome"], "relayed", "{line}");
        assert_eq!(line["client"], client, "{line}");
        assert_eq!(line["facts"]["original-destination"], line["upstream"], "{line}");
        assert_eq!(line["facts"]["spoofed-destination"], serde_json::Value::Null, "{line}");
    }
    let data = ["endpoint=\"data\"", "path=\"splice\""];
    let spliced = gate.metric("pullgate_relayed_bytes_total", &data);
    let share = spliced / image.size() as f64;
    assert!(share > 0.95, "only {share} of the layers were spliced");
    assert_eq!(gate.metric("pullgate_spoofed_destinations_total", &[]), 0.0);
}

#[test]
fn a_client_without_any_setting_pulls_the_same_bytes() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let image = lab.push(REFERENCE, 1, &[4 << 20, 2 << 20, 2000]);
    lab.route_captured();
    for family in [Family::V4, Family::V6] {
        let _resolver = resolver(&lab, &[family]);
        lab.load("");
        lab.resolve_by(Place::Client, &RESOLVER);
        let past = pull(&lab, &format!("past-{family:?}"));
        lab.resolve_by(Place::Client, &INSIDE);
        for (capture, capabilities, rules) in CAPTURES {
            let gate = lab.gate_on_gateway(capabilities, &policy(capture));
            lab.load(&lab.kit(rules));
            let gated = pull(&lab, &format!("{capture}-{family:?}"));
            assert!(past == gated, "{capture} {family:?}");
            assert_eq!(format!("sha256:{}", sha256(&gated["manifest.json"])), image.digest);
            assert_relayed(&gate, &image, family);
        }
    }
}

#[test]
pub fn an_allowed_name_at_the_attackers_address_is_the_registrys_all_the_same() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let _resolver = resolver(&lab, &[Family::V4, Family::V6]);
    let attacker = Attacker::start(&lab);
    lab.route_captured();
    for (capture, capabilities, rules) in CAPTURES {
        let gate = lab.gate_on_gateway(capabilities, &policy(capture));
        lab.load(&lab.kit(rules));
        for address in ATTACKER {
            let host = if address.contains(':') { format!("[{address}]") } else { address.into() };
            let to = format!("--resolve contoso.azurecr.io:443:{host}");
            let line = format!("curl -sS -o /dev/null {to} https://contoso.azurecr.io/v2/");
            lab.sh(CLIENT, &line).succeeded();
            let spoofed = format!("{host}:443");
            let line = gate.audited_fact("spoofed-destination", &spoofed);
            assert_eq!(line["outcome"], "relayed", "{line}");
            assert_eq!(line["facts"]["original-destination"], spoofed, "{line}");
        }
        assert_eq!(gate.metric("pullgate_spoofed_destinations_total", &[]), 2.0);
        assert_eq!(attacker.reached(), 0, "{capture}");
    }
}

/// Hellos that must not pass, and the reasons.
fn forbidden() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    const SERVER_NAME: u16 = 0;
    const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
    let named = |name| Draft::modern().named(name).records();
    let two = names(&[(0, b"contoso.azurecr.io"), (0, b"evil.example.com")]);
    vec![
        ("another registry", named("fabrikam.azurecr.io"), "other-registry"),
        ("a storage account", named("eusmanaged123.blob.core.windows.net"), "storage-account"),
        ("a stranger", named("evil.example.com"), "host-not-allowed"),
        ("a stranger in capitals", named("EVIL.Example.COM"), "host-not-allowed"),
        ("a name below an allowed one", named("a.contoso.azurecr.io"), "other-registry"),
        ("a dot at the end", named("contoso.azurecr.io."), "hello-malformed"),
        ("an address for a name", named("198.51.100.66"), "hello-malformed"),
        ("two names", Draft::modern().with(SERVER_NAME, &two).records(), "hello-malformed"),
        ("no name", Draft::modern().without(SERVER_NAME).records(), "sni-missing"),
        (
            "ECH",
            Draft::modern().with(ENCRYPTED_CLIENT_HELLO, &[0; 64]).records(),
            "encrypted-client-hello",
        ),
        ("plain text", b"GET / HTTP/1.1\r\nHost: contoso.azurecr.io\r\n\r\n".to_vec(), "not-tls"),
    ]
}

#[test]
pub fn forbidden_traffic_reaches_no_host() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let resolver = resolver(&lab, &[Family::V4, Family::V6]);
    let attacker = Attacker::start(&lab);
    lab.route_captured();
    let registry = ["198.51.100.11", "2001:db8::11"];
    let places: Vec<IpAddr> =
        ATTACKER.iter().chain(&registry).map(|address| address.parse().unwrap()).collect();
    for (capture, capabilities, rules) in CAPTURES {
        let gate = lab.gate_on_gateway(capabilities, &policy(capture));
        lab.load(&lab.kit(rules));
        for to in &places {
            for (case, hello, reason) in forbidden() {
                let mut stream = Place::Client.inside(|| TcpStream::connect((*to, 443)).unwrap());
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.write_all(&hello).unwrap();
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).unwrap();
                assert_eq!(answer, [21, 3, 3, 0, 2, 2, 49], "{case} to {to}: {}", gate.log());
                gate.audited(&[("reason", reason)]);
            }
            // None of this is ever answered, so the test can only wait for a timeout.
            let silence = Duration::from_millis(300);
            for port in [22, 80, 853, 8443] {
                let at = SocketAddr::new(*to, port);
                let ended = Place::Client.inside(|| TcpStream::connect_timeout(&at, silence));
                assert!(ended.is_err(), "{at} accepted");
            }
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = Place::Client.inside(|| UdpSocket::bind(any).unwrap());
            socket.set_read_timeout(Some(silence)).unwrap();
            for port in [53, 443] {
                socket.send_to(&[0xc0; 1200], (*to, port)).unwrap();
            }
            assert!(socket.recv(&mut [0; 1500]).is_err(), "{to} answered over UDP");
        }
        assert_eq!((attacker.reached(), attacker.seen()), (0, 0), "{capture}");
        assert!(!resolver.log().contains("query["), "{}", resolver.log());
    }
    // Without rules everything passes, which shows that the counters work.
    lab.load("");
    let socket = Place::Client.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    socket.send_to(b"out", (places[0], 443)).unwrap();
    socket.send_to(b"out", (places[2], 443)).unwrap();
    wait_until("both are reached", || {
        (attacker.reached() > 0 && attacker.seen() > 0).then_some(())
    });
}

#[test]
fn what_nothing_redirected_is_judged_by_its_name() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let _resolver = resolver(&lab, &[Family::V4]);
    for (capture, capabilities, _) in CAPTURES {
        let gate = lab.gate_on_gateway(capabilities, &policy(capture));
        for host in INSIDE.map(|ip| if ip.contains(':') { format!("[{ip}]") } else { ip.into() }) {
            let at = |name: &str| {
                let line = format!(
                    "curl -sS -o /dev/null --connect-to {name}:443:{host}:3129 https://{name}/v2/"
                );
                lab.sh(CLIENT, &line)
            };
            at("contoso.azurecr.io").succeeded();
            let ran = at("fabrikam.azurecr.io").failed();
            assert!(ran.text.contains("access denied"), "{}", ran.text);
        }
        let relayed = gate.audited(&[("outcome", "relayed")]);
        assert_eq!(relayed["target"], "contoso.azurecr.io:443", "{relayed}");
        assert_eq!(relayed["facts"], serde_json::Value::Null, "{relayed}");
        gate.audited(&[("outcome", "denied"), ("reason", "other-registry")]);
    }
}

#[test]
fn the_port_that_was_dialled_is_judged() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let _resolver = resolver(&lab, &[Family::V4]);
    let attacker = Attacker::start(&lab);
    lab.route_captured();
    for (capture, capabilities, rules) in CAPTURES {
        let gate = lab.gate_on_gateway(capabilities, &policy(capture));
        lab.load(&lab.kit(rules).replace("ports = { 443 }", "ports = { 443, 8443 }"));
        let line = format!(
            "curl -sS -o /dev/null --connect-to contoso.azurecr.io:8443:{}:8443 \
             https://contoso.azurecr.io:8443/v2/",
            ATTACKER[0]
        );
        lab.sh(CLIENT, &line).failed();
        gate.audited(&[("target", "contoso.azurecr.io:8443"), ("reason", "port-not-allowed")]);
    }
    assert_eq!(attacker.reached(), 0);
}

#[test]
fn tproxy_says_which_capability_it_lacks() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let said = lab.gate_does_not_start("+net_bind_service", &policy("tproxy"));
    for part in ["10.7.0.1:3129", "CAP_NET_ADMIN", "capture = \"redirect\""] {
        assert!(said.contains(part), "{part} is absent from:\n{said}");
    }
}

#[test]
fn explain_prints_what_a_client_behind_a_gateway_reads() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let _resolver = resolver(&lab, &[Family::V4]);
    let (capture, capabilities, rules) = CAPTURES[0];
    let gate = lab.gate_on_gateway(capabilities, &policy(capture));
    lab.load(&lab.kit(rules));
    // DNS refuses the name; an entry in the hosts file does not help the client either.
    lab.resolve_by(Place::Client, &INSIDE);
    fs::write("/etc/netns/client/hosts", "198.51.100.13 fabrikam.azurecr.io\n").unwrap();
    let real = lab.sh(CLIENT, "skopeo inspect docker://fabrikam.azurecr.io/app:1").failed();
    let phrase = "remote error: tls: access denied";
    assert!(real.text.contains(phrase), "{}", real.text);
    gate.audited(&[("target", "fabrikam.azurecr.io:443"), ("reason", "other-registry")]);

    let config = lab.dir().join("gate/pullgate.toml");
    let program = env!("CARGO_BIN_EXE_pullgate");
    let explain = |what: &str| {
        let line =
            format!("{program} explain {what} --client 10.7.0.2 --config {}", config.display());
        lab.sh(Way::In(Place::Gateway), &line)
    };
    let text = explain("fabrikam.azurecr.io --transparent").failed().text;
    for part in ["denied [other-registry]", "DNS:       answer: NXDOMAIN", phrase] {
        assert!(text.contains(part), "{part} is absent from:\n{text}");
    }
    let text = explain("contoso.azurecr.io --dialled 198.51.100.66").succeeded().text;
    for part in [
        "contoso.azurecr.io: allowed",
        "DNS:       answer: its real addresses",
        "dialled:   198.51.100.66:443, not an address of the name: recorded as spoofed-destination",
        "address:   198.51.100.11:443",
    ] {
        assert!(text.contains(part), "{part} is absent from:\n{text}");
    }
    let text = explain("contoso.azurecr.io --dialled 198.51.100.11:8443").failed().text;
    assert!(text.contains("denied [port-not-allowed]"), "{text}");
}
