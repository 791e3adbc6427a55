//! Validates the files of `deploy/` with the programs that read them, and with a running gate.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking; clippy's exception for tests covers #[test] functions only"
)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

/// Runs a validator on our files; it must succeed. Returns its output.
#[track_caller]
fn says(program: &str, arguments: &[&str]) -> String {
    let ran = Command::new(program).args(arguments).current_dir(deploy()).output();
    let ran = ran.unwrap_or_else(|error| panic!("{program}: {error}; make test installs it"));
    let text = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{program} {arguments:?}: {text}");
    text.into_owned()
}

const UNITS: [&str; 9] = [
    "pullgate.slice",
    "pullgate-nftables.service",
    "pullgate.service",
    "pullgate-bridge.service",
    "pullgate-probe.service",
    "pullgate-probe.timer",
    "pullgate-hand-over.service",
    "pullgate.socket",
    "pullgate-admin.socket",
];

/// Creates a root directory with our units, and stubs of the programs that they start.
fn root() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    for program in ["usr/bin/pullgate", "bin/kill", "bin/systemctl", "bin/sh", "usr/sbin/nft"] {
        fs::create_dir_all(at(program).parent().unwrap()).unwrap();
        fs::write(at(program), "#!/bin/sh\n").unwrap();
        fs::set_permissions(at(program), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let units = at("usr/lib/systemd/system");
    fs::create_dir_all(&units).unwrap();
    for unit in UNITS {
        fs::copy(deploy().join("systemd").join(unit), units.join(unit)).unwrap();
    }
    for target in [
        "sysinit",
        "basic",
        "sockets",
        "network-online",
        "timers",
        "time-sync",
        "time-set",
        "network",
        "network-pre",
        "local-fs",
        "shutdown",
    ] {
        let name = format!("{target}.target");
        fs::copy(Path::new("/lib/systemd/system").join(&name), units.join(&name)).unwrap();
    }
    root
}

#[test]
fn systemd_finds_nothing_to_say_about_the_units() {
    let root = root();
    let root = format!("--root={}", root.path().display());
    let text = says("systemd-analyze", &[&["verify", "--man=no", &root], &UNITS[..]].concat());
    assert_eq!(text, "");
}

/// The files that a page of the manual has written by the shell: `cat > FILE <<'END'`.
fn written_by(page: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(deploy().join("../docs").join(page)).unwrap();
    let parts = text.split("cat > ").skip(1);
    parts
        .filter_map(|part| {
            let (file, rest) = part.split_once(" <<'END'\n")?;
            let (content, _) = rest.split_once("\nEND\n")?;
            Some((file.to_owned(), format!("{content}\n")))
        })
        .collect()
}

#[test]
fn the_kerberos_ticket_of_the_manual_fits_the_units() {
    let root = root();
    for program in ["usr/bin/kinit", "bin/chmod", "bin/mv"] {
        let at = root.path().join(program);
        fs::write(&at, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&at, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let units = root.path().join("etc/systemd/system");
    let written = written_by("parent.md");
    let files: Vec<&str> = written.iter().map(|(file, _)| file.as_str()).collect();
    let own = ["pullgate-ticket.service", "pullgate-ticket.timer"];
    assert_eq!(files, [own[0], own[1], "pullgate.service.d/kerberos.conf"]);
    for (file, content) in written {
        let at = units.join(file);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, content).unwrap();
    }
    let option = format!("--root={}", root.path().display());
    let lines = [&["verify", "--man=no", &option], &UNITS[..], &own[..]].concat();
    assert_eq!(says("systemd-analyze", &lines), "");
}

#[test]
fn the_drop_ins_of_a_gateway_fit_the_units() {
    let root = root();
    let units = root.path().join("etc/systemd/system");
    let mut drop_ins = written_by("gateway.md");
    drop_ins.retain(|(file, _)| file.starts_with("pullgate"));
    let files: Vec<&str> = drop_ins.iter().map(|(file, _)| file.as_str()).collect();
    assert_eq!(files, ["pullgate.socket.d/gateway.conf", "pullgate.service.d/gateway.conf"]);
    for (file, mut content) in drop_ins {
        if file.starts_with("pullgate.socket.d") {
            // As with TPROXY.
            content.push_str("Transparent=yes\n");
        }
        let at = units.join(file);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, content).unwrap();
    }
    let option = format!("--root={}", root.path().display());
    let text = says("systemd-analyze", &[&["verify", "--man=no", &option], &UNITS[..]].concat());
    assert_eq!(text, "");
    // The sockets match the listeners of the packaged configuration.
    let socket = fs::read_to_string(units.join("pullgate.socket.d/gateway.conf")).unwrap();
    let main = fs::read_to_string(deploy().join("nftables/gateway.toml")).unwrap();
    let addresses: Vec<&str> =
        socket.lines().filter_map(|line| line.strip_prefix("ListenStream=")).collect();
    assert_eq!(addresses.len(), 3, "an empty one takes the package's away");
    for address in &addresses[1..] {
        assert!(main.contains(&format!("address = \"{address}\"")), "{address}");
    }
}

#[test]
fn the_services_are_exposed_to_little() {
    for unit in ["pullgate.service", "pullgate-bridge.service"] {
        let unit = format!("systemd/{unit}");
        // systemd-analyze uses tenths here: 2.0.
        let line = ["security", "--offline=true", "--threshold=20", "--no-pager", &unit];
        let text = says("systemd-analyze", &line);
        assert!(text.contains("Overall exposure level"), "{text}");
    }
}

#[test]
fn the_bridge_is_the_gate_by_another_name() {
    let directives = |unit: &str| -> Vec<String> {
        let text = fs::read_to_string(deploy().join("systemd").join(unit)).unwrap();
        let service = text.split("[Install]").next().unwrap();
        let lines = service.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        lines.filter(|line| !line.starts_with("Description=")).map(str::to_owned).collect()
    };
    assert_eq!(directives("pullgate.service"), directives("pullgate-bridge.service"));
}

#[test]
fn logrotate_understands_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let state = format!("--state={}", folder.path().join("state").display());
    let text = says("logrotate", &["--debug", &state, "logrotate/pullgate"]);
    assert!(!text.contains("error"), "{text}");
    assert!(text.contains("/var/log/pullgate/audit.jsonl"), "{text}");
}

#[test]
fn the_alerts_fire_when_they_should_and_keep_silent_otherwise() {
    says("promtool", &["check", "config", "observability/prometheus.yaml"]);
    let text = says("promtool", &["test", "rules", "observability/alerts.test.yaml"]);
    assert!(text.contains("SUCCESS"), "{text}");
}

/// Words that are metrics: `pullgate_…` and `process_…`.
fn metrics_in(text: &str) -> BTreeSet<String> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| word.starts_with("pullgate_") || word.starts_with("process_"))
        .map(|word| word.trim_end_matches("_bucket").to_owned())
        .collect()
}

#[test]
fn every_metric_that_is_looked_at_is_explained_in_the_manual() {
    let manual = fs::read_to_string(deploy().join("../docs/audit-and-metrics.md")).unwrap();
    for file in ["alerts.yaml", "dashboard.json"] {
        let text = fs::read_to_string(deploy().join("observability").join(file)).unwrap();
        let named = metrics_in(&text);
        assert!(named.len() > 8, "{file} names {named:?}");
        // The manual has one row for all process metrics.
        let absent: Vec<_> = named
            .iter()
            .filter(|name| name.starts_with("pullgate_") && !manual.contains(&format!("`{name}`")))
            .collect();
        assert!(absent.is_empty(), "{file} names {absent:?}");
    }
    let dashboard = fs::read_to_string(deploy().join("observability/dashboard.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    assert_eq!(dashboard["uid"], "pullgate");
}
