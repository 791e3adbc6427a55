//! Queries to a real resolver: only for allowed names, only as absolute names; answers are judged.

use std::fs;

use std::thread;

use crate::harness::{Blobs, Lab, Policy, Way, dnsmasq, dnsmasq_at, wait_until};

const RECORDS: [(&str, &str); 4] = [
    ("contoso.azurecr.io", "127.0.1.1"),
    ("litware.azurecr.io", "10.9.9.9"),
    ("wingtip.azurecr.io", "169.254.169.254"),
    // Answers that a resolver with a search list would use.
    ("contoso.azurecr.io.ns1.svc.cluster.local", "127.0.1.5"),
];

#[test]
pub fn only_allowed_names_are_asked_and_only_absolute() {
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

const V2: &str = "curl -sv -o /dev/null https://contoso.azurecr.io/v2/";

/// The first server hangs: what it said before is no reason to pass the second over.
#[test]
fn a_dead_first_server_is_passed_over() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let first = dnsmasq_at(&lab, "127.0.0.54", &[("contoso.azurecr.io", "127.0.1.97")]);
    let second = dnsmasq(&lab, &[("contoso.azurecr.io", "127.0.1.1")]);
    let dns = "[dns]\nservers = [\"127.0.0.54\", \"127.0.0.53\"]\n";
    let gate = lab.gate(&Policy::of(&["contoso"]).with_dns(dns));
    let ran = lab.sh(Way::Through(&gate), V2).failed();
    assert!(ran.text.contains("[connect-refused "), "{}", ran.text);
    assert!(!second.log().contains("query["), "{}", second.log());
    first.signal("STOP");
    // Until then the first server's answer is still good.
    wait_until("the second server is asked", || {
        lab.sh(Way::Through(&gate), V2).status.success().then_some(())
    });
    assert_eq!(gate.metric("pullgate_stale_answers_total", &[]), 0.0);
    assert!(gate.log().contains("it is asked last"), "{}", gate.log());
}

/// The registry has moved while no server answered.
#[test]
fn a_stale_address_that_refuses_is_not_the_end() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let server = dnsmasq(&lab, &[("contoso.azurecr.io", "127.0.1.97")]);
    let dns = "[dns]\nservers = [\"127.0.0.53\"]\n";
    let gate = lab.gate(&Policy::of(&["contoso"]).with_dns(dns));
    let ran = lab.sh(Way::Through(&gate), V2).failed();
    assert!(ran.text.contains("[connect-refused "), "{}", ran.text);
    drop(server);
    let server = dnsmasq(&lab, &[("contoso.azurecr.io", "127.0.1.1")]);
    server.signal("STOP");
    let mut command = lab.command(Way::Through(&gate), &V2.split(' ').collect::<Vec<_>>());
    // Its first answer lives for a second: until then there is nothing to ask.
    let curl = wait_until("a session waits for DNS", || {
        let mut curl = command.spawn().unwrap();
        let is_waiting = || gate.log().contains("waiting for DNS");
        while curl.try_wait().unwrap().is_none() {
            if is_waiting() {
                return Some(curl);
            }
            thread::yield_now();
        }
        None
    });
    server.signal("CONT");
    assert!(curl.wait_with_output().unwrap().status.success(), "{}", gate.log());
    gate.audited_fact("dns", "stale");
    gate.audited(&[("outcome", "relayed")]);
}

/// A link-local server by the name of its interface, in the configuration and in resolv.conf.
#[test]
fn a_server_may_be_link_local() {
    let lab = Lab::new(Blobs::DataEndpoint);
    for line in [
        "ip link add dns0 type veth peer name dns1",
        "ip address add fe80::53/64 dev dns0 nodad",
        "ip link set dns1 up",
        "ip link set dns0 up",
    ] {
        lab.sh(Way::Direct, line).succeeded();
    }
    let _server = dnsmasq_at(&lab, "fe80::53%dns0", &[("contoso.azurecr.io", "127.0.1.1")]);
    let resolver = b"# r\xe9seau\nnameserver fe80::53%dns0\n";
    fs::write(lab.dir().join("resolv.conf"), resolver).unwrap();
    for dns in ["", "[dns]\nservers = [\"fe80::53%dns0\"]\n"] {
        let gate = lab.gate(&Policy::of(&["contoso"]).with_dns(dns));
        lab.sh(Way::Through(&gate), V2).succeeded();
    }
}
