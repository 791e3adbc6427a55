//! A parent that demands Kerberos: the example of `docs/parent.md`, as it is written there.

use std::fs;
use std::path::Path;

use crate::harness::{
    Blobs, Daemon, Gate, Image, Lab, Policy, Realm, Way, bound_to_this_thread, connect_through,
    every_client_pulls, squid, wait_until,
};

const REFERENCE: &str = "contoso.azurecr.io/app:1";
const SQUID: &str = "127.0.0.9:3128";
const GATE: &str = "127.0.0.1:3128";
const TARGET: &str = "contoso.azurecr.io:443";
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/parent/negotiate");

/// The section of the manual.
fn section() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/parent.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once("\n## Kerberos\n").unwrap();
    rest.split("\n## ").next().unwrap().to_owned()
}

/// Runs the lines of the ticket's service, with the keys of the test.
fn fetch_ticket(lab: &Lab, realm: &Realm, section: &str) {
    fs::create_dir_all("/run/pullgate-ticket").unwrap();
    let keys = realm.keys().display().to_string();
    let lines = section.lines().filter_map(|line| line.strip_prefix("ExecStart="));
    let lines: Vec<String> =
        lines.map(|line| line.replace("/etc/pullgate-ticket.keytab", &keys)).collect();
    assert_eq!(lines.len(), 3);
    for line in lines {
        lab.sh(Way::Direct, &line).succeeded();
    }
}

/// The manual's configuration, with the program of the source tree.
fn policy(section: &str) -> Policy {
    let (_, rest) = section.split_once("```toml\n").unwrap();
    let (process, rest) = rest.split_once("[policy]\n").unwrap();
    let (policy, parent) = rest.split_once("\n\n").unwrap();
    let parent = parent.split("```").next().unwrap();
    let parent = parent.replace("/usr/lib/pullgate/negotiate", PROGRAM);
    let names = Policy::of(&["contoso"]);
    let pinned = format!("{}\"squid.corp.example\" = \"127.0.0.9\"\n", names.dns);
    names.with_dns(&pinned).with_policy(policy).with_more(&format!("{process}{parent}"))
}

/// Starts a gate with these variables in its environment.
fn gate(lab: &Lab, policy: &Policy, variables: &[&str]) -> Gate {
    let mut command = bound_to_this_thread("env");
    command.args(variables).arg(env!("CARGO_BIN_EXE_pullgate"));
    Gate::start_by(command, lab.dir(), policy)
}

struct Corp {
    lab: Lab,
    realm: Realm,
    squid: Daemon,
    image: Image,
}

fn corp() -> Corp {
    let lab = Lab::new(Blobs::DataEndpoint);
    let image = lab.push(REFERENCE, 1, &[4 << 20, 1 << 20, 2000]);
    let realm = Realm::start(&lab);
    let squid = squid(&lab, SQUID, &realm.rules());
    Corp { lab, realm, squid, image }
}

#[test]
fn images_come_through_squid_with_a_ticket_as_in_the_manual() {
    let Corp { lab, mut realm, image, squid: _squid } = corp();
    let section = section();
    fetch_ticket(&lab, &realm, &section);
    // The gate itself needs no KDC.
    realm.close();
    let line = section.lines().find_map(|line| line.strip_prefix("Environment="));
    let gate = gate(&lab, &policy(&section), &[line.unwrap()]);
    every_client_pulls(&lab, Way::Through(&gate), REFERENCE, &image);
    let lines = gate.audit_of_pulls();
    assert!(lines.iter().all(|line| line["outcome"] == "relayed"), "{lines:?}");
    assert!(lines.iter().all(|line| line["parent"] == "corp"), "{lines:?}");
    let data = ["endpoint=\"data\"", "path=\"splice\""];
    let share = gate.metric("pullgate_relayed_bytes_total", &data) / image.size() as f64;
    assert!(share > 2.4, "three pulls, of which only {share} were spliced");
    let log = fs::read_to_string("/run/squid-127.0.0.9-3128/access.log").unwrap();
    assert!(log.contains("CONNECT 127.0.1.2:443 pullgate@CORP.EXAMPLE "), "{log}");
    assert!(!log.contains("TCP_DENIED"), "no request came without credentials:\n{log}");

    // Without the ticket nothing passes, and the log says why.
    fs::remove_file("/run/pullgate-ticket/ticket").unwrap();
    let (_, line) = connect_through(GATE, TARGET, "");
    assert!(line.starts_with("HTTP/1.1 502 ") && line.contains("[parent-auth "), "{line}");
    assert!(gate.log().contains("credentials-command: "), "{}", gate.log());
    realm.open(&lab);
    fetch_ticket(&lab, &realm, &section);
    wait_until("the new ticket is used", || {
        let (_, line) = connect_through(GATE, TARGET, "");
        line.starts_with("HTTP/1.1 200").then_some(())
    });
    drop(gate);
}

#[test]
fn the_gate_can_hold_the_keys_itself() {
    let Corp { lab, realm, squid: _squid, .. } = corp();
    let policy = policy(&section());
    // The folder of the configuration is one that the gate can read.
    let keys = lab.dir().join("gate/pullgate.keytab");
    fs::create_dir_all(keys.parent().unwrap()).unwrap();
    fs::copy(realm.keys(), &keys).unwrap();
    let keys = format!("KRB5_CLIENT_KTNAME={}", keys.display());
    let gate = gate(&lab, &policy, &["KRB5CCNAME=MEMORY:", &keys]);
    for _ in 0..3 {
        let (_tunnel, line) = connect_through(GATE, TARGET, "");
        assert!(line.starts_with("HTTP/1.1 200"), "{line}\n{}", gate.log());
    }
    drop(gate);
}
