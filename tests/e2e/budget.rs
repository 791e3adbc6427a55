//! Upload budgets: a push is closed before it can transfer data, and a pull is not interrupted.

use std::fs;
use std::time::Instant;

use serde_json::Value;

use crate::harness::{Blobs, Image, Lab, Policy, Tap, Way, relayed_or_aborted};

const REFERENCE: &str = "contoso.azurecr.io/app:1";

/// contoso with `pull-only`.
const PULL_ONLY: &str = "login-server = \"contoso.azurecr.io\"\n\
                         data-endpoints = [\"contoso.eastus.data.azurecr.io\"]\n\
                         pull-only = true\n";

/// The manual's limit for a push to a `pull-only` registry, in bytes.
const MOST_PUSHED: u64 = 80 * 1024;

/// A counting relay in front of contoso's login server, and the policy that dials it.
fn tapped(file: &str) -> (Tap, Policy) {
    let tap = Tap::start("127.0.2.7:443".parse().unwrap(), "127.0.1.1:443".parse().unwrap());
    let policy = Policy::of(&[]).with_file("contoso.toml", file).with_dns(
        "[dns.hosts]\n\"contoso.azurecr.io\" = [\"127.0.2.7\"]\n\
         \"contoso.eastus.data.azurecr.io\" = [\"127.0.1.2\"]\n",
    );
    (tap, policy)
}

fn sum(lines: &[Value], field: &str) -> u64 {
    lines.iter().map(|line| line[field].as_u64().unwrap()).sum()
}

#[test]
fn a_push_to_a_pull_only_registry_is_cut() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let loot = Image::random(lab.dir(), 7, &[10 << 20]);
    let (tap, policy) = tapped(PULL_ONLY);
    let gate = lab.gate(&policy);
    let began = Instant::now();
    lab.run(Way::Through(&gate), &lab.pushing(&loot, REFERENCE)).failed();
    let took = began.elapsed();
    let line = gate.audited(&[("outcome", "denied"), ("reason", "upload-budget")]);
    assert_eq!(line["endpoint"], "login", "{line}");
    let lines = gate.audit_of_all();
    let (tunnels, bytes) = tap.counted();
    println!("{bytes} bytes in {tunnels} tunnels reached the server; skopeo gave up in {took:?}");
    assert!(bytes <= MOST_PUSHED, "{bytes} bytes reached the server: {lines:?}");
    assert!(took.as_secs() < 60, "{took:?}; seconds are what is promised");
    let asked = lab.asked("contoso.azurecr.io");
    assert!(!asked.contains("PUT /v2/app/manifests/"), "nothing was pushed: {asked}");
    assert_eq!(sum(&lines, "bytes-up"), bytes, "the audit tells what went");

    // podman retries, and each tunnel is closed.
    let archive = lab.dir().join("loot.tar");
    let (from, to) = (loot.layout.display(), archive.display());
    let copy = format!("skopeo copy oci:{from}:latest docker-archive:{to}:localhost/loot:1");
    lab.sh(Way::Direct, &copy).succeeded();
    lab.sh(Way::Direct, &format!("podman load --quiet --input {to}")).succeeded();
    let push = "podman push --creds pusher:secret localhost/loot:1";
    let push = format!("{push} docker://{REFERENCE}");
    lab.sh(Way::Through(&gate), &push).failed();
    for line in gate.audit_of_all() {
        let allowed = 65_536 + line["bytes-down"].as_u64().unwrap() / 50;
        assert!(line["bytes-up"].as_u64().unwrap() <= allowed, "{line}");
    }
    let asked = lab.asked("contoso.azurecr.io");
    assert!(!asked.contains("PUT /v2/app/manifests/"), "nothing was pushed: {asked}");
}

#[test]
pub fn a_push_to_a_data_endpoint_is_cut_unless_the_registry_is_connected() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let secret = lab.dir().join("secret");
    fs::write(&secret, vec![7; 1 << 20]).unwrap();
    let send = format!(
        "curl -sS -o /dev/null -H Expect: -T {} https://contoso.eastus.data.azurecr.io/sync/it",
        secret.display()
    );
    let gate = lab.gate(&Policy::of(&["contoso"]));
    lab.sh(Way::Through(&gate), &send).failed();
    let line = gate.audited(&[("outcome", "denied"), ("reason", "upload-budget")]);
    assert_eq!(line["endpoint"], "data", "{line}");
    assert!(line["bytes-up"].as_u64().unwrap() <= 65_536 + 2_000, "{line}");

    // A reload also affects live tunnels: from here on, the data endpoint accepts any upload.
    fs::remove_file(gate.registries().join("contoso.json")).unwrap();
    let connected = PULL_ONLY.replace("pull-only", "connected-registry");
    crate::reload::reloaded(&gate, || {
        fs::write(gate.registries().join("contoso.toml"), &connected).unwrap();
    });
    lab.sh(Way::Through(&gate), &send).succeeded();
    let lines = gate.audit_of_all();
    let relayed = lines.iter().find(|line| line["outcome"] == "relayed").unwrap();
    assert!(relayed["bytes-up"].as_u64().unwrap() > 1 << 20, "{relayed}");
}

#[test]
fn report_mode_records_what_a_budget_would_cut() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let image = Image::random(lab.dir(), 7, &[1 << 20]);
    let policy = Policy::of(&[]).with_file("contoso.toml", PULL_ONLY);
    let gate = lab.gate(&policy.with_policy("enforcement = \"report\""));
    lab.run(Way::Through(&gate), &lab.pushing(&image, REFERENCE)).succeeded();
    let line = gate.audited(&[("outcome", "would-deny"), ("reason", "upload-budget")]);
    assert!(line["bytes-up"].as_u64().unwrap() > 65_536, "{line}");
    assert!(line.get("ended").is_none(), "{line}");
    let lines = gate.audit_of_all();
    let others = lines.iter().filter(|line| line["bytes-up"].as_u64().unwrap() <= 65_536);
    assert!({ others }.all(relayed_or_aborted), "{lines:?}");
}

#[test]
fn a_hundred_pulls_are_not_cut() {
    let lab = Lab::new(Blobs::DataEndpoint);
    // Twenty layers from 1 KiB, one of a few megabytes, and one of 1 GiB; tokens of Azure's size.
    let many: Vec<usize> = (0..20).map(|number| 1_024 << (number % 8)).collect();
    let images = [("many", lab.push("contoso.azurecr.io/many:1", 1, &many))]
        .into_iter()
        .chain([("one", lab.push("contoso.azurecr.io/one:1", 2, &[5 << 20]))]);
    let images: Vec<_> = images.collect();
    let large = lab.served("contoso").join("large");
    fs::File::create(&large).unwrap().set_len(1 << 30).unwrap();
    let gate = lab.gate(&Policy::of(&[]).with_file("contoso.toml", PULL_ONLY));
    let way = Way::Through(&gate);
    let mut pulls = 0;
    let mut pull = |line: &str| {
        lab.sh(way, line).succeeded();
        pulls += 1;
    };
    let to = lab.dir().join("pulled");
    for round in 0..12 {
        for (name, _) in &images {
            let to = to.join(format!("{name}-{round}"));
            fs::create_dir_all(&to).unwrap();
            pull(&format!("skopeo copy docker://contoso.azurecr.io/{name}:1 dir:{}", to.display()));
        }
    }
    for _ in 0..3 {
        for (name, _) in &images {
            pull(&format!("podman pull --quiet contoso.azurecr.io/{name}:1"));
            lab.sh(Way::Direct, "podman rmi --all --force").succeeded();
        }
    }
    // All layers over one connection; a layer in resumed parts; the largest layer.
    let data = "https://contoso.eastus.data.azurecr.io";
    let layers: Vec<String> = images[0]
        .1
        .layers
        .iter()
        .map(|(digest, _)| {
            let hex = digest.trim_start_matches("sha256:");
            format!("-o /dev/null {data}/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2])
        })
        .collect();
    for version in ["--http1.1", "--http2"] {
        let curl = format!("curl -sSf {version}");
        for round in 0..33 {
            let (from, until) = (round * 1_000_000, (round + 1) * 1_000_000 - 1);
            pull(&format!("{curl} -o /dev/null -r {from}-{until} {data}/large"));
        }
        pull(&format!("{curl} {}", layers.join(" ")));
        pull(&format!("{curl} -o /dev/null {data}/large"));
    }
    let lines = gate.audit_of_all();
    for line in &lines {
        // nginx may reset a connection that its client has finished with; the client ignores it.
        let done = line["outcome"] == "relayed" || line["reason"] == "upstream-aborted";
        assert!(done, "{line}");
    }
    let most = lines.iter().map(|line| line["bytes-up"].as_u64().unwrap()).max().unwrap();
    println!("{pulls} pulls in {} tunnels; the most that one sent: {most} bytes", lines.len());
    assert!(pulls >= 100, "{pulls}");
    assert!(sum(&lines, "bytes-down") > 2 << 30);
}
