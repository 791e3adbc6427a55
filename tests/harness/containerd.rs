//! containerd, for `ctr`: ctr itself pulls, but containerd stores the images.

use std::fs;

use super::daemon::Daemon;
use super::lab::{Lab, Way};
use super::wait_until;

/// Starts a containerd for the test. Returns it and the start of a `ctr` command line that uses it.
pub fn containerd(lab: &Lab) -> (Daemon, String) {
    let at = lab.dir().display();
    let socket = format!("{at}/containerd.sock");
    let config = lab.dir().join("containerd.toml");
    let text = format!(
        "version = 2\nroot = \"{at}/containerd\"\nstate = \"{at}/containerd-state\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
         [grpc]\naddress = \"{socket}\"\n[ttrpc]\naddress = \"{socket}.ttrpc\"\n"
    );
    fs::write(&config, text).unwrap();
    let line = ["containerd", "--config", config.to_str().unwrap()];
    let mut daemon = lab.daemon("containerd", &line);
    let ctr = format!("ctr --address {socket} --namespace test");
    wait_until("containerd answers", || {
        daemon.assert_alive();
        lab.sh(Way::Direct, &format!("{ctr} version")).status.success().then_some(())
    });
    (daemon, ctr)
}
