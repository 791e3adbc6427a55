//! The rules in `deploy/` must match the output of the generator. Also tests the inputs that it
//! rejects.
//!
//! To update the rules, run `BLESS=1 cargo test --test kit`. The end-to-end tests check that they
//! load and what they block.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking; clippy's exception for tests covers #[test] functions only"
)]

use std::fs;
use std::path::Path;

use pullgate::config::{self, Capture, File, Files, Loaded};
use pullgate::tools::nftables::{self, Cgroup, Kit, KitFault, Site, Word};

const REGISTRY: &str = "login-server = \"contoso.azurecr.io\"\n\
                        data-endpoints = [\"contoso.eastus.data.azurecr.io\"]\n";

fn loaded(main: &str) -> Loaded {
    let file = |path: &str, text: &str| File { path: path.into(), text: Ok(text.to_owned()) };
    let files = Files {
        main: file("pullgate.toml", main),
        registries: vec![file("contoso.toml", REGISTRY)],
        further: Vec::new(),
    };
    config::compile(&files, 1).unwrap_or_else(|faults| panic!("{faults:?}\n{main}"))
}

fn word(text: &str) -> Word {
    text.parse().unwrap()
}

fn printed(loaded: &Loaded, capture: Capture, site: Site<'_>) -> Result<String, KitFault> {
    Kit { settings: &loaded.settings, policy: &loaded.policy, capture, site }.rules()
}

#[test]
fn what_is_deployed_is_what_is_printed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/nftables");
    let check = |name: &str, printed: &str| {
        let path = folder.join(name);
        if std::env::var_os("BLESS").is_some() {
            fs::write(&path, printed).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap_or_default(), printed, "{}", path.display());
    };
    let (inside, outside, user) = ([word("eth1")], [word("eth0")], word("pullgate"));
    let slice: Cgroup = "pullgate.slice".parse().unwrap();
    let gateway = Site::Gateway { inside: &inside, outside: &outside };
    let host = Site::Host { user: &user, cgroup: Some(&slice) };
    for (name, capture, site) in [
        ("gateway", Capture::Redirect, gateway),
        ("gateway-tproxy", Capture::Tproxy, gateway),
        ("host", Capture::Redirect, host),
        ("host-parent", Capture::Redirect, host),
        ("host-tproxy", Capture::Tproxy, host),
    ] {
        let main = fs::read_to_string(folder.join(format!("{name}.toml"))).unwrap();
        let loaded = loaded(&main);
        assert!(loaded.warnings.is_empty(), "{name}: {:?}", loaded.warnings);
        check(&format!("{name}.nft"), &printed(&loaded, capture, site).unwrap());
    }
    check("tproxy-routes.sh", &nftables::routes());
}

#[test]
fn missing_listeners_are_reported() {
    let listen = |address: &str, capture: &str| {
        loaded(&format!(
            "[[listen]]\nmode = \"transparent\"\naddress = \"{address}\"\ncapture = \"{capture}\"\n"
        ))
    };
    let connect = loaded("[[listen]]\nmode = \"connect\"\naddress = \"10.0.0.1:3128\"\n");
    // A host whose containers connect to another of its addresses.
    let both = loaded(
        "[[listen]]\nmode = \"transparent\"\naddress = \"127.0.0.1:3129\"\n\
         [[listen]]\nmode = \"transparent\"\naddress = \"172.17.0.1:3129\"\n",
    );
    let (inside, outside, user) = ([word("eth1")], [word("eth0")], word("pullgate"));
    let gateway = Site::Gateway { inside: &inside, outside: &outside };
    let host = Site::Host { user: &user, cgroup: None };
    let cases = [
        (&connect, gateway, Some(KitFault::NoListener("redirect"))),
        (&listen("10.0.0.1:3129", "tproxy"), gateway, Some(KitFault::NoListener("redirect"))),
        (
            &listen("10.0.0.1:0", "redirect"),
            gateway,
            Some(KitFault::AnyPort("10.0.0.1:0".parse().unwrap())),
        ),
        (
            &listen("127.0.0.1:3129", "redirect"),
            gateway,
            Some(KitFault::Loopback("127.0.0.1:3129".parse().unwrap())),
        ),
        (&listen("127.0.0.1:3129", "redirect"), host, None),
        (&listen("[::]:3129", "redirect"), gateway, None),
        (&both, gateway, None),
    ];
    for (loaded, site, fault) in cases {
        assert_eq!(printed(loaded, Capture::Redirect, site).err(), fault);
    }
}

#[test]
fn the_ports_and_servers_are_those_of_the_policy() {
    let main = "[[listen]]\nmode = \"transparent\"\naddress = \"[::]:3129\"\n\
                [dns]\nservers = [\"10.1.0.53\", \"[fd01::53]:5353\"]\n\
                [dns.hosts]\n\"contoso.azurecr.io\" = \"10.1.0.4:8443\"\n";
    let user = word("990");
    let text = printed(&loaded(main), Capture::Redirect, Site::Host { user: &user, cgroup: None })
        .unwrap();
    for line in [
        "define gate = 990\n",
        "define ports = { 443 }\n",
        "define dialled = { 443, 8443 }\n",
        "ip daddr 10.1.0.53 meta l4proto { tcp, udp } th dport 53 ct mark set $own accept\n",
        "ip6 daddr fd01::53 meta l4proto { tcp, udp } th dport 5353 ct mark set $own accept\n",
        "meta nfproto ipv4 tcp dport $ports redirect to :3129\n",
        "meta nfproto ipv6 tcp dport $ports redirect to :3129\n",
    ] {
        assert!(text.contains(line), "{line} is absent from\n{text}");
    }
}

/// The rules of the chain that holds what the gate's user can connect to.
fn reached_by_the_gate(text: &str) -> Vec<&str> {
    let (_, chain) = text.split_once("\tchain gate {\n").unwrap();
    let (chain, _) = chain.split_once("\t}\n").unwrap();
    chain.lines().map(str::trim).filter(|line| !line.starts_with('#')).collect()
}

#[test]
fn the_gate_of_a_parent_reaches_the_parent_only() {
    let policy = |parent: &str| {
        format!(
            "[[listen]]\nmode = \"transparent\"\naddress = \"[::]:3129\"\n\
             [policy]\nparent = \"{parent}\"\n\
             [[parent]]\nname = \"corp\"\naddresses = [\"10.0.0.8:8080\", \"[fd00::8]:3128\", \
             \"pinned.corp.example:8080\", \"proxy.corp.example:8081\"]\nconnect = \"address\"\n\
             [dns]\nservers = [\"10.1.0.53\"]\n\
             [dns.hosts]\n\"pinned.corp.example\" = \"10.0.0.9\"\n"
        )
    };
    let user = word("990");
    let site = Site::Host { user: &user, cgroup: None };
    let through = [
        "ct state new ip daddr 10.0.0.8 tcp dport 8080 ct mark set $own accept",
        "ct state new ip daddr 10.0.0.9 tcp dport 8080 ct mark set $own accept",
        "ct state new ip6 daddr fd00::8 tcp dport 3128 ct mark set $own accept",
        "ct state new tcp dport { 8081 } ct mark set $own accept",
    ];
    let dns = "ip daddr 10.1.0.53 meta l4proto { tcp, udp } th dport 53 ct mark set $own accept";
    let text = printed(&loaded(&policy("corp")), Capture::Redirect, site).unwrap();
    assert_eq!(reached_by_the_gate(&text), [&through[..], &[dns]].concat(), "{text}");
    // A registry that is reached directly opens its port.
    let direct = "ct state new tcp dport $dialled ct mark set $own accept";
    let text = printed(&loaded(&policy("none")), Capture::Redirect, site).unwrap();
    assert_eq!(reached_by_the_gate(&text), [&[direct], &through[..], &[dns]].concat(), "{text}");
}

#[test]
fn a_family_without_a_listener_is_said_to_be_dropped() {
    let main = "[[listen]]\nmode = \"transparent\"\naddress = \"10.0.0.1:3129\"\n";
    let (inside, outside) = ([word("eth1"), word("docker0")], [word("eth0")]);
    let text = printed(
        &loaded(main),
        Capture::Redirect,
        Site::Gateway { inside: &inside, outside: &outside },
    )
    .unwrap();
    assert!(
        text.contains("# IPv6 has no listener: its connections are dropped below.\n"),
        "{text}"
    );
    assert!(text.contains("define inside = { \"eth1\", \"docker0\" }\n"), "{text}");
    assert!(!text.contains("ip6 to"), "{text}");
}

#[test]
fn a_proxy_on_every_address_is_reached_by_both_families() {
    let main = "[[listen]]\nmode = \"transparent\"\naddress = \"[::]:3129\"\n\
                [[listen]]\nmode = \"connect\"\naddress = \"[::]:3128\"\n";
    let (inside, outside) = ([word("eth1")], [word("eth0")]);
    let text = printed(
        &loaded(main),
        Capture::Redirect,
        Site::Gateway { inside: &inside, outside: &outside },
    )
    .unwrap();
    for line in [
        "\t\ttcp dport 3128 accept\n",
        "\t\tmeta nfproto ipv4 tcp dport 3129 accept\n",
        "\t\tmeta nfproto ipv6 tcp dport 3129 accept\n",
        "\t\tiifname $outside meta nfproto ipv4 tcp dport 3129 drop\n",
    ] {
        assert!(text.contains(line), "{line} is absent from\n{text}");
    }
}

#[test]
fn the_gate_is_known_by_its_user_and_where_it_can_be_by_its_cgroup() {
    let main = "[[listen]]\nmode = \"transparent\"\naddress = \"[::]:3129\"\n";
    let (user, deep) = (word("990"), "/a.slice/b@1.service/".parse().unwrap());
    let text = |cgroup| {
        printed(&loaded(main), Capture::Redirect, Site::Host { user: &user, cgroup }).unwrap()
    };
    let rule = "meta skuid $gate socket cgroupv2 level 2 \"a.slice/b@1.service\" jump gate\n";
    assert!(text(Some(&deep)).contains(rule));
    let without = text(None);
    assert!(without.contains("\t\tmeta skuid $gate jump gate\n"), "{without}");
    assert!(without.contains("`--cgroup`"), "{without}");
    for wrong in ["", "/", "a//b", "../a", "a/./b", "a b", "a\"b", &"a".repeat(201)] {
        assert!(wrong.parse::<Cgroup>().is_err(), "{wrong}");
    }
}

#[test]
fn words_are_plain() {
    for text in ["eth0", "br-1f.100", "_pullgate", "990"] {
        assert!(text.parse::<Word>().is_ok(), "{text}");
    }
    for text in ["", "eth 0", "a\"", "a;b", "$x", "a{", "\u{e9}", &"a".repeat(33)] {
        assert!(text.parse::<Word>().is_err(), "{text}");
    }
}
