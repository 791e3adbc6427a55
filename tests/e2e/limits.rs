//! Limits: the gate answers with 429 or 503 and a reason phrase, never with a reset.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use crate::harness::{Blobs, Gate, Lab, Policy, Way, wait_until};
use crate::reload::reloaded;

fn file(label: &str, more: &str) -> String {
    format!(
        "login-server = \"{label}.azurecr.io\"\n\
         data-endpoints = [\"{label}.eastus.data.azurecr.io\"]\nclients = \"everyone\"\n{more}\n"
    )
}

/// Requests a tunnel and keeps it open. Returns the head of the answer and the connection.
fn ask(host: &str) -> (String, TcpStream) {
    let mut gate = TcpStream::connect("127.0.0.1:3128").unwrap();
    write!(gate, "CONNECT {host}:443 HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && gate.read(&mut byte).unwrap() == 1 {
        head.push(byte[0]);
    }
    (String::from_utf8(head).unwrap(), gate)
}

/// Asserts that the answer contains the text, has a body, and closes in order.
#[track_caller]
fn assert_rejected((head, mut gate): (String, TcpStream), status: &str, says: &str) {
    assert!(head.starts_with(&format!("HTTP/1.1 {status} pullgate: ")), "{head}");
    assert!(head.contains(says) && head.contains("proxy-status: pullgate; error="), "{head}");
    let mut body = String::new();
    gate.read_to_string(&mut body).unwrap();
    assert!(body.starts_with("{\"error\":"), "{body}");
}

const LOCAL: &str = "[[client]]\nname = \"local\"\nnetworks = [\"127.0.0.0/8\"]\n";

fn gate(lab: &Lab, client: &str, limits: &str) -> Gate {
    let policy = Policy::of(&[]).with_file("contoso.toml", &file("contoso", ""));
    lab.gate(&policy.with_more(&format!("[limits]\n{limits}\n{LOCAL}{client}\n")))
}

#[test]
fn sessions_are_limited_by_address_and_by_client() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let gate = gate(&lab, "open-sessions = 2", "open-sessions-per-client = 4");
    let host = "contoso.azurecr.io";
    let held = [ask(host), ask(host)];
    assert!(held.iter().all(|(head, _)| head.starts_with("HTTP/1.1 200 ")));
    assert_rejected(ask(host), "503", "too many open sessions; local has too many sessions open [");
    drop(held);
    wait_until("they have ended", || {
        (gate.metric("pullgate_open_sessions", &[]) == 0.0).then_some(())
    });
    let (head, _gate) = ask(host);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    gate.audited(&[("reason", "session-limit"), ("client-name", "local")]);
}

#[test]
fn new_sessions_are_limited_by_address_and_by_client() {
    for (client, limits, says) in [
        ("new-sessions-per-second = 1", "", "too many new sessions of local [rate-limit"),
        (
            "",
            "new-sessions-per-second-per-client = 1",
            "new sessions from this address [rate-limit",
        ),
    ] {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let lab = Lab::new(Blobs::DataEndpoint);
                let gate = gate(&lab, client, limits);
                // Even on a slow machine, several of these arrive within one second.
                let refused = (0..200).map(|_| ask("contoso.azurecr.io"));
                let refused = { refused }.find(|(head, _)| !head.starts_with("HTTP/1.1 200 "));
                assert_rejected(refused.unwrap(), "429", says);
                gate.audited(&[("reason", "rate-limit"), ("outcome", "denied")]);
            });
        });
    }
}

#[test]
pub fn a_tunnel_ends_with_its_lifetime() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let large = lab.served("contoso").join("layer");
    fs::File::create(large).unwrap().set_len(1 << 30).unwrap();
    let gate = gate(&lab, "", "session-lifetime-ms = 3000");
    let url = "https://contoso.eastus.data.azurecr.io/layer";
    let pull = format!("curl -sS --limit-rate 8M -o /dev/null {url}");
    lab.sh(Way::Through(&gate), &pull).failed();
    let line = gate.audited(&[("reason", "lifetime"), ("outcome", "denied")]);
    assert!(line["ms"]["relay"].as_f64().unwrap() >= 2_900.0, "{line}");
    assert!(line["bytes-down"].as_u64().unwrap() > 0, "{line}");
}

#[test]
fn downloads_keep_the_rate_of_their_client_and_of_their_registry() {
    const SIZE: u64 = 12 << 20;
    let lab = Lab::new(Blobs::DataEndpoint);
    let layer = lab.served("contoso").join("layer");
    fs::File::create(layer).unwrap().set_len(SIZE).unwrap();
    let rate = "download-bytes-per-second = 4_194_304";
    let gate = gate(&lab, rate, "");
    let url = "https://contoso.eastus.data.azurecr.io/layer";
    let pull = |files: u64| {
        let began = Instant::now();
        let words = format!("-o /dev/null {url} ").repeat(files as usize);
        let line = format!("curl -sSf --no-keepalive --parallel --parallel-immediate {words}");
        lab.sh(Way::Through(&gate), &line).succeeded();
        began.elapsed().as_secs_f64()
    };
    // A lower bound holds on every machine; the burst before the rate limit is less than 1 MB.
    let took = pull(1);
    assert!(took > 2.7, "12 MiB at 4 MiB/s took {took} s");
    let lines = gate.audit_of_all();
    let spliced = lines[0]["spliced-down"].as_u64().unwrap();
    assert!(spliced > SIZE * 9 / 10, "it is the splice that is paced: {}", lines[0]);
    // The registry's rate limit applies as well, also to open tunnels.
    reloaded(&gate, || {
        let slower = file("contoso", "download-bytes-per-second = 2_097_152");
        fs::write(gate.registries().join("contoso.toml"), slower).unwrap();
    });
    let took = pull(1);
    assert!(took > 5.4, "12 MiB at 2 MiB/s took {took} s");
}
