//! `verify-upstream`: no byte of a client reaches a server that is not the registry's.

use crate::harness::{
    Authority, Blobs, Daemon, Gate, IMPOSTOR, Lab, Policy, Way, dnsmasq, impostor, squid,
    tinyproxy, wait_until,
};
use crate::parent::with_parent;

const V2: &str = "curl -skv -o /dev/null https://contoso.azurecr.io/v2/";

fn policy(lab: &Lab) -> Policy {
    let file = format!(
        "login-server = \"contoso.azurecr.io\"\n\
         data-endpoints = [\"contoso.eastus.data.azurecr.io\"]\nca = \"{}\"\n",
        lab.authority().display()
    );
    Policy::of(&[]).with_file("contoso.toml", &file).with_policy("verify-upstream = true")
}

/// A server with a certificate for contoso, of an authority that nobody trusts.
fn forged(lab: &Lab) -> Daemon {
    let authority = Authority::new(&lab.dir().join("corp"), "Corp Inspection CA");
    let made = authority.issue("contoso.azurecr.io", "subjectAltName=DNS:contoso.azurecr.io");
    impostor(lab, "impostor", &made, 200)
}

fn is_denied(lab: &Lab, gate: &Gate) {
    let ran = lab.sh(Way::Through(gate), V2).failed();
    let says = "contoso.azurecr.io has no valid certificate; issuer: Corp Inspection CA";
    assert!(ran.text.contains(says), "{}", ran.text);
    assert!(ran.text.contains("[upstream-certificate "), "{}", ran.text);
    let line = gate.audited(&[("reason", "upstream-certificate")]);
    assert_eq!(line["bytes-up"], 0, "{line}");
    assert!(line["verified"].is_null(), "{line}");
}

#[test]
fn a_registry_is_verified_once_and_its_sessions_say_so() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let gate = lab.gate(&policy(&lab));
    for _ in 0..3 {
        lab.sh(Way::Through(&gate), V2).succeeded();
    }
    let lines = gate.audit_of_all();
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|line| line["verified"] == true), "{lines:?}");
    let config = lab.dir().join("gate/pullgate.toml");
    let program = env!("CARGO_BIN_EXE_pullgate");
    let explain = format!("{program} explain contoso.azurecr.io --config {}", config.display());
    let explained = lab.sh(Way::Direct, &explain).succeeded().text;
    assert!(explained.contains("verified:  the certificate"), "{explained}");
}

#[test]
fn a_forged_answer_of_dns_leads_nowhere() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let impostor = forged(&lab);
    let _server = dnsmasq(&lab, &[("contoso.azurecr.io", IMPOSTOR)]);
    let dns = "[dns]\nservers = [\"127.0.0.53\"]\n";
    let gate = lab.gate(&policy(&lab).with_dns(dns));
    is_denied(&lab, &gate);
    is_denied(&lab, &gate);
    assert!(!impostor.log().contains("GET"), "{}", impostor.log());
}

/// The address is the registry's own; a firewall answers in its place.
#[test]
fn a_firewall_that_intercepts_tls_is_named_by_its_issuer() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let impostor = forged(&lab);
    let gate = lab.gate(&policy(&lab));
    let table = "table ip middlebox { chain output { type nat hook output priority -100; \
                 ip daddr 127.0.1.1 tcp dport 443 dnat to 127.0.1.97:443; }\n}\n";
    let rules = lab.dir().join("middlebox.nft");
    std::fs::write(&rules, table).unwrap();
    lab.sh(Way::Direct, &format!("nft -f {}", rules.display())).succeeded();
    is_denied(&lab, &gate);
    let program = env!("CARGO_BIN_EXE_pullgate");
    let config = lab.dir().join("gate/pullgate.toml");
    let explain = format!("{program} explain contoso.azurecr.io --config {}", config.display());
    let explained = lab.sh(Way::Direct, &explain).failed().text;
    assert!(explained.contains("failed [upstream-certificate]"), "{explained}");
    assert!(explained.contains("issuer: Corp Inspection CA"), "{explained}");
    assert!(!impostor.log().contains("GET"), "{}", impostor.log());
    // Without the check the client's request gets there.
    let registries = gate.registries();
    drop(gate);
    std::fs::remove_dir_all(registries).unwrap();
    let unverified = lab.gate(&Policy::of(&["contoso"]));
    lab.sh(Way::Through(&unverified), V2).succeeded();
    assert!(impostor.log().contains("GET /v2/"), "{}", impostor.log());
    let doctor = format!(
        "{program} doctor --allowed contoso.azurecr.io --proxy {} --timeout-ms 3000",
        unverified.proxy()
    );
    let found = lab.sh(Way::Direct, &doctor).failed().text;
    let named = "this machine does not trust its certificate by Corp Inspection CA";
    let line = found.lines().find(|line| line.starts_with("FAILS") && line.contains(named));
    assert!(line.is_some_and(|line| line.contains("an exemption of the host")), "{found}");
    lab.sh(Way::Direct, "nft delete table ip middlebox").succeeded();
    let found = lab.sh(Way::Direct, &doctor).text;
    assert!(found.contains("a TLS server answers, its certificate is by "), "{found}");
    let explained = lab.sh(Way::Direct, &explain).succeeded().text;
    assert!(!explained.contains("verified:"), "{explained}");
    drop(impostor);
}

/// What was verified is not taken back while the server cannot be reached for another reason.
#[test]
fn a_server_that_recovers_is_verified_again() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let impostor = forged(&lab);
    let gate = lab.gate(
        &policy(&lab)
            .with_dns(&format!("[dns.hosts]\n\"contoso.azurecr.io\" = [\"{IMPOSTOR}\"]\n")),
    );
    is_denied(&lab, &gate);
    drop(impostor);
    let config = lab.dir().join("gate/pullgate.toml");
    let text = std::fs::read_to_string(&config).unwrap().replace(IMPOSTOR, "127.0.1.1");
    crate::reload::reloaded(&gate, || std::fs::write(&config, text).unwrap());
    wait_until("the registry is verified", || {
        lab.sh(Way::Through(&gate), V2).status.success().then_some(())
    });
    gate.audited(&[("outcome", "relayed")]);
}

const PARENT: &str = "127.0.0.1:8080";

fn explains(lab: &Lab) -> crate::harness::Ran {
    let config = lab.dir().join("gate/pullgate.toml");
    let program = env!("CARGO_BIN_EXE_pullgate");
    let explain = format!("{program} explain contoso.azurecr.io --config {}", config.display());
    lab.sh(Way::Direct, &explain)
}

/// The handshakes of the gate's own take the route of the tunnels.
#[test]
fn behind_a_parent_a_registry_is_verified_through_it_and_once() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let _squid = squid(&lab, PARENT, "http_access allow all");
    let log = "/run/squid-127.0.0.1-8080/access.log";
    for connect in ["name", "address"] {
        let _ = std::fs::remove_dir_all(lab.dir().join("gate"));
        std::fs::write(log, "").unwrap();
        let gate = lab.gate(&with_parent(policy(&lab), &[PARENT], connect, ""));
        for _ in 0..3 {
            lab.sh(Way::Through(&gate), V2).succeeded();
        }
        let lines = gate.audit_of_all();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line["verified"] == true), "{lines:?}");
        let target = if connect == "name" { "contoso.azurecr.io:443" } else { "127.0.1.1:443" };
        // Three tunnels and one check; Squid writes a line when a tunnel has ended.
        wait_until(&format!("four tunnels by {connect}"), || {
            let log = std::fs::read_to_string(log).unwrap();
            (log.matches(&format!("CONNECT {target}")).count() == 4).then_some(())
        });
        let explained = explains(&lab).succeeded().text;
        let at = if connect == "name" { "behind the parent" } else { "at each address" };
        let line = format!("verified:  the certificate of the server {at}");
        assert!(explained.contains(&line), "{explained}");
    }
}

/// The parent, not the gate, is deceived: its DNS leads to an impostor, or its network does.
#[test]
fn a_parent_that_leads_to_an_impostor_gets_no_byte_of_a_client() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let impostor = forged(&lab);
    let _parent = tinyproxy(&lab, PARENT);
    // What the parent dials arrives at the impostor.
    let table = "table ip middlebox { chain output { type nat hook output priority -100; \
                 ip daddr 127.0.1.1 tcp dport 443 dnat to 127.0.1.97:443; }\n}\n";
    let rules = lab.dir().join("middlebox.nft");
    std::fs::write(&rules, table).unwrap();
    lab.sh(Way::Direct, &format!("nft -f {}", rules.display())).succeeded();
    for connect in ["name", "address"] {
        let _ = std::fs::remove_dir_all(lab.dir().join("gate"));
        let gate = lab.gate(&with_parent(policy(&lab), &[PARENT], connect, ""));
        is_denied(&lab, &gate);
        let explained = explains(&lab).failed().text;
        assert!(explained.contains("failed [upstream-certificate]"), "{explained}");
        assert!(explained.contains("issuer: Corp Inspection CA"), "{explained}");
        assert!(!impostor.log().contains("GET"), "{}", impostor.log());
    }
    // Another way of the same parent is verified anew after a while.
    let _ = std::fs::remove_dir_all(lab.dir().join("gate"));
    let gate = lab.gate(&with_parent(policy(&lab), &[PARENT], "name", ""));
    is_denied(&lab, &gate);
    lab.sh(Way::Direct, "nft delete table ip middlebox").succeeded();
    wait_until("the registry is verified", || {
        lab.sh(Way::Through(&gate), V2).status.success().then_some(())
    });
    let line = gate.audited(&[("outcome", "relayed")]);
    assert_eq!((&line["verified"], &line["parent"]), (&true.into(), &"corp".into()), "{line}");
}
