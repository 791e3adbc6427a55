//! Login servers of one label: the parent gateway of nested IoT Edge.

use std::fs;

use crate::harness::{Blobs, EDGE_PARENT, Lab, Policy, Way, dnsmasq};

const FILE: &str = "login-server = \"edge-parent\"\naccept-single-label = [\"edge-parent\"]\n";

/// The name is asked as it stands: a search list would lead elsewhere.
#[test]
fn an_image_comes_through_a_login_server_of_one_label() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let image = lab.push("contoso.azurecr.io/app:1", 1, &[1 << 20, 2000]);
    let server = dnsmasq(
        &lab,
        &[
            (EDGE_PARENT, "127.0.1.1"),
            ("edge-parent.corp.example", "127.0.1.5"),
            ("contoso.azurecr.io", "127.0.1.1"),
            ("contoso.eastus.data.azurecr.io", "127.0.1.2"),
        ],
    );
    let resolver = "nameserver 127.0.0.53\nsearch corp.example\noptions ndots:5\n";
    fs::write(lab.dir().join("resolv.conf"), resolver).unwrap();
    let policy = Policy::of(&["contoso"]).with_file("edge.toml", FILE).with_dns("");
    let gate = lab.gate(&policy);
    let to = lab.dir().join("pulled");
    let pull = "skopeo copy --preserve-digests docker://edge-parent:443/app:1";
    lab.sh(Way::Through(&gate), &format!("{pull} dir:{}", to.display())).succeeded();
    for (digest, _) in &image.layers {
        assert!(fs::read(to.join(&digest[7..])).unwrap() == image.blob(digest), "{digest}");
    }
    let line = gate.audited(&[("target", "edge-parent:443"), ("outcome", "relayed")]);
    assert_eq!(
        (&line["registry"], &line["sni"]),
        (&"edge".into(), &"edge-parent".into()),
        "{line}"
    );

    for stranger in ["contoso:443", "edge:443"] {
        let ran = lab.sh(Way::Through(&gate), &format!("curl -sv https://{stranger}/v2/")).failed();
        assert!(
            ran.text.contains("400 pullgate: ") && ran.text.contains("[bad-target "),
            "{}",
            ran.text
        );
        assert!(ran.text.contains("the host has one label only"), "{}", ran.text);
    }
    let asked = server.log();
    assert!(asked.contains("] edge-parent from"), "{asked}");
    assert!(!asked.contains("corp.example from"), "search lists are ignored:\n{asked}");
    assert!(!asked.contains("] contoso from") && !asked.contains("] edge from"), "{asked}");
}
