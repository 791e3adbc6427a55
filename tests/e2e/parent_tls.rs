//! `https://` parents: their certificate is verified, and they verify the gate's.

use std::fs;
use std::path::Path;

use crate::harness::{
    Authority, Blobs, Certificate, Daemon, Lab, ScriptedParent, Way, connect_through,
    every_client_pulls, haproxy, squid, with_basic,
};
use crate::parent::{ALERT, HOST, REFERENCE, assert_relayed, credentials, policy, seen_in_tunnel};

const SQUID: &str = "127.0.0.1:8080";
const GATE: &str = "127.0.0.1:3128";
const TLS_END: &str = "127.0.0.1:3443";

/// HAProxy as the TLS end of Squid; `more`: further words of its `bind` line.
fn tls_end(lab: &Lab, more: &str) -> Daemon {
    tls_end_of(lab, SQUID, more)
}

fn tls_end_of(lab: &Lab, proxy: &str, more: &str) -> Daemon {
    let (certificate, key) = lab.server_certificate();
    let both = lab.dir().join("both.pem");
    fs::write(&both, [fs::read(certificate).unwrap(), fs::read(key).unwrap()].concat()).unwrap();
    let bind = format!("{TLS_END} ssl crt {} alpn http/1.1 {more}", both.display());
    haproxy(lab, &[(&bind, proxy)])
}

#[test]
fn through_an_https_parent_tunnels_are_copied() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let image = lab.push(REFERENCE, 1, &[4 << 20, 2000]);
    let _squid = squid(&lab, SQUID, &with_basic(&lab, "gate", "secret"));
    let _haproxy = tls_end(&lab, "");
    let tls = |name: &str| {
        let (secret, ca) = (credentials(&lab, "gate:secret"), lab.authority().display());
        format!("{secret}\ntls = {{ ca = \"{ca}\", server-name = \"{name}\" }}")
    };
    for connect in ["name", "address"] {
        let _ = fs::remove_dir_all(lab.dir().join("gate"));
        let gate = lab.gate(&policy(&[TLS_END], connect, &tls(HOST)));
        every_client_pulls(&lab, Way::Through(&gate), REFERENCE, &image);
        assert_relayed(&gate, &image, connect, "copy");
    }
    // The certificate is verified: another name is refused.
    let _ = fs::remove_dir_all(lab.dir().join("gate"));
    let gate = lab.gate(&policy(&[TLS_END], "name", &tls("other.example.com")));
    let (_, line) = connect_through(GATE, "contoso.azurecr.io:443", "");
    assert!(line.contains("corp failed in TLS") && line.contains("[parent-unreachable "), "{line}");
    drop(gate);
}

#[test]
fn bytes_behind_the_head_of_an_https_parent_belong_to_the_tunnel() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let bytes = [b"HTTP/1.1 200 OK\r\n\r\n", ALERT].concat();
    let parent = ScriptedParent::start_in_pieces(bytes, false, 1000);
    let _tls_end = tls_end_of(&lab, &parent.address.to_string(), "");
    let gate = lab.gate(&policy(&[TLS_END], "address", &tls(lab.authority(), None)));
    let seen = seen_in_tunnel(&lab);
    assert!(seen.contains("HandshakeFailure"), "{seen}");
    drop(gate);
}

/// Counts connections to the registry that are not Squid's: its user is `proxy`.
const COUNT: &str = "table ip count {\n counter past {}\n chain out {\n\
    type filter hook output priority 0; policy accept;\n\
    ip daddr { 127.0.1.1, 127.0.1.2 } tcp flags & (syn | ack) == syn meta skuid != \"proxy\" \
    counter name past\n }\n}\n";

fn nothing_past(lab: &Lab) -> bool {
    let listed = lab.sh(Way::Direct, "nft list counter ip count past").succeeded().text;
    assert!(listed.contains("packets "), "{listed}");
    listed.contains("packets 0 ")
}

/// The `tls` of a parent, with or without a certificate of the gate's own.
fn tls(authority: &Path, own: Option<&Certificate>) -> String {
    let own = own.map(|Certificate { certificate, key }| {
        format!(", certificate = \"{}\", key = \"{}\"", certificate.display(), key.display())
    });
    let (ca, own) = (authority.display(), own.unwrap_or_default());
    format!("tls = {{ ca = \"{ca}\", server-name = \"{HOST}\"{own} }}")
}

#[test]
fn a_parent_that_demands_a_certificate_serves_the_gate_that_has_one() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let image = lab.push(REFERENCE, 1, &[4 << 20, 2000]);
    let authority = Authority::new(&lab.dir().join("clients"), "Perimeter clients");
    let stranger = Authority::new(&lab.dir().join("strangers"), "Somebody else");
    let known = authority.issue("gate", "extendedKeyUsage=clientAuth");
    let unknown = stranger.issue("gate", "extendedKeyUsage=clientAuth");
    let _squid = squid(&lab, SQUID, "http_access allow all");
    let _haproxy = tls_end(&lab, &format!("ca-file {} verify required", authority.pem().display()));
    let rules = lab.dir().join("count.nft");
    fs::write(&rules, COUNT).unwrap();
    lab.sh(Way::Direct, &format!("nft -f {}", rules.display())).succeeded();
    for connect in ["name", "address"] {
        let _ = fs::remove_dir_all(lab.dir().join("gate"));
        let gate = lab.gate(&policy(&[TLS_END], connect, &tls(lab.authority(), Some(&known))));
        every_client_pulls(&lab, Way::Through(&gate), REFERENCE, &image);
        assert_relayed(&gate, &image, connect, "copy");
        assert!(nothing_past(&lab), "by {connect}");
    }
    let program = env!("CARGO_BIN_EXE_pullgate");
    let config = lab.dir().join("gate/pullgate.toml");
    let check = format!("{program} check --config {}", config.display());
    let checked = lab.sh(Way::Direct, &check).succeeded().text;
    let words = "tunnels through a parent with tls are copied, not spliced";
    assert!(checked.contains(words), "{checked}");

    for (own, alert) in [(None, "CertificateRequired"), (Some(&unknown), "UnknownCA")] {
        let _ = fs::remove_dir_all(lab.dir().join("gate"));
        let before = lab.asked(HOST);
        let gate = lab.gate(&policy(&[TLS_END], "address", &tls(lab.authority(), own)));
        let inspect = format!("skopeo inspect docker://{REFERENCE}");
        let ran = lab.sh(Way::Through(&gate), &inspect).failed();
        let words = format!("no parent proxy; corp failed in TLS: alert {alert}");
        assert!(ran.last_line().contains(&words), "{words}:\n{}", ran.text);
        assert!(ran.last_line().contains("[parent-unreachable "), "{}", ran.text);
        let line = gate.audited(&[("reason", "parent-unreachable")]);
        assert_eq!((&line["outcome"], &line["bytes-up"]), (&"failed".into(), &0.into()), "{line}");
        let (_, line) = connect_through(GATE, "contoso.azurecr.io:443", "");
        assert!(line.starts_with("HTTP/1.1 502 "), "{line}");
        assert!(nothing_past(&lab), "packets went past the parent: {alert}");
        assert_eq!(lab.asked(HOST), before, "nothing reached the registry");
    }
    // The counter counts: without a parent the gate dials the registry.
    let _ = fs::remove_dir_all(lab.dir().join("gate"));
    let direct = lab.gate(&crate::harness::Policy::of(&["contoso"]));
    lab.sh(Way::Through(&direct), &format!("skopeo inspect docker://{REFERENCE}")).succeeded();
    assert!(!nothing_past(&lab), "the counter does not count");
}
