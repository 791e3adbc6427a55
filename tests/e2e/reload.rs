//! Ways in which a policy changes on disk, valid and invalid.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::symlink;

use crate::harness::{Blobs, Gate, Lab, Policy, Way, az_json, bound_to_this_thread, wait_until};

/// Returns the policy's verdict on a host, requested by a real client.
fn passes(lab: &Lab, gate: &Gate, label: &str) -> bool {
    let url = format!("curl -sS -o /dev/null https://{label}.azurecr.io/v2/");
    lab.sh(Way::Through(gate), &url).status.success()
}

fn generation(gate: &Gate) -> f64 {
    gate.metric("pullgate_policy_generation", &[])
}

/// Runs `change` and waits until a new policy is in force.
#[track_caller]
pub fn reloaded(gate: &Gate, change: impl FnOnce()) {
    let before = generation(gate);
    change();
    wait_until("the new policy is in force", || (generation(gate) > before).then_some(()));
    assert_eq!(gate.metric("pullgate_policy_stale", &[]), 0.0, "{}", gate.log());
}

/// Runs `change` and waits until the gate reports that the policy on disk is not in force.
#[track_caller]
pub fn kept(gate: &Gate, change: impl FnOnce()) {
    let before = generation(gate);
    change();
    wait_until("the policy is stale", || {
        (gate.metric("pullgate_policy_stale", &[]) == 1.0).then_some(())
    });
    assert_eq!(generation(gate), before);
    let (status, body) = gate.admin("/readyz");
    assert_eq!(status, 200, "it still serves what it served: {body}");
    assert!(body.contains("stale"), "/readyz says so: {body}");
}

#[test]
fn a_request_is_judged_by_the_policy_in_force_when_it_comes() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let gate = lab.gate(&Policy::of(&["contoso", "fabrikam"]));
    let mut early = TcpStream::connect("127.0.0.1:3128").unwrap();
    // Connections are accepted in order: this one was accepted after it.
    assert!(passes(&lab, &gate, "contoso"));
    reloaded(&gate, || fs::remove_file(gate.registries().join("fabrikam.json")).unwrap());
    early
        .write_all(b"CONNECT fabrikam.azurecr.io:443 HTTP/1.1\r\nHost: fabrikam.azurecr.io\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    early.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("other-registry"), "{answer}");
    let line = gate.audited(&[("reason", "other-registry")]);
    assert_eq!(line["generation"], generation(&gate), "{line}");
}

#[test]
fn that_the_files_cannot_be_watched_is_said_once() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let limited = "echo 0 > /proc/sys/user/max_inotify_instances && exec \"$@\"";
    let mut command = bound_to_this_thread("unshare");
    command.args(["--user", "--map-root-user", "sh", "-c", limited, "sh"]);
    command.arg(env!("CARGO_BIN_EXE_pullgate"));
    let gate = Gate::start_by(command, lab.dir(), &Policy::of(&["contoso"]));
    // Each time the files are read, the gate tries to watch them.
    for label in ["fabrikam", "tailspin"] {
        reloaded(&gate, || {
            let file = gate.registries().join(format!("{label}.json"));
            fs::write(file, az_json(label)).unwrap();
            gate.signal("HUP");
        });
    }
    let log = gate.log();
    assert_eq!(log.matches("the files cannot be watched").count(), 1, "{log}");
    assert!(log.contains("fs.inotify.max_user_instances"), "{log}");
}

#[test]
fn an_editors_rename_is_seen() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let gate = lab.gate(&Policy::of(&["contoso"]));
    assert!(passes(&lab, &gate, "contoso") && !passes(&lab, &gate, "fabrikam"));
    let folder = gate.registries();
    reloaded(&gate, || {
        let draft = folder.join(".fabrikam.json.swp");
        fs::write(&draft, az_json("fabrikam")).unwrap();
        fs::rename(draft, folder.join("fabrikam.json")).unwrap();
    });
    assert!(passes(&lab, &gate, "contoso") && passes(&lab, &gate, "fabrikam"));
    // Many editors rename the old file before they create the new one.
    reloaded(&gate, || {
        fs::rename(folder.join("contoso.json"), folder.join("contoso.json~")).unwrap();
    });
    assert!(!passes(&lab, &gate, "contoso") && passes(&lab, &gate, "fabrikam"));
}

#[test]
fn a_half_written_file_keeps_the_last_good_policy() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let gate = lab.gate(&Policy::of(&["contoso"]));
    let file = gate.registries().join("fabrikam.json");
    let whole = az_json("fabrikam");
    kept(&gate, || fs::write(&file, &whole[..whole.len() / 2]).unwrap());
    assert!(passes(&lab, &gate, "contoso") && !passes(&lab, &gate, "fabrikam"));
    assert!(gate.log().contains("fabrikam.json"), "the log names the file:\n{}", gate.log());
    reloaded(&gate, || fs::write(&file, &whole).unwrap());
    assert!(passes(&lab, &gate, "contoso") && passes(&lab, &gate, "fabrikam"));
}

#[test]
fn a_fifo_stops_neither_reloads_nor_the_end() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let mut gate = lab.gate(&Policy::of(&["contoso"]));
    let fifo = gate.registries().join("fabrikam.json");
    kept(&gate, || {
        lab.sh(Way::Direct, &format!("mkfifo {}", fifo.display())).succeeded();
    });
    assert!(gate.log().contains("not a regular file"), "{}", gate.log());
    reloaded(&gate, || {
        let draft = gate.registries().join(".draft");
        fs::write(&draft, az_json("fabrikam")).unwrap();
        fs::rename(draft, &fifo).unwrap();
    });
    assert!(passes(&lab, &gate, "fabrikam"));
    fs::remove_file(&fifo).unwrap();
    lab.sh(Way::Direct, &format!("mkfifo {}", fifo.display())).succeeded();
    gate.signal("TERM");
    assert!(gate.ended().success());
}

#[test]
fn kubernetes_swaps_a_symlink() {
    let lab = Lab::new(Blobs::DataEndpoint);
    // A mounted ConfigMap: each file is a link through `..data`, which is replaced by a rename.
    let volume = lab.dir().join("volume");
    let version = |name: &str, labels: &[&str]| {
        fs::create_dir_all(volume.join(name)).unwrap();
        for label in labels {
            fs::write(volume.join(name).join(format!("{label}.json")), az_json(label)).unwrap();
        }
    };
    version("..2026_01", &["contoso"]);
    version("..2026_02", &["contoso", "fabrikam"]);
    symlink("..2026_01", volume.join("..data")).unwrap();
    for label in ["contoso", "fabrikam"] {
        let file = format!("{label}.json");
        if label == "contoso" {
            symlink(format!("..data/{file}"), volume.join(file)).unwrap();
        }
    }
    let policy = Policy::of(&[]).with_registries(volume.to_str().unwrap());
    let gate = lab.gate(&policy);
    assert!(passes(&lab, &gate, "contoso") && !passes(&lab, &gate, "fabrikam"));
    reloaded(&gate, || {
        symlink("..2026_02", volume.join("..data_tmp")).unwrap();
        fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
        symlink("..data/fabrikam.json", volume.join("fabrikam.json")).unwrap();
        fs::remove_dir_all(volume.join("..2026_01")).unwrap();
    });
    wait_until("both pass", || passes(&lab, &gate, "fabrikam").then_some(()));
    assert!(passes(&lab, &gate, "contoso"));
    // Once more, with no change except the target of `..data`.
    version("..2026_03", &["fabrikam"]);
    fs::write(volume.join("..2026_03/contoso.json"), az_json("tailspin")).unwrap();
    reloaded(&gate, || {
        symlink("..2026_03", volume.join("..data_tmp")).unwrap();
        fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    });
    assert!(!passes(&lab, &gate, "contoso") && passes(&lab, &gate, "fabrikam"));
}

#[test]
fn an_emptied_folder_is_a_fault() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let gate = lab.gate(&Policy::of(&["contoso"]));
    kept(&gate, || fs::remove_file(gate.registries().join("contoso.json")).unwrap());
    assert!(passes(&lab, &gate, "contoso"));
    reloaded(&gate, || {
        fs::write(gate.registries().join("fabrikam.json"), az_json("fabrikam")).unwrap();
    });
    assert!(!passes(&lab, &gate, "contoso") && passes(&lab, &gate, "fabrikam"));
}

#[test]
fn deny_all_means_an_empty_folder() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let gate = lab.gate(&Policy::of(&["contoso"]).with_policy("deny-all = true"));
    reloaded(&gate, || fs::remove_file(gate.registries().join("contoso.json")).unwrap());
    assert!(!passes(&lab, &gate, "contoso"));
}

#[test]
fn sighup_reloads_and_reopens_the_audit() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let gate = lab.gate(&Policy::of(&["contoso"]));
    assert!(passes(&lab, &gate, "contoso"));
    gate.audited(&[("registry", "contoso")]);
    // It does not matter whether the watcher or the signal comes first: both do the same.
    fs::rename(gate.audit_file(), lab.dir().join("rotated")).unwrap();
    reloaded(&gate, || {
        fs::write(gate.registries().join("fabrikam.json"), az_json("fabrikam")).unwrap();
        gate.signal("HUP");
    });
    wait_until("the audit is reopened", || gate.audit_file().exists().then_some(()));
    assert!(passes(&lab, &gate, "fabrikam"));
    gate.audited(&[("registry", "fabrikam")]);
}

#[test]
fn sigusr1_reopens_the_audit_and_reads_no_configuration() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let gate = lab.gate(&Policy::of(&["contoso"]));
    assert!(passes(&lab, &gate, "contoso"));
    gate.audited(&[("registry", "contoso")]);
    fs::rename(gate.audit_file(), lab.dir().join("rotated")).unwrap();
    gate.signal("USR1");
    wait_until("the audit is reopened", || gate.audit_file().exists().then_some(()));
    assert!(passes(&lab, &gate, "contoso"));
    gate.audited(&[("registry", "contoso")]);
    assert!(!gate.log().contains("SIGHUP"), "{}", gate.log());
}
