//! The rules of `pullgate kit` leave no path that bypasses the gate, and each rule is necessary.
//! `pullgate doctor` detects both: it succeeds with all rules, and fails if any single one is
//! missing.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use crate::harness::{
    ATTACKER, Attacker, Blobs, Daemon, Family, INSIDE, Lab, METADATA, Place, Policy, RESOLVER, Ran,
    Way, resolver_of, stub, wait_until,
};

/// One address family each, so that neither hides a fault of the other.
const ALLOWED: &str = "contoso.azurecr.io,fabrikam.azurecr.io";

const CLIENT: Way = Way::In(Place::Client);
const GATEWAY: Way = Way::In(Place::Gateway);

/// Runs `doctor` with test addresses instead of the internet.
fn doctor(lab: &Lab, way: Way, more: &str) -> Ran {
    let program = env!("CARGO_BIN_EXE_pullgate");
    let tried = format!(
        "--outside {} --ports 22,80,853,8443 --metadata {} --timeout-ms 800",
        ATTACKER.join(","),
        METADATA.join(",")
    );
    lab.sh(way, &format!("{program} doctor {tried} {more}"))
}

/// Runs `doctor` until it reports the expected result: on a busy machine, an answer can arrive
/// after the timeout.
pub fn says(lab: &Lab, way: Way, more: &str, code: i32) -> String {
    let mut last = String::new();
    wait_until(&format!("the doctor ends with {code}"), || {
        let ran = doctor(lab, way, more);
        assert!(ran.status.code().is_some_and(|code| code < 2), "{}", ran.text);
        // The last output is shown if the expected result never occurs.
        println!("{}", ran.text);
        last = ran.text;
        (ran.status.code() == Some(code)).then_some(())
    });
    last
}

/// Returns the doctor's output for a stopped gate. The connections to its ports are refused, and
/// the doctor cannot tell by whom.
fn stopped(lab: &Lab, way: Way, more: &str) -> String {
    let said = doctor(lab, way, more).text;
    let unexpected = |line: &&str| {
        let refused = line.starts_with("unsure") && line.contains(": refused");
        !(refused || line.starts_with("closed") || line.starts_with("skipped"))
    };
    let ways = said.lines().take_while(|line| !line.contains(" closed, "));
    assert_eq!(ways.filter(unexpected).collect::<Vec<_>>(), [""; 0], "{said}");
    said
}

/// Returns all variants of the rules: with one rule removed, and with one drop policy set to
/// accept.
fn weakened(rules: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = rules.lines().collect();
    let without = |number: usize, instead: String| {
        let kept = lines.iter().enumerate().map(|(at, line)| match at == number {
            true => instead.clone(),
            false => (*line).to_owned(),
        });
        kept.collect::<Vec<_>>().join("\n") + "\n"
    };
    let rule = |line: &str| {
        let line = line.trim();
        let plain = !line.is_empty() && !line.starts_with('#') && !line.ends_with('{');
        // What is included is the operator's.
        plain && !line.starts_with("type ") && !line.starts_with("include ") && line != "}"
    };
    let mut variants = Vec::new();
    for (number, line) in lines.iter().enumerate().filter(|(_, line)| line.starts_with("\t\t")) {
        if rule(line) {
            variants.push((line.trim().to_owned(), without(number, String::new())));
        } else if line.contains("policy drop") {
            let instead = line.replace("policy drop", "policy accept");
            variants.push((line.trim().to_owned(), without(number, instead)));
        }
    }
    variants
}

/// Deletes neighbour entries learned under other rules.
fn forget_neighbours() {
    for place in [Place::Client, Place::Gateway] {
        place.run("ip neigh flush all");
    }
    let here = Command::new("ip").args(["neigh", "flush", "all"]).status();
    assert!(here.is_ok_and(|status| status.success()));
}

/// What one machine can reach on another: whether it can connect, and whether it sees closed ports.
fn reaches(from: Place, to: Place, address: IpAddr) -> (bool, bool) {
    let patience = Duration::from_millis(400);
    let listener = to.inside(|| TcpListener::bind((address, 0)).unwrap());
    let at = listener.local_addr().unwrap();
    let connects = from.inside(|| TcpStream::connect_timeout(&at, patience).is_ok());
    drop(listener);
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = from.inside(|| UdpSocket::bind((any, 0)).unwrap());
    socket.set_read_timeout(Some(patience)).unwrap();
    socket.connect(at).unwrap();
    // The second attempt shows the result of the first.
    let sent = socket.send(b"?").and_then(|_| socket.recv(&mut [0; 8]));
    let is_refused = sent.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
    (connects, is_refused)
}

/// Rules that the machine needs, not the gate's clients: without them nothing is open, but
/// something that must work fails.
fn is_missed_by_the_machine(rule: &str, from: Place, to: Place, addresses: [&str; 2]) -> bool {
    let expected = match rule {
        "ct state established ct direction reply accept" => (false, true),
        "ct state { established, related } ct direction reply ct mark $entered accept" => {
            (false, false)
        }
        _ if rule.ends_with("ct mark set $entered") => (false, false),
        "ct state related accept" => (true, false),
        _ => return false,
    };
    for address in addresses.map(|text| text.parse().unwrap()) {
        wait_until(&format!("{rule} is missed"), || {
            (reaches(from, to, address) == expected).then_some(())
        });
    }
    true
}

/// Ports of the gate that are visible from outside, where no clients are. `doctor` would report
/// them as closed there, because the gate rejects it.
fn shown_outside() -> Vec<SocketAddr> {
    let places = INSIDE.map(|ip| [3129, 53].map(|port| SocketAddr::new(ip.parse().unwrap(), port)));
    let patience = Duration::from_millis(400);
    let shown = |at: &SocketAddr| TcpStream::connect_timeout(at, patience).is_ok();
    places.into_iter().flatten().filter(shown).collect()
}

/// Asserts that `doctor` reports what is open or does not work, and the fix.
fn assert_named(said: &str, rule: &str) {
    let named = said.lines().any(|line| {
        let open = line.starts_with("OPEN") || line.starts_with("unsure");
        open && line.contains("close it by: ")
            || line.starts_with("FAILS") && line.contains("it needs: ")
    });
    assert!(named, "without {rule}:\n{said}");
}

fn outside(lab: &Lab) -> (Daemon, Attacker) {
    let resolver = resolver_of(lab, |name| match name.starts_with("fabrikam") {
        true => vec![Family::V6],
        false => vec![Family::V4],
    });
    (resolver, Attacker::start(lab))
}

/// A gateway with every kind of listener.
pub fn gateway_policy(capture: &str, answer: &str) -> Policy {
    let listening = INSIDE.map(|ip| if ip.contains(':') { format!("[{ip}]") } else { ip.into() });
    let listening = listening.map(|ip| {
        format!(
            "[[listen]]\nmode = \"transparent\"\naddress = \"{ip}:3129\"\ncapture = \"{capture}\"\n"
        )
    });
    let more = format!(
        "{}[[listen]]\nmode = \"connect\"\naddress = \"{}:3128\"\n\
         [answerer]\naddresses = [\"{}\", \"{}\"]\nanswer = \"{answer}\"\n",
        listening.concat(),
        INSIDE[0],
        INSIDE[0],
        INSIDE[1]
    );
    let dns = format!("[dns]\nservers = [\"{}\"]\n", RESOLVER[0]);
    Policy::of(&["contoso", "fabrikam"]).with_dns(&dns).with_more(&more)
}

fn on_a_gateway(capture: &str, capabilities: &str, kit: &str) {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let (_resolver, attacker) = outside(&lab);
    // Other services of a gateway that clients must not reach.
    let own = ["python3", "-m", "http.server", "--bind", INSIDE[0], "22"];
    let _own = lab
        .daemon_on(Way::In(Place::Gateway), "own", &own)
        .accepts_in(Place::Gateway, "10.7.0.1:22".parse().unwrap());
    let gate = lab.gate_on_gateway(capabilities, &gateway_policy(capture, "real"));
    lab.resolve_by(Place::Client, &INSIDE);
    lab.route_captured();
    let transparent = format!("--allowed {ALLOWED} --closed 10.7.0.1:22");
    let explicit = format!("{transparent} --proxy http://10.7.0.1:3128");
    let clients = ["10.7.0.2", "fd07::2"];

    let ways = [
        ("TCP 80 to 198.51.100.66", "tcp dport 80 drop"),
        ("TCP 22 to 2001:db8::66", "tcp dport 22 drop"),
        ("UDP 443 to 198.51.100.66, QUIC", "udp dport 443 drop"),
        ("TCP 443 to 198.51.100.66, without a name", "tcp dport 443 redirect to :3129"),
        ("the metadata address 169.254.169.254", "ip daddr 169.254.169.254 drop"),
        ("DNS at 198.51.100.66:53 over UDP", "th dport 53 drop"),
        ("TCP 22 to 10.7.0.1", "ip daddr 10.7.0.1 tcp dport 22 drop"),
    ];
    // Nothing listens on these ports, so the far end refuses.
    let refused = format!("{transparent},198.51.100.66:9,[2001:db8::66]:9");
    wait_until("every path is reported as open", || {
        let said = says(&lab, CLIENT, &refused, 1);
        // The gate's own answerer refuses, and nobody else does.
        let answerers =
            INSIDE.map(|ip| format!("DNS at {}", SocketAddr::new(ip.parse().unwrap(), 53)));
        let mut closed = said.lines().filter(|line| line.starts_with("closed"));
        if !closed.all(|line| answerers.iter().any(|answerer| line.contains(answerer))) {
            return None;
        }
        for place in ["198.51.100.66", "2001:db8::66"] {
            let line = format!("unsure  TCP 9 to {place}: refused");
            assert!(said.contains(&line), "{line} is absent from\n{said}");
        }
        let is_listed = |(way, rule): &(&str, &str)| {
            let begins = format!("OPEN    {way}");
            said.lines().any(|line| line.starts_with(&begins) && line.contains(rule))
        };
        ways.iter().all(is_listed).then_some(())
    });

    let rules = lab.kit(kit);
    lab.load(&rules);
    forget_neighbours();
    let before = attacker.reached();
    let well = says(&lab, CLIENT, &transparent, 0);
    for works in
        ["at its address from DNS: 198.51.100.11", "at [2001:db8::66]:443, a foreign address"]
    {
        let line = format!("works   contoso.azurecr.io:443 {works}");
        assert!(well.contains(&line), "{line} is absent from\n{well}");
    }
    says(&lab, CLIENT, &explicit, 0);
    assert_eq!(shown_outside(), [], "the gate is its clients' alone");
    assert_eq!(attacker.reached(), before, "{well}");
    for address in clients {
        let reached = reaches(Place::Gateway, Place::Client, address.parse().unwrap());
        assert_eq!(reached, (true, true), "what the gateway itself begins");
    }

    let variants = weakened(&rules);
    assert!(variants.len() >= 8, "{variants:?}");
    for (rule, weaker) in variants {
        println!("== without: {rule}");
        lab.load(&weaker);
        forget_neighbours();
        if is_missed_by_the_machine(&rule, Place::Gateway, Place::Client, clients) {
            continue;
        }
        if rule.starts_with("iifname $outside ") {
            let [shown] = shown_outside()[..] else { panic!("{rule}: {:?}", shown_outside()) };
            assert!(rule.contains(&format!(" daddr {} ", shown.ip())), "{rule}: {shown}");
            assert!(rule.contains(&format!(" dport {} ", shown.port())), "{rule}: {shown}");
            continue;
        }
        // Some rules are for clients that are configured to use the proxy.
        let by_proxy = rule.contains("3128");
        let said = says(&lab, CLIENT, if by_proxy { &explicit } else { &transparent }, 1);
        assert_named(&said, &rule);
    }
    lab.load(&rules);
    let before = attacker.reached();
    drop(gate);
    let stopped = stopped(&lab, CLIENT, "--closed 10.7.0.1:22");
    assert_eq!(attacker.reached(), before, "a gate that has stopped:\n{stopped}");
}

#[test]
fn a_gateway_with_redirect_leaves_no_way() {
    on_a_gateway("redirect", "+net_bind_service", "nftables --inside inside --outside outside");
}

#[test]
fn a_gateway_with_tproxy_leaves_no_way() {
    on_a_gateway(
        "tproxy",
        "+net_bind_service,+net_admin",
        "tproxy --inside inside --outside outside",
    );
}

/// A host that runs its own gate.
pub fn host_policy(capture: &str) -> Policy {
    let listening = ["127.0.0.1", "[::1]"].map(|ip| {
        format!(
            "[[listen]]\nmode = \"transparent\"\naddress = \"{ip}:3129\"\ncapture = \"{capture}\"\n"
        )
    });
    let more = listening.concat()
        + "[answerer]\naddresses = [\"127.0.0.1\", \"::1\"]\nanswer = \"real\"\n";
    let dns = format!("[dns]\nservers = [\"{}\"]\n", RESOLVER[0]);
    Policy::of(&["contoso", "fabrikam"]).with_dns(&dns).with_more(&more)
}

/// Here the gateway is the host, and its client represents a container.
fn on_a_host(capture: &str, capabilities: &str, kit: &str) {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let (_resolver, attacker) = outside(&lab);
    let _stub = stub(&lab, Place::Gateway);
    lab.resolve_by(Place::Gateway, &["127.0.0.1", "::1"]);
    lab.route_captured();
    let host = format!("--allowed {ALLOWED} --resolver 127.0.0.53");
    let explicit = format!("{host} --proxy http://127.0.0.1:3128");

    let gate = lab.gate_on_gateway(capabilities, &host_policy(capture));
    let rules = lab.kit(kit);
    says(&lab, GATEWAY, &host, 1);
    lab.load(&rules);
    forget_neighbours();
    let before = attacker.reached();
    let well = says(&lab, GATEWAY, &host, 0);
    says(&lab, GATEWAY, &explicit, 0);
    assert_eq!(attacker.reached(), before, "{well}");
    // Rules that accept what belongs to queries of the gate, sent by any user.
    let swept = format!("{host},{}", RESOLVER[0]);
    says(&lab, GATEWAY, &swept, 0);
    let weaker = rules.replace(" tcp flags & syn == 0", "");
    assert_ne!(weaker, rules);
    lab.load(&weaker);
    drop(gate);
    let gate = lab.gate_on_gateway(capabilities, &host_policy(capture));
    let said = says(&lab, GATEWAY, &swept, 1);
    let line = format!("OPEN    DNS at {}:53 from the ports of the gate", RESOLVER[0]);
    assert!(said.contains(&line), "{said}");
    lab.load(&rules);
    let before = attacker.reached();
    says(&lab, CLIENT, "", 0);
    for address in INSIDE {
        let reached = reaches(Place::Client, Place::Gateway, address.parse().unwrap());
        assert_eq!(reached, (true, true), "who comes in is answered");
    }
    drop(gate);
    let stopped = stopped(&lab, GATEWAY, "--resolver 127.0.0.53");
    assert_eq!(attacker.reached(), before, "a gate that has stopped:\n{stopped}");

    for (rule, weaker) in weakened(&rules) {
        println!("== without: {rule}");
        // A new gate has an empty DNS cache; without rules its start can be observed.
        lab.load("");
        let _gate = lab.gate_on_gateway(capabilities, &host_policy(capture));
        if rule.contains("oifname != \"lo\"") {
            assert_held_without_routes(&lab, &attacker, &rules, &weaker, &host);
            continue;
        }
        lab.load(&weaker);
        forget_neighbours();
        if is_missed_by_the_machine(&rule, Place::Client, Place::Gateway, INSIDE) {
            continue;
        }
        let said = match rule.as_str() {
            rule if rule.contains("hook forward") => says(&lab, CLIENT, "", 1),
            // Traffic captured by TPROXY needs no address of the host; the proxy does.
            "fib daddr type local accept" => says(&lab, GATEWAY, &explicit, 1),
            _ => says(&lab, GATEWAY, &host, 1),
        };
        assert_named(&said, &rule);
    }
}

/// Without the routes for marked packets, captured traffic does not arrive.
fn assert_held_without_routes(
    lab: &Lab,
    attacker: &Attacker,
    rules: &str,
    weaker: &str,
    host: &str,
) {
    for family in ["-4", "-6"] {
        Place::Gateway.run(&format!("ip {family} rule del fwmark 0x3129 lookup 3129"));
    }
    lab.load(rules);
    let before = attacker.reached();
    let held = says(lab, GATEWAY, host, 1);
    assert!(!held.contains("OPEN"), "{held}");
    assert_eq!(attacker.reached(), before, "{held}");
    lab.load(weaker);
    let said = says(lab, GATEWAY, host, 1);
    assert!(said.contains("OPEN    TCP 443 to 198.51.100.66"), "{said}");
    lab.route_captured();
}

#[test]
fn a_host_with_redirect_leaves_no_way() {
    on_a_host("redirect", "+net_bind_service", "nftables --user 990");
}

#[test]
fn a_host_with_tproxy_leaves_no_way() {
    on_a_host("tproxy", "+net_bind_service,+net_admin", "tproxy --user 990");
}

#[test]
fn the_variables_of_proxies_are_read_as_clients_read_them() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let program = env!("CARGO_BIN_EXE_pullgate");
    let said = |variables: &str| {
        let line = format!(
            "env {variables} {program} doctor --allowed contoso.azurecr.io --outside 198.51.100.66 \
             --ports 22 --metadata 169.254.169.254 --timeout-ms 100"
        );
        lab.sh(CLIENT, &line).text
    };
    let only_http = said("HTTP_PROXY=http://10.7.0.1:3128");
    assert!(only_http.contains("skipped a proxy for HTTPS: HTTP_PROXY is set"), "{only_http}");
    let proxy = "https_proxy=http://10.7.0.1:3128 HTTP_PROXY=http://10.7.0.1:3128";
    let exempt = said(&format!("{proxy} NO_PROXY=localhost,.azurecr.io"));
    let line = "FAILS   contoso.azurecr.io:443 by NO_PROXY: its entry \".azurecr.io\"";
    assert!(exempt.contains(line), "{exempt}");
    assert!(!exempt.contains("a proxy for HTTPS"), "{exempt}");
    assert!(!said(proxy).contains("NO_PROXY"));
}
