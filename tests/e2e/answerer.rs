//! The DNS server for clients of a gateway (`[answerer]`): it cannot be used to exfiltrate data.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};

use crate::harness::{
    Blobs, Family, INSIDE, Lab, PATIENCE, Place, Policy, RESOLVER, Random, Way, resolver,
    wait_until,
};

const CLIENT: Way = Way::In(Place::Client);
const ALLOWED: &str = "contoso.azurecr.io";

fn policy(answer: &str) -> Policy {
    let tables = format!(
        "[[listen]]\nmode = \"transparent\"\naddress = \"[::]:3129\"\n\
         [answerer]\naddresses = [\"{}\", \"{}\"]\nanswer = \"{answer}\"\n\
         queries-per-second = 1000000\n",
        INSIDE[0], INSIDE[1]
    );
    let dns = format!("[dns]\nservers = [\"{}\"]\n", RESOLVER[0]);
    Policy::of(&["contoso"]).with_dns(&dns).with_more(&tables)
}

/// Sends a batch of `name type` lines. Returns the number of answers per status.
fn dig(lab: &Lab, server: &str, batch: &str) -> BTreeMap<String, usize> {
    let file = lab.dir().join("batch");
    fs::write(&file, batch).unwrap();
    let options = "+tries=1 +time=10 +noall +comments +noedns";
    let line = format!("dig @{server} {options} -f {}", file.display());
    let ran = lab.sh(CLIENT, &line).succeeded();
    let mut counts = BTreeMap::new();
    for status in ran.text.split("status: ").skip(1) {
        *counts.entry(status.split(',').next().unwrap().to_owned()).or_default() += 1;
    }
    counts
}

fn short(lab: &Lab, server: &str, name: &str, kind: &str) -> String {
    lab.sh(CLIENT, &format!("dig @{server} +short +tries=1 {name} {kind}")).succeeded().stdout()
}

#[test]
fn a_name_that_is_not_allowed_is_refused_in_every_type_and_no_server_is_asked() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let outside = resolver(&lab, &[Family::V4, Family::V6]);
    for answer in ["gate", "real"] {
        let gate = lab.gate_on_gateway("+net_bind_service", &policy(answer));
        let mut batch = String::new();
        let named = "A NS CNAME SOA PTR MX TXT AAAA SRV NAPTR DS DNSKEY TLSA SVCB HTTPS CAA ANY";
        let numbers = (1..=40).chain(42..=249).chain(256..=270).chain([32768, 32769, 65280, 65535]);
        let types: Vec<String> = named
            .split(' ')
            .map(ToOwned::to_owned)
            .chain(numbers.map(|number: u16| format!("TYPE{number}")))
            .collect();
        for kind in &types {
            writeln!(batch, "fabrikam.azurecr.io {kind}").unwrap();
        }
        for name in ["example.com", "secret.contoso.azurecr.io", "azurecr.io", ".", "a.b.c.d.e.f"] {
            writeln!(batch, "{name} TXT\n{name} HTTPS\n{name} NS").unwrap();
        }
        let asked = types.len() + 15;
        for server in INSIDE {
            assert_eq!(dig(&lab, server, &batch), [("NXDOMAIN".to_owned(), asked)].into());
        }
        let transfer = lab.sh(CLIENT, &format!("dig @{} azurecr.io AXFR", INSIDE[0]));
        assert!(transfer.text.contains("Transfer failed"), "{}", transfer.text);
        let tcp = lab.sh(CLIENT, &format!("dig @{} +tcp secret.example.com TXT", INSIDE[0]));
        assert!(tcp.text.contains("status: NXDOMAIN"), "{}", tcp.text);
        assert!(!outside.log().contains("query["), "{answer}:\n{}", outside.log());
        let line = gate.audited(&[("target", "fabrikam.azurecr.io"), ("query", "TXT")]);
        assert_eq!(
            (&line["outcome"], &line["reason"]),
            (&"denied".into(), &"other-registry".into())
        );
        assert_eq!(line["client"], "10.7.0.2", "{line}");
        let refused = gate.metric("pullgate_dns_queries_total", &["result=\"refused\""]);
        assert!(refused >= 2.0 * asked as f64, "{refused}");
        assert_eq!(gate.metric("pullgate_sessions_total", &[]), 0.0, "a query is no session");
    }
}

/// Returns `count` queries for names outside the policy, each with a random label and a type.
fn random_questions(count: u16) -> impl Iterator<Item = Vec<u8>> {
    let mut random = Random::new(7);
    (0..count).map(move |number| {
        let label: String = random.bytes(24).iter().map(|byte| format!("{byte:02x}")).collect();
        let under = [ALLOWED, "eastus.data.azurecr.io", "example.com"][usize::from(number) % 3];
        let kind = [1, 28, 16, 65][usize::from(number) % 4];
        query(number, &format!("{label}.{under}"), kind)
    })
}

fn assert_refused(question: &[u8], answer: &[u8]) {
    assert_eq!(answer[..2], question[..2]);
    assert_eq!(answer[3] & 0xf, 3, "no such name");
    assert_eq!(answer[6..12], [0; 6], "and nothing beside: {}", answer.escape_ascii());
}

#[test]
fn ten_thousand_random_labels_ask_no_server() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let outside = resolver(&lab, &[Family::V4]);
    for answer in ["gate", "real"] {
        let gate = lab.gate_on_gateway("+net_bind_service", &policy(answer));
        let socket = Place::Client.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        socket.connect((INSIDE[0], 53)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes = [0; 1500];
        for question in random_questions(10_000) {
            socket.send(&question).unwrap();
            let length = socket.recv(&mut bytes).unwrap();
            assert_refused(&question, &bytes[..length]);
        }
        // The lifetime of one connection is too short for all of them.
        let questions: Vec<Vec<u8>> = random_questions(10_000).collect();
        for few in questions.chunks(1000) {
            let to = (INSIDE[0], 53);
            let mut stream = Place::Client.inside(|| TcpStream::connect(to).unwrap());
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            for question in few {
                let length = u16::try_from(question.len()).unwrap().to_be_bytes();
                stream.write_all(&[&length[..], question].concat()).unwrap();
                stream.read_exact(&mut bytes[..2]).unwrap();
                let length = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
                stream.read_exact(&mut bytes[..length]).unwrap();
                assert_refused(question, &bytes[..length]);
            }
        }
        assert!(!outside.log().contains("query["), "{answer}:\n{}", outside.log());
        let refused = gate.metric("pullgate_dns_queries_total", &["result=\"refused\""]);
        assert_eq!(refused, 20_000.0);
    }
}

fn query(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    bytes
}

#[test]
fn an_allowed_name_is_answered_by_the_policy_of_the_moment() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let outside = resolver(&lab, &[Family::V4, Family::V6]);
    for (answer, v4, v6) in
        [("gate", INSIDE[0], INSIDE[1]), ("real", "198.51.100.11", "2001:db8::11")]
    {
        let gate = lab.gate_on_gateway("+net_bind_service", &policy(answer));
        for server in INSIDE {
            assert_eq!(short(&lab, server, ALLOWED, "A"), v4, "{answer}");
            assert_eq!(short(&lab, server, ALLOWED, "AAAA"), v6, "{answer}");
            assert_eq!(short(&lab, server, "+tcp CONTOSO.azurecr.io", "A"), v4, "{answer}");
            for kind in ["HTTPS", "SVCB"] {
                let ran = lab.sh(CLIENT, &format!("dig @{server} {ALLOWED} {kind}")).succeeded();
                assert!(ran.text.contains("status: NOERROR"), "{}", ran.text);
                assert!(ran.text.contains("ANSWER: 0"), "{}", ran.text);
            }
            let withheld = dig(&lab, server, &format!("{ALLOWED} TXT\n{ALLOWED} MX\n"));
            assert_eq!(withheld, [("NOERROR".to_owned(), 2)].into());
        }
        let asked = outside.log().contains("query[A] contoso.azurecr.io");
        assert_eq!(asked, answer == "real", "{}", outside.log());

        fs::rename(gate.registries().join("contoso.json"), lab.dir().join("away")).unwrap();
        let file = "login-server = \"wingtip.example.com\"\n";
        fs::write(gate.registries().join("wingtip.toml"), file).unwrap();
        wait_until("the name is denied", || {
            let counts = dig(&lab, INSIDE[0], &format!("{ALLOWED} A\n"));
            counts.contains_key("NXDOMAIN").then_some(())
        });
        fs::remove_file(gate.registries().join("wingtip.toml")).unwrap();
    }
}

#[test]
fn a_client_pulls_that_knows_no_other_dns() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    lab.push("contoso.azurecr.io/app:1", 3, &[1 << 20, 2000]);
    let _outside = resolver(&lab, &[Family::V4]);
    fs::write(RESOLV_CONF, SEARCHING).unwrap();
    let gate = lab.gate_on_gateway("+net_bind_service", &policy("gate"));
    lab.load(
        "table inet test {
            chain capture {
                type nat hook prerouting priority dstnat
                iifname \"inside\" tcp dport 443 redirect to :3129
            }
        }",
    );
    let to = lab.dir().join("pulled");
    let copy = format!("skopeo copy docker://contoso.azurecr.io/app:1 dir:{}", to.display());
    lab.sh(CLIENT, &copy).succeeded();
    // By Go's own resolver, whatever skopeo was built with.
    let inspect = "env GODEBUG=netdns=go skopeo inspect docker://contoso.azurecr.io/app:1";
    lab.sh(CLIENT, inspect).succeeded();
    let sessions = wait_until("every session has its audit line", || {
        // The names of the search list have lines of their own.
        let mut lines = gate.audit();
        lines.retain(|line| line["query"].is_null());
        let open = gate.metric("pullgate_open_sessions", &[]);
        let counted = gate.metric("pullgate_sessions_total", &[]);
        (open == 0.0 && counted == lines.len() as f64).then_some(lines)
    });
    for line in sessions.iter().filter(|line| line["reason"] != "client-aborted") {
        assert_eq!(line["outcome"], "relayed", "{line}");
        let headed = line["facts"]["original-destination"].as_str().unwrap();
        assert!(INSIDE.iter().any(|own| headed.contains(own)), "{line}");
        assert_eq!(line["facts"]["spoofed-destination"], serde_json::Value::Null, "{line}");
    }
    let ran = lab.sh(CLIENT, "skopeo inspect docker://fabrikam.azurecr.io/app:1").failed();
    assert!(ran.text.contains("fabrikam.azurecr.io"), "{}", ran.text);
}

/// The client's resolv.conf.
const RESOLV_CONF: &str = "/etc/netns/client/resolv.conf";

/// As Kubernetes writes it: every name with fewer than five dots is tried below three domains first.
const SEARCHING: &str = "nameserver 10.7.0.1\n\
    search ns1.svc.cluster.local svc.cluster.local cluster.local\n\
    options ndots:5 timeout:5 attempts:2\n";

/// Prints the addresses of a name; ends with 2 if it does not exist, with 1 if it was not found out.
const LOOK_UP: &str = r#"
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
int main(int count, char **words) {
    struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM }, *found;
    int code = getaddrinfo(words[1], "443", &hints, &found);
    if (code == EAI_NONAME || code == EAI_NODATA) return 2;
    if (code) return puts(gai_strerror(code)), 1;
    for (; found; found = found->ai_next) {
        char text[64];
        getnameinfo(found->ai_addr, found->ai_addrlen, text, sizeof text, 0, 0, NI_NUMERICHOST);
        puts(text);
    }
    return 0;
}
"#;

/// REFUSED made musl wait for its timeout at each name, and give up at the first of a search list.
#[test]
fn musl_and_glibc_go_on_at_once_after_a_denied_name() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    fs::write(RESOLV_CONF, SEARCHING).unwrap();
    let gate = lab.gate_on_gateway("+net_bind_service", &policy("gate"));
    let source = lab.dir().join("look-up.c");
    fs::write(&source, LOOK_UP).unwrap();
    let counted = |result: &str| {
        gate.metric("pullgate_dns_queries_total", &[&format!("result=\"{result}\"")]) as usize
    };
    for compiler in ["musl-gcc", "gcc"] {
        let program = lab.dir().join(compiler);
        let compile = format!("{compiler} -o {} {}", program.display(), source.display());
        lab.sh(Way::Direct, &compile).succeeded();
        let look_up = |name: &str| lab.sh(CLIENT, &format!("{} {name}", program.display()));
        let before = (counted("refused"), counted("answered"));
        let found = look_up(ALLOWED).succeeded().stdout();
        let mut found: Vec<&str> = found.lines().collect();
        found.sort_unstable();
        assert_eq!(found, INSIDE, "{compiler}");
        // Two families each: three names of the search list, and the name itself. None twice.
        let after = (counted("refused"), counted("answered"));
        assert_eq!((after.0 - before.0, after.1 - before.1), (6, 2), "{compiler}");
        let ran = look_up("fabrikam.azurecr.io").failed();
        assert_eq!(ran.status.code(), Some(2), "{compiler}: {}", ran.text);
        assert_eq!(counted("refused") - after.0, 8, "{compiler}");
    }
}

#[test]
fn a_port_below_1024_takes_a_capability_and_the_gate_says_which() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let said = lab.gate_does_not_start("-all", &policy("gate"));
    assert!(said.contains("CAP_NET_BIND_SERVICE") && said.contains("10.7.0.1:53"), "{said}");
}
