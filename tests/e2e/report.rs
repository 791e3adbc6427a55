//! Report mode: the operator sees which clients still use storage accounts before enforcing the
//! policy.

use std::fs;
use std::process::Command;

use crate::harness::{Blobs, Lab, Policy, Way};

#[test]
fn report_mode_lets_the_reportable_pass_and_records_it() {
    let lab = Lab::new(Blobs::StorageAccount);
    lab.push("contoso.azurecr.io/app:1", 1, &[200_000]);
    let gate = lab.gate(&Policy::of(&["contoso"]).with_policy("enforcement = \"report\""));
    assert_eq!(gate.metric("pullgate_enforcing", &[]), 0.0);
    assert!(gate.log().contains("report"), "the start warns of it:\n{}", gate.log());
    let way = Way::Through(&gate);
    let to = lab.dir().join("pulled");
    let pull = "skopeo copy docker://contoso.azurecr.io/app:1";
    lab.sh(way, &format!("{pull} dir:{}", to.display())).succeeded();
    assert!(lab.reached_storage().0 > 0);
    gate.audited(&[("outcome", "would-deny"), ("reason", "storage-account")]);
    lab.sh(way, "curl -sS -o /dev/null https://fabrikam.azurecr.io/v2/").succeeded();
    gate.audited(&[("outcome", "would-deny"), ("reason", "other-registry")]);

    // Checks that do not depend on the list of hosts are still enforced.
    for (url, code) in [
        ("https://127.0.1.3/v2/", "ip-literal"),
        ("https://contoso.azurecr.io:8443/v2/", "port-not-allowed"),
    ] {
        let ran = lab.sh(way, &format!("curl -sv -k {url}")).failed();
        assert!(ran.text.contains(code), "{}", ran.text);
    }

    let audit = gate.audit_file();
    let gate_program = env!("CARGO_BIN_EXE_pullgate");
    let report = lab.sh(Way::Direct, &format!("{gate_program} report {}", audit.display()));
    let text = report.succeeded().text;
    let storage = text.find("eusmanaged123.blob.core.windows.net").unwrap_or(usize::MAX);
    let other = text.find("fabrikam.azurecr.io").unwrap_or(usize::MAX);
    assert!(storage < other && other < usize::MAX, "storage accounts first:\n{text}");
    assert!(fs::metadata(audit).unwrap().len() > 0);
}

#[test]
fn log_and_report_agree_on_what_they_cannot_read() {
    let folder = tempfile::tempdir().unwrap();
    let audit = r#"{"time":"2026-11-24T03:40:00.123Z","outcome":"relayed","id":"01J1"}"#;
    let docker = format!(
        "{{\"log\":\"{}\\n\",\"stream\":\"stdout\",\"time\":\"T\"}}\n",
        audit.replace('"', "\\\"")
    );
    for (name, content, code, message) in [
        ("absent", None, 1, "absent: No such file"),
        ("a.gz", Some(&b"\x1f\x8b\x08"[..]), 1, "the file is compressed; read it with: zcat "),
        ("syslog", Some(b"Nov 24 host sshd[1]: hello\n"), 1, "contains no audit line"),
        ("docker", Some(docker.as_bytes()), 0, ""),
        (
            "cri",
            Some(b"2026-11-24T03:40:00Z stdout F {\"time\":\"T\",\"outcome\":\"relayed\"}"),
            0,
            "",
        ),
        ("empty", Some(b""), 0, ""),
    ] {
        let path = folder.path().join(name);
        if let Some(content) = content {
            fs::write(&path, content).unwrap();
        }
        for command in ["log", "report"] {
            let mut pullgate = Command::new(env!("CARGO_BIN_EXE_pullgate"));
            let ran = pullgate.arg(command).arg(&path).output().unwrap();
            let said = String::from_utf8_lossy(&ran.stderr);
            assert_eq!(ran.status.code(), Some(code), "{command} {name}: {said}");
            assert!(said.contains(message), "{command} {name}: {said}");
        }
    }
}
