//! The end of the authority's time: warnings in time, a renewal that both old and new clients follow,
//! and what an expired one looks like.

use std::fs;
use std::path::PathBuf;

use crate::harness::{Blobs, Lab, Ran, Way};
use crate::inspect::{LOGIN, authority, ca, policy};

/// Gives the authority's certificate another end, in days from now.
fn ends_in(lab: &Lab, days: i32) {
    let (at, made) = (authority(lab), lab.dir().join("made.pem"));
    let line = format!(
        "openssl x509 -in {} -signkey {} -days {days} -out {}",
        at.display(),
        at.with_extension("key").display(),
        made.display()
    );
    lab.sh(Way::Direct, &line).succeeded();
    fs::copy(made, at).unwrap();
}

fn check(lab: &Lab) -> Ran {
    let (program, config) = (env!("CARGO_BIN_EXE_pullgate"), lab.dir().join("gate/pullgate.toml"));
    lab.sh(Way::Direct, &format!("{program} check --config {}", config.display()))
}

/// A copy of the authority as the clients have it now.
fn copied(lab: &Lab, name: &str) -> PathBuf {
    let copy = lab.dir().join(name);
    fs::copy(authority(lab), &copy).unwrap();
    copy
}

#[test]
fn an_authority_that_ends_soon_is_renewed_without_a_gap() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let policy = policy(&lab, "");
    let url = format!("https://{LOGIN}/v2/");
    let day = 24.0 * 60.0 * 60.0;
    let mut clients = Vec::new();
    for (days, warned) in [(15, false), (13, true), (1, true)] {
        ends_in(&lab, days);
        clients.push(copied(&lab, &format!("client-{days}.pem")));
        let gate = lab.gate(&policy);
        let says = format!("the certificate expires in {} days; renew it", days - 1);
        let checked = check(&lab).succeeded();
        assert_eq!(checked.text.contains(&says), warned, "{days} days: {}", checked.text);
        assert_eq!(gate.log().contains(&says), warned, "{days} days: {}", gate.log());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let left = gate.metric("pullgate_certificate_expiry_seconds", &["inspect/ca.pem"]);
        let left = left - now.as_secs_f64();
        let days = f64::from(days);
        assert!(left < days * day + 60.0 && left > (days - 1.0) * day, "{left} s");
    }
    // The old certificate stays in the file, behind the new one, and both are believed.
    ca(&lab, "renew").succeeded();
    let gate = lab.gate(&policy);
    let checked = check(&lab).succeeded();
    assert!(!checked.text.contains("expires in"), "{}", checked.text);
    clients.push(copied(&lab, "client-new.pem"));
    for client in &clients {
        for connect in ["openssl", "gnutls", "curl"] {
            let trusted = client.display();
            let line = match connect {
                "openssl" => format!(
                    "openssl s_client -proxy 127.0.0.1:3128 -connect {LOGIN}:443 -servername {LOGIN} \
                     -CAfile {trusted} -verify_return_error -verify_hostname {LOGIN}"
                ),
                "gnutls" => {
                    format!("wget -q -O - --ca-certificate {trusted} --content-on-error {url}")
                }
                _ => format!("curl -sS -o /dev/null --cacert {trusted} {url}"),
            };
            let ran = lab.sh(Way::Through(&gate), &line);
            let believed = match connect {
                // 401 is an error of wget's, 6, and a certificate another, 5.
                "gnutls" => ran.status.code() == Some(6),
                _ => ran.status.success(),
            };
            assert!(believed, "{connect}, {trusted}: {}", ran.text);
        }
    }
    assert!(gate.audit_of_all().iter().all(|line| line["reason"] != "authority-not-trusted"));
}

#[test]
fn an_expired_authority_is_named_and_renewed() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let policy = policy(&lab, "");
    ends_in(&lab, -1);
    let old = copied(&lab, "old.pem");
    let gate = lab.gate(&policy);
    let says = "the certificate has expired; renew it, clients reject it";
    let checked = check(&lab);
    assert!(checked.text.contains(says), "{}", checked.text);
    assert!(gate.log().contains(says), "{}", gate.log());
    let url = format!("https://{LOGIN}/v2/");
    let ask = |trusted: &PathBuf| {
        let line = format!("curl -sS -o /dev/null --cacert {} {url}", trusted.display());
        lab.sh(Way::Through(&gate), &line)
    };
    let refused = ask(&old).failed();
    assert!(refused.text.contains("certificate has expired"), "{}", refused.text);
    gate.audited(&[("reason", "authority-not-trusted"), ("outcome", "failed")]);
    crate::reload::reloaded(&gate, || drop(ca(&lab, "renew").succeeded()));
    ask(&authority(&lab)).succeeded();
}
