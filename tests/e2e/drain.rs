//! Graceful shutdown: open sessions may finish, new ones are rejected with a request to retry.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::process::Child;

use rustix::io::{FdFlags, fcntl_setfd};

use crate::harness::{Blobs, Gate, Handing, Lab, Manager, Policy, Way, wait_until, write_config};

const URL: &str = "https://contoso.eastus.data.azurecr.io/layer";

/// Starts a pull of 24 MiB that takes a few seconds.
fn pull(lab: &Lab, gate: &Gate) -> Child {
    File::create(lab.served("contoso").join("layer")).unwrap().set_len(24 << 20).unwrap();
    let to = lab.dir().join("pulled");
    let line = ["curl", "-sS", "--limit-rate", "8M", "-o", to.to_str().unwrap(), URL];
    let pull = lab.command(Way::Through(gate), &line).spawn().unwrap();
    wait_until("the layer streams", || {
        fs::metadata(&to).is_ok_and(|file| file.len() > 1 << 20).then_some(())
    });
    pull
}

#[test]
fn a_pull_completes_while_new_sessions_are_rejected_as_draining() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let mut gate = lab.gate(&Policy::of(&["contoso"]));
    let mut pull = pull(&lab, &gate);
    gate.signal("TERM");
    wait_until("it drains", || (gate.admin("/readyz").0 == 503).then_some(()));
    assert!(gate.admin("/readyz").1.starts_with("draining"));
    let refused = lab.sh(Way::Through(&gate), "curl -sv https://contoso.azurecr.io/v2/").failed();
    assert!(refused.text.contains("503 pullgate: contoso.azurecr.io"), "{}", refused.text);
    assert!(refused.text.contains("; try again [draining "), "{}", refused.text);

    assert!(wait_until("the pull ends", || pull.try_wait().unwrap()).success());
    assert_eq!(fs::metadata(lab.dir().join("pulled")).unwrap().len(), 24 << 20);
    assert!(gate.ended().success());
    let audit = gate.audit();
    let denied: Vec<_> = audit.iter().filter(|line| line["outcome"] == "denied").collect();
    assert_eq!(denied.len(), 1, "{denied:?}");
    assert_eq!(denied[0]["reason"], "draining");
}

#[test]
fn what_is_open_at_the_end_of_the_time_is_ended_and_recorded() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let limits = "\n[limits]\ndrain-timeout-ms = 500\n";
    let mut gate = lab.gate(&Policy::of(&["contoso"]).with_more(limits));
    let mut pull = pull(&lab, &gate);
    gate.signal("TERM");
    assert!(gate.ended().success());
    assert!(!wait_until("the pull ends", || pull.try_wait().unwrap()).success());
    let line = gate.audited(&[("reason", "draining")]);
    assert!(line["bytes-down"].as_u64().unwrap() > 1 << 20, "{line}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let mut gate = lab.gate(&Policy::of(&["contoso"]));
    let mut pull = pull(&lab, &gate);
    gate.signal("TERM");
    wait_until("it drains", || (gate.admin("/readyz").0 == 503).then_some(()));
    gate.signal("TERM");
    assert!(gate.ended().success());
    assert!(!wait_until("the pull ends", || pull.try_wait().unwrap()).success());
    gate.audited(&[("reason", "draining")]);
    assert!(gate.log().contains("ending at once"), "{}", gate.log());
}

#[test]
fn the_service_manager_hears_how_the_gate_stands() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let manager = Manager::new(lab.dir(), Policy::of(&["contoso"]), Handing::Sockets);
    let mut gate = manager.start("gate");
    manager.hears("WATCHDOG=1", &mut gate);
    gate.signal("HUP");
    let said = manager.hears("RELOADING=1", &mut gate);
    assert!(said.contains("MONOTONIC_USEC="), "{said}");
    let said = manager.hears("READY=1", &mut gate);
    assert!(said.contains("STATUS=serving, policy generation 1"), "{said}");
    gate.signal("TERM");
    let said = manager.hears("STOPPING=1", &mut gate);
    assert!(said.contains("EXTEND_TIMEOUT_USEC="), "{said}");
    assert!(wait_until("it ends", || gate.ended()).success());
}

#[test]
fn a_socket_that_the_configuration_does_not_name_is_refused() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let config = write_config(lab.dir(), &Policy::of(&["contoso"]));
    let stray = TcpListener::bind("127.0.0.1:4000").unwrap();
    fcntl_setfd(&stray, FdFlags::empty()).unwrap();
    let line = format!(
        "exec 3<&{}; LISTEN_PID=$$ LISTEN_FDS=1 exec {} run --config {}",
        stray.as_raw_fd(),
        env!("CARGO_BIN_EXE_pullgate"),
        config.display(),
    );
    let ran = lab.run(Way::Direct, &["bash", "-c", &line]).failed();
    let message = "hands down 127.0.0.1:4000, which the configuration does not name";
    assert!(ran.text.contains(message), "{}", ran.text);
}
