//! Queries to a real resolver: only for allowed names, only as absolute names; answers are judged.

use std::fs;

use crate::harness::{Blobs, Lab, Policy, Way, dnsmasq};

const RECORDS: [(&str, &str); 4] = [
    ("contoso.azurecr.io", "127.0.1.1"),
    ("litware.azurecr.io", "10.9.9.9"),
    ("wingtip.azurecr.io", "169.254.169.254"),
    // Answers that a resolver with a search list would use.
    ("contoso.azurecr.io.ns1.svc.cluster.local", "127.0.1.5"),
];

#[test]
fn only_allowed_names_are_asked_and_only_absolute() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let server = dnsmasq(&lab, &RECORDS);
    let resolver = "nameserver 127.0.0.53\nsearch ns1.svc.cluster.local\noptions ndots:5\n";
    fs::write(lab.dir().join("resolv.conf"), resolver).unwrap();
    let gate = lab.gate(&Policy::of(&["contoso", "litware", "tailspin", "wingtip"]).with_dns(""));
    let ask = |host: &str| {
        let line = format!("curl -sv -o /dev/null https://{host}/v2/");
        lab.sh(Way::Through(&gate), &line)
    };
    for (host, status, code) in [
        ("fabrikam.azurecr.io", "403", "other-registry"),
        ("secret.contoso.azurecr.io", "403", "-"),
        ("secret.eastus.data.azurecr.io", "403", "other-registry"),
        ("eusmanaged123.blob.core.windows.net", "403", "storage-account"),
        ("secret.example.com", "403", "host-not-allowed"),
    ] {
        let ran = ask(host).failed();
        assert!(ran.text.contains(status) && ran.text.contains(code), "{}", ran.text);
    }
    assert!(!server.log().contains("query["), "a denied name was asked:\n{}", server.log());

    for (host, status, code) in [
        ("tailspin.azurecr.io", "502", "name-not-found"),
        ("litware.azurecr.io", "403", "address-not-allowed"),
        ("wingtip.azurecr.io", "403", "address-not-allowed"),
    ] {
        let ran = ask(host).failed();
        assert!(ran.text.contains(status) && ran.text.contains(code), "{}", ran.text);
    }
    ask("contoso.azurecr.io").succeeded();
    let asked = server.log();
    assert!(asked.contains("] contoso.azurecr.io from"), "{asked}");
    assert!(!asked.contains("cluster.local from"), "search lists are ignored:\n{asked}");
    assert!(!asked.contains("secret"), "{asked}");
}
