//! A registry moves its blob host: what the gate says, and what a newer date of a preset admits.

use std::fs;
use std::process::Command;

use crate::harness::{Blobs, Lab, Policy, Way};
use crate::reload::reloaded;

const OLD: &str = "preset = \"docker-hub\"\npreset-date = \"2026-01-01\"\n";
const NEW: &str = "preset = \"docker-hub\"\npreset-date = \"2026-06-08\"\n";
const MOVED: &str = "production.cloudfront.docker.com";
const LEFT: &str = "production.cloudflare.docker.com";

fn pullgate(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_pullgate")).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), text + &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_blob_host_that_moves_is_admitted_by_a_newer_date_and_not_before() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let dns = format!("[dns.hosts]\n\"{MOVED}\" = [\"127.0.1.2\"]\n\"{LEFT}\" = [\"127.0.1.4\"]\n");
    let policy = Policy::of(&["contoso"]).with_file("hub.toml", OLD).with_dns(&dns);
    let gate = lab.gate(&policy);
    let ask = |host: &str| {
        // The lab's certificate has no such name; only the gate's verdict matters.
        let line = format!("curl -skv -o /dev/null https://{host}/");
        lab.sh(Way::Through(&gate), &line)
    };
    ask(LEFT).succeeded();
    let denied = ask(MOVED).failed();
    let phrase = format!("{MOVED} is not in the policy; in preset docker-hub since 2026-05-20");
    assert!(denied.text.contains(&phrase), "{}", denied.text);
    assert_eq!(gate.audited(&[("target", &format!("{MOVED}:443"))])["reason"], "host-not-allowed");
    let config = lab.dir().join("gate/pullgate.toml");
    let config = config.to_str().unwrap();
    let (code, checked) = pullgate(&["check", "--config", config]);
    assert_eq!(code, Some(0), "{checked}");
    assert!(checked.contains(MOVED) && checked.contains("pullgate preset diff"), "{checked}");
    let (_, changed) = pullgate(&["preset", "diff", "docker-hub", "2026-01-01", "2026-06-08"]);
    assert!(changed.contains(&format!("+ {MOVED}")) && changed.contains(&format!("- {LEFT}")));

    reloaded(&gate, || fs::write(gate.registries().join("hub.toml"), NEW).unwrap());
    ask(MOVED).succeeded();
    let left = ask(LEFT).failed();
    assert!(left.text.contains("left preset docker-hub on 2026-06-08"), "{}", left.text);
    let (_, explained) = pullgate(&["explain", MOVED, "--config", config]);
    assert!(explained.contains("docker-hub of 2026-06-08"), "{explained}");
}

#[test]
fn preset_lists_shows_and_rejects() {
    let (code, listed) = pullgate(&["preset", "list", "--json"]);
    assert_eq!(code, Some(0));
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let names = listed.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap());
    for name in names {
        let (code, shown) = pullgate(&["preset", "show", name]);
        assert!(code == Some(0) && shown.contains(&format!("preset = {name:?}")), "{shown}");
    }
    for wrong in [
        &["preset", "show", "dockerhub"][..],
        &["preset", "show", "quay", "--date", "2099-01-01"],
        &["preset", "diff", "quay", "yesterday"],
    ] {
        assert_eq!(pullgate(wrong).0, Some(1), "{wrong:?}");
    }
}

#[test]
fn import_compares_a_file_with_what_az_printed() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let printed = r#"{"loginServer": "contoso.azurecr.io", "dataEndpoints": [
        {"region": "eastus", "endpoint": "contoso.eastus.data.azurecr.io"},
        {"region": "westus", "endpoint": "contoso.westus.data.azurecr.io"}]}"#;
    let utf_16 = std::iter::once(0xfeff).chain(printed.encode_utf16());
    let printed = write("printed.json", &utf_16.flat_map(u16::to_le_bytes).collect::<Vec<_>>());
    let login = "login-server = \"contoso.azurecr.io\"\n";
    for (data, code, words) in [
        (
            "[\"contoso.eastus.data.azurecr.io\", \"contoso.westus.data.azurecr.io\"]",
            0,
            ["every endpoint", ""],
        ),
        ("\"every-region\"", 0, ["every endpoint", ""]),
        (
            "[\"contoso.eastus.data.azurecr.io\", \"contoso.eastus2.data.azurecr.io\"]",
            1,
            [
                "lacking: contoso.westus.data.azurecr.io:443",
                "surplus: contoso.eastus2.data.azurecr.io:443",
            ],
        ),
        ("[\"fabrikam.eastus.data.azurecr.io\"]", 1, ["another label", ""]),
    ] {
        let file = write("contoso.toml", format!("{login}data-endpoints = {data}\n").as_bytes());
        let (status, said) = pullgate(&["import", &printed, "--compare", &file]);
        assert_eq!(status, Some(code), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
}
