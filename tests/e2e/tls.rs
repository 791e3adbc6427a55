//! Clients of several makes, and what they may and may not say in their ClientHello.

use std::fs;

use crate::harness::{Blobs, Lab, Policy, Way};

const FILE: &str = "https://contoso.eastus.data.azurecr.io/hello";

#[test]
fn legal_clients_of_every_make_pass() {
    let lab = Lab::new(Blobs::DataEndpoint);
    fs::write(lab.served("contoso").join("hello"), "well met").unwrap();
    let script = lab.dir().join("client.py");
    let python = format!(
        "import urllib.request\nprint(urllib.request.urlopen('{FILE}').read().decode(), end='')\n"
    );
    fs::write(&script, python).unwrap();
    let gate = lab.gate(&Policy::of(&["contoso"]));
    for (name, client) in [
        ("TLS 1.3", format!("curl -sSf {FILE}")),
        ("TLS 1.2", format!("curl -sSf --tls-max 1.2 {FILE}")),
        ("HTTP/1.0 CONNECT", format!("curl -sSf --proxy1.0 127.0.0.1:3128 {FILE}")),
        ("an honest HelloRetryRequest", format!("curl -sSf --curves secp521r1:X25519 {FILE}")),
        ("Python", format!("python3 {}", script.display())),
    ] {
        let ran = lab.sh(Way::Through(&gate), &client).succeeded();
        assert_eq!(ran.stdout(), "well met", "{name}");
    }
    let lines = gate.audit_of_all();
    assert_eq!(lines.len(), 5);
    assert!(lines.iter().all(|line| line["outcome"] == "relayed"), "{lines:?}");
}

#[test]
fn what_is_not_a_hello_for_the_allowed_host_never_reaches_it() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let gate = lab.gate(&Policy::of(&["contoso"]));
    let s_client = "openssl s_client -proxy 127.0.0.1:3128 -connect contoso.azurecr.io:443";
    for (code, client) in [
        ("sni-missing", format!("{s_client} -noservername")),
        ("sni-mismatch", format!("{s_client} -servername fabrikam.azurecr.io")),
        ("tls-too-old", format!("{s_client} -tls1_1 -cipher DEFAULT@SECLEVEL=0")),
        (
            "not-tls",
            "curl -sS --proxy 127.0.0.1:3128 -p http://contoso.azurecr.io:443/v2/".to_owned(),
        ),
    ] {
        let ran = lab.sh(Way::Through(&gate), &client).failed();
        let line = gate.audited(&[("outcome", "denied"), ("reason", code)]);
        assert_eq!(line["bytes-down"], 0, "{line}");
        assert_eq!(line["bytes-up"], 0, "{line}");
        let answered = ran.text.contains("access denied") || code == "not-tls";
        assert!(answered, "{code}: the alert says why:\n{}", ran.text);
    }
    assert_eq!(lab.asked("contoso.azurecr.io"), "", "no request reached the registry");
}

#[test]
fn a_renegotiation_cuts_the_tunnel() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let gate = lab.gate(&Policy::of(&["contoso"]));
    // `R` on a line of its own makes s_client begin another handshake within the session.
    let client = "printf 'R\\n' | openssl s_client -tls1_2 -proxy 127.0.0.1:3128 \
                  -connect contoso.azurecr.io:443 -servername contoso.azurecr.io";
    let ran = lab.run(Way::Through(&gate), &["sh", "-c", client]);
    assert!(ran.text.contains("RENEGOTIATING"), "{}", ran.text);
    let line = gate.audited(&[("reason", "renegotiation")]);
    assert_eq!(line["outcome"], "denied", "{line}");
}
