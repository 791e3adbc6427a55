//! `pullgate check` on valid and invalid folders, and the gate's log and pages about itself.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::harness::{Blobs, Lab, Policy, Way, write_config};

fn pullgate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pullgate"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The file, the line of the error, the content, and a word that the message must contain.
const BROKEN: [(&str, usize, &str, &str); 12] = [
    (
        "a-wildcard.toml",
        2,
        "login-server = \"contoso.azurecr.io\"\nalso = [\"*.example.com\"]\n",
        "*.example.com",
    ),
    (
        "b-trap.json",
        2,
        "{\n  \"dataEndpoints\": [ { \"endpoint\": \"*.blob.core.windows.net\", \"region\": \"eastus\" } ],\n  \"loginServer\": \"litware.azurecr.io\"\n}\n",
        "pullgate import",
    ),
    (
        "c-storage.toml",
        3,
        "login-server = \"adatum.azurecr.io\"\n\nalso = [\"adatum.blob.core.windows.net\"]\n",
        "adatum.blob.core.windows.net",
    ),
    (
        "d-unknown-key.toml",
        2,
        "login-server = \"tailspin.azurecr.io\"\ndata-endpoint = []\n",
        "data-endpoint",
    ),
    (
        "e-other-label.toml",
        2,
        "login-server = \"wingtip.azurecr.io\"\ndata-endpoints = [\"wingtoy.eastus.data.azurecr.io\"]\n",
        "wingtoy",
    ),
    (
        "f-other-cloud.toml",
        2,
        "login-server = \"proseware.azurecr.io\"\ndata-endpoints = [\"proseware.chinaeast2.data.azurecr.cn\"]\n",
        "azurecr.cn",
    ),
    (
        "g-foreign-registry.toml",
        2,
        "login-server = \"woodgrove.azurecr.io\"\nalso = [\"stranger.azurecr.io\"]\n",
        "stranger.azurecr.io",
    ),
    ("h-half-json.json", 3, "{\n  \"loginServer\": \"margie.azurecr.io\",\n", ""),
    ("i-not-toml.toml", 1, "login-server = contoso\n", ""),
    (
        "j-range.toml",
        2,
        "login-server = \"lucerne.azurecr.io\"\nprivate-addresses = [\"10.1.0.0/40\"]\n",
        "10.1.0.0/40",
    ),
    ("k-no-login.toml", 1, "data-endpoints = []\n", "login-server"),
    (
        "l-shared.toml",
        2,
        "login-server = \"eu-docker.pkg.dev\"\ndata-endpoints = [\"storage.googleapis.com\"]\n",
        "accept-shared-storage",
    ),
];

#[test]
fn check_names_all_twelve_faults_by_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let mut policy = Policy::of(&["fabrikam"]);
    for (name, _, content, _) in BROKEN {
        policy = policy.with_file(name, content);
    }
    let config = write_config(dir.path(), &policy);
    let output = pullgate(&["check", "--config", config.to_str().unwrap()]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for (name, line, _, word) in BROKEN {
        let at = format!("{name}:{line}");
        let named = said.lines().any(|row| row.contains(&at));
        assert!(named && said.contains(word), "{at} with {word:?} is absent from:\n{said}");
    }
    assert!(!said.contains("fabrikam.json"), "a good file is not blamed:\n{said}");
}

#[test]
fn a_fault_in_the_main_file_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let policy = Policy::of(&["contoso"]).with_policy("enforcment = \"report\"");
    let config = write_config(dir.path(), &policy);
    for command in ["check", "run"] {
        let output = pullgate(&[command, "--config", config.to_str().unwrap()]);
        let said = text(&output);
        assert!(!output.status.success(), "{said}");
        assert!(said.contains("pullgate.toml:10"), "{command} names the line:\n{said}");
        assert!(said.contains("enforcment"), "{command} names the key:\n{said}");
    }
}

#[test]
fn a_good_folder_passes() {
    let dir = tempfile::tempdir().unwrap();
    let config = write_config(dir.path(), &Policy::of(&["contoso", "fabrikam"]));
    let output = pullgate(&["check", "--config", config.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn the_configuration_that_is_shipped_passes() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/pullgate.toml");
    let output = pullgate(&["check", "--config", shipped.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn wrong_usage_is_two() {
    assert_eq!(pullgate(&["chekc"]).status.code(), Some(2));
    assert_eq!(pullgate(&["check", "--config"]).status.code(), Some(2));
}

#[test]
fn explain_prints_the_line_that_a_client_would_read() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let gate = lab.gate(&Policy::of(&["contoso"]));
    let config = lab.dir().join("gate/pullgate.toml");
    let explain = |host: &str| pullgate(&["explain", host, "--config", config.to_str().unwrap()]);
    let allowed = explain("contoso.azurecr.io");
    assert_eq!(allowed.status.code(), Some(0), "{}", text(&allowed));
    assert!(text(&allowed).contains("contoso.json:"), "file and line: {}", text(&allowed));
    let denied = explain("fabrikam.azurecr.io:443");
    assert_eq!(denied.status.code(), Some(1), "{}", text(&denied));
    // The same text as the real client's, except for the session id.
    let real =
        lab.sh(Way::Through(&gate), "skopeo inspect docker://fabrikam.azurecr.io/a").failed();
    let phrase =
        real.last_line().split("pullgate: ").nth(1).unwrap_or_else(|| panic!("{}", real.text));
    let phrase = phrase.split(" [").next().unwrap();
    assert!(text(&denied).contains(phrase), "{phrase} is absent from:\n{}", text(&denied));
}

#[test]
fn explain_takes_hosts_and_images_as_people_paste_them() {
    let folder = tempfile::tempdir().unwrap();
    let contoso = "login-server = \"contoso.azurecr.io\"\n\
                   [mirror]\nrepositories = [\"team/**\"]\ntags = [\"1.*\"]\n";
    let explain = |policy: &Policy, pasted: &str| {
        let config = write_config(folder.path(), policy);
        let output = pullgate(&["explain", pasted, "--config", config.to_str().unwrap()]);
        (output.status.code(), text(&output))
    };
    let plain = Policy::of(&["contoso"]);
    for (pasted, code, first) in [
        ("contoso.azurecr.io/team/app:1.0", 0, "contoso.azurecr.io: allowed\n"),
        ("docker://contoso.azurecr.io/team/app", 0, "contoso.azurecr.io: allowed\n"),
        ("https://contoso.azurecr.io/v2/", 0, "contoso.azurecr.io: allowed\n"),
        ("fabrikam.azurecr.io/app", 1, "fabrikam.azurecr.io: denied [other-registry]\n"),
        ("nginx:alpine", 1, "registry-1.docker.io: denied ["),
    ] {
        let (found, text) = explain(&plain, pasted);
        assert_eq!(found, Some(code), "{pasted}: {text}");
        assert!(text.starts_with(first) && !text.contains("mirror"), "{pasted}: {text}");
    }
    fs::remove_dir_all(folder.path().join("registries.d")).unwrap();
    let mirror = "[[listen]]\nmode = \"mirror\"\naddress = \"127.0.0.1:5000\"\n";
    let mirrored = Policy::of(&[]).with_file("contoso.toml", contoso).with_more(mirror);
    for (pasted, code, part) in [
        ("contoso.azurecr.io/team/app:1.0", 0, "team/app:1.0 from the mirror: allowed\n"),
        ("contoso.azurecr.io/team/app:2.0", 0, "from the mirror: denied [tag-not-allowed]\n"),
        ("fabrikam.azurecr.io/app", 1, "from the mirror: denied [registry-unknown]\n"),
    ] {
        let (found, text) = explain(&mirrored, pasted);
        assert_eq!(found, Some(code), "{pasted}: {text}");
        assert!(text.contains(part), "{pasted}: {text}");
    }
}

#[test]
fn a_port_of_zero_takes_a_free_one_and_says_which() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let policy = Policy::of(&["contoso"])
        .with_more("[[listen]]\nmode = \"connect\"\naddress = \"127.0.0.1:0\"\n");
    let gate = lab.gate(&policy);
    let (status, listeners) = gate.admin("/listeners");
    assert_eq!(status, 200);
    let port = listeners
        .split(|letter: char| !letter.is_ascii_digit())
        .filter_map(|number| number.parse::<u16>().ok())
        .find(|port| *port > 30_000)
        .unwrap_or_else(|| panic!("no free port in {listeners}"));
    assert!(gate.log().contains(&port.to_string()), "the log tells it too:\n{}", gate.log());
    let proxy = format!("http://127.0.0.1:{port}");
    let line = format!("curl -sS -o /dev/null --proxy {proxy} https://contoso.azurecr.io/v2/");
    lab.sh(Way::Direct, &line).succeeded();
}

#[test]
fn the_end_waits_for_what_is_under_way() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let mut gate = lab.gate(&Policy::of(&["contoso"]));
    fs::write(lab.served("contoso").join("layer"), vec![7; 3 << 20]).unwrap();
    let url = "https://contoso.eastus.data.azurecr.io/layer";
    let line = ["curl", "-sS", "--limit-rate", "2M", "-o", "/dev/null", url];
    let mut pull = lab.command(Way::Through(&gate), &line).spawn().unwrap();
    crate::harness::wait_until("the layer streams", || {
        (gate.metric("pullgate_open_sessions", &[]) > 0.0).then_some(())
    });
    gate.signal("TERM");
    assert!(pull.wait().unwrap().success(), "a pull under way is let finish");
    assert_eq!(gate.ended().code(), Some(0), "{}", gate.log());
    assert_eq!(gate.audited(&[("registry", "contoso")])["outcome"], "relayed");
}

#[test]
fn the_demo_says_what_to_install_if_the_system_has_no_authorities() {
    let demo = Command::new(env!("CARGO_BIN_EXE_pullgate"))
        .arg("demo")
        .env("SSL_CERT_FILE", "/dev/null")
        .env_remove("SSL_CERT_DIR")
        .output()
        .unwrap();
    assert_eq!(demo.status.code(), Some(1), "{}", text(&demo));
    assert!(text(&demo).contains("install the package ca-certificates"), "{}", text(&demo));
}
