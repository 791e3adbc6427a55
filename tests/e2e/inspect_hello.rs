//! The rules for ClientHellos hold in an inspected tunnel as in every other: the gate's own TLS never
//! sees what the guard refuses, and the audit has the reason.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::cases::drafts::{Draft, record as one_record};
use crate::cases::hellos::hostile;
use crate::harness::{Blobs, Gate, Lab, Tap, Way, wait_until};
use crate::inspect::{LOGIN, authority, policy};
use crate::second_hello::{
    ACCESS_DENIED, ALERT, HANDSHAKE, RETRY, SECP521R1, X25519, assert_retried, hello, hello_with,
    record, tunnel,
};

/// A counting relay in front of the login server, and a gate that inspects what leads there.
fn tapped(lab: &Lab) -> (Tap, Gate) {
    let tap = Tap::start("127.0.2.7:443".parse().unwrap(), "127.0.1.1:443".parse().unwrap());
    let dns = format!("[dns.hosts]\n\"{LOGIN}\" = [\"127.0.2.7\"]\n");
    let limits = "[limits]\nnew-sessions-per-second-per-client = 10000\n";
    let gate = lab.gate(&policy(lab, "").with_dns(&dns).with_more(limits));
    (tap, gate)
}

/// How many sessions were denied for a reason so far.
fn denied(gate: &Gate, reason: &str) -> f64 {
    let labels = [format!("reason=\"{reason}\""), "outcome=\"denied\"".to_owned()];
    gate.metric("pullgate_sessions_total", &labels.each_ref().map(String::as_str))
}

/// Waits until one more session was denied for this reason.
#[track_caller]
fn denied_since(gate: &Gate, before: f64, (case, reason): (&str, &str)) {
    wait_until(&format!("{case} is denied as {reason}"), || {
        (denied(gate, reason) > before).then_some(())
    });
}

/// What the client is sent until the connection ends.
fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("closed in order");
    bytes
}

#[test]
fn hellos_that_no_tunnel_allows_are_refused_in_an_inspected_one() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let (tap, gate) = tapped(&lab);
    let strangers = ["fabrikam.azurecr.io", "evil.example.com", "contoso.eastus.data.azurecr.io"]
        .map(|name| (name, Draft::modern().named(name).records(), "sni-mismatch"));
    let malformed = hostile();
    let malformed =
        malformed.into_iter().map(|(case, bytes, fault)| (case, bytes, fault.reason().code()));
    for (case, bytes, reason) in strangers.into_iter().chain(malformed) {
        let before = denied(&gate, reason);
        let mut client = tunnel(LOGIN);
        client.write_all(&bytes).unwrap();
        assert_eq!(rest(client), [ALERT, 3, 3, 0, 2, 2, ACCESS_DENIED], "{case}");
        denied_since(&gate, before, (case, reason));
    }
    assert_eq!(tap.counted().1, 0, "no byte reached the login server");
}

#[test]
pub fn a_second_hello_that_lies_is_cut_in_an_inspected_tunnel() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let (tap, gate) = tapped(&lab);
    let with = |kind: u16, body: &[u8]| hello_with(LOGIN, X25519, &[], &[(kind, body)]);
    let honest = hello(LOGIN, X25519);
    for (case, second, reason) in [
        ("another name", hello("fabrikam.azurecr.io", X25519), "second-hello-mismatch"),
        ("a name below", hello("x.contoso.azurecr.io", X25519), "second-hello-mismatch"),
        ("an address", hello("127.0.1.3", X25519), "second-hello-mismatch"),
        ("another suite", hello_with(LOGIN, X25519, &[0x13, 4], &[]), "second-hello-mismatch"),
        ("ECH", with(0xfe0d, &[0; 60]), "encrypted-client-hello"),
        ("an inner ECH", with(0xfe0d, &[1]), "encrypted-client-hello"),
        ("ESNI", with(0xffce, &[0; 60]), "encrypted-client-hello"),
        ("early data", with(42, b""), "early-data"),
        ("two names", with(0, &[0, 4, 0, 0, 1, b'x']), "hello-malformed"),
        ("bytes behind it", [honest.clone(), one_record(23, b"x")].concat(), "hello-malformed"),
        ("a third hello", [honest.clone(), honest.clone()].concat(), "hello-malformed"),
        ("application data", one_record(23, b"GET /v2/"), "not-tls"),
        ("HTTP", b"GET /v2/ HTTP/1.1\r\n\r\n".to_vec(), "not-tls"),
    ] {
        let before = denied(&gate, reason);
        let mut client = tunnel(LOGIN);
        assert_retried(&mut client, LOGIN);
        client.write_all(&second).unwrap();
        let (kind, answer) = record(&mut client);
        assert_eq!((kind, answer), (ALERT, vec![2, ACCESS_DENIED]), "{case}");
        assert!(rest(client).is_empty(), "{case}");
        denied_since(&gate, before, (case, reason));
        let line = gate.audited(&[("reason", reason)]);
        assert_eq!((&line["outcome"], &line["inspected"]), (&"denied".into(), &true.into()));
        assert!(line["facts"]["tls-fault"].is_string(), "{case}: {line}");
    }
    // What the guard lets pass, TLS itself rejects: a share that was not asked for.
    let mut client = tunnel(LOGIN);
    assert_retried(&mut client, LOGIN);
    client.write_all(&hello(LOGIN, SECP521R1)).unwrap();
    let (kind, answer) = record(&mut client);
    assert_eq!((kind, answer[0]), (ALERT, 2));
    drop(client);
    let line = gate.audited(&[("reason", "proxy-tls")]);
    assert_eq!(line["inspected"], true, "{line}");
    // An honest client gets its ServerHello.
    let mut client = tunnel(LOGIN);
    assert_retried(&mut client, LOGIN);
    client.write_all(&honest).unwrap();
    let (kind, answer) = record(&mut client);
    assert!(kind == HANDSHAKE && answer[6..10] != RETRY, "{kind}: {answer:02x?}");
    drop(client);
    assert_eq!(tap.counted().1, 0, "no byte reached the login server");
}

/// Under TLS 1.2 a client could begin another handshake inside the first.
#[test]
fn a_renegotiation_ends_an_inspected_tunnel() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let (tap, gate) = tapped(&lab);
    let connect = format!(
        "(printf 'GET /v2/ HTTP/1.1\\r\\nHost: {LOGIN}\\r\\n\\r\\n'; cat renegotiate) | \
         openssl s_client -tls1_2 -CAfile {} -verify_return_error -proxy 127.0.0.1:3128 \
         -connect {LOGIN}:443 -servername {LOGIN}",
        authority(&lab).display()
    );
    let pipe = lab.dir().join("renegotiate");
    lab.sh(Way::Direct, &format!("mkfifo {}", pipe.display())).succeeded();
    let mut command = lab.command(Way::Direct, &["sh", "-c", &connect]);
    let mut client = command.current_dir(lab.dir()).spawn().unwrap();
    let mut input = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    gate.audited(&[("kind", "request"), ("operation", "ping")]);
    let before = tap.counted().1;
    // `R` on a line of its own makes s_client begin it.
    input.write_all(b"R\n").unwrap();
    let line = gate.audited(&[("reason", "renegotiation")]);
    assert_eq!((&line["outcome"], &line["inspected"]), (&"denied".into(), &true.into()), "{line}");
    drop(input);
    client.wait().unwrap();
    // The gate may have ended its own TLS with the server, which is all.
    assert!(tap.counted().1 < before + 100);
}
