//! The rights that the process drops, and the operations that must still work.

use std::fs;
use std::os::unix::fs::symlink;

use crate::harness::{Blobs, Lab, Policy, Way, az_json, wait_until};

#[test]
fn a_gate_reads_only_configured_paths() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let (ours, others) = (lab.dir().join("later"), lab.dir().join("others"));
    for folder in [&ours, &others] {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join("tailspin.json"), az_json("tailspin")).unwrap();
    }
    let more = format!("\n[process]\nreadable = [{ours:?}]\n");
    let gate = lab.gate(&Policy::of(&["contoso"]).with_more(&more));
    let file = gate.registries().join("tailspin.json");
    symlink(others.join("tailspin.json"), &file).unwrap();
    wait_until("the policy is stale", || {
        (gate.metric("pullgate_policy_stale", &[]) == 1.0).then_some(())
    });
    let (_, body) = gate.admin("/readyz");
    assert!(body.contains("Permission denied"), "{body}");
    fs::remove_file(&file).unwrap();
    symlink(ours.join("tailspin.json"), &file).unwrap();
    wait_until("the new policy is in force", || {
        (gate.metric("pullgate_policy_generation", &[]) == 2.0).then_some(())
    });
    let log = gate.log();
    assert!(!log.contains("Landlock"), "this kernel has it:\n{log}");
}

#[test]
fn new_privileges_and_core_dumps_are_given_up() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let gate = lab.gate(&Policy::of(&["contoso"]));
    let proc = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", gate.pid())).unwrap();
    assert!(proc("status").contains("NoNewPrivs:\t1"));
    let limits = proc("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).collect::<Vec<_>>(), ["0", "0", "bytes"]);
}

#[test]
fn what_a_gate_needs_it_reaches() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let gate = lab.gate(&Policy::of(&["contoso"]));
    // The process metrics from /proc, and audit rotation.
    assert!(gate.metric("process_open_fds", &[]) > 5.0);
    fs::rename(gate.audit_file(), lab.dir().join("rotated")).unwrap();
    gate.signal("HUP");
    wait_until("the audit is reopened", || gate.audit_file().exists().then_some(()));
    // Splice reads the pipe size limit, and a name server added later requires the resolver's file.
    let url = "curl -sS -o /dev/null https://contoso.azurecr.io/v2/";
    lab.sh(Way::Through(&gate), url).succeeded();
    gate.audited(&[("outcome", "relayed")]);
}
