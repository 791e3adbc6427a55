//! A gate on each node of a cluster, as `deploy/kubernetes/node-local` runs it: the order of events at
//! the first boot and in an upgrade, with the node's containerd as the client.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::thread;

use tokio_util::sync::CancellationToken;

use crate::harness::{
    Blobs, Handing, Lab, Manager, PATIENCE, PROXY, Policy, Ran, Way, containerd, wait_until,
};

/// Pulls an image as the node's runtime does, through the gate on the node.
fn pull(lab: &Lab, ctr: &str, number: u64) -> Ran {
    let image = format!("contoso.azurecr.io/app:{number}");
    let line = format!(
        "env HTTPS_PROXY=http://127.0.0.1:3128 {ctr} images pull --snapshotter native {image}"
    );
    lab.sh(Way::Direct, &line)
}

/// Issue 22, point 8: the old pod ended before the next one existed, and the kubelet then pulled the
/// gate's image through the gate.
#[test]
fn a_node_can_pull_from_its_first_boot_through_an_upgrade() {
    let lab = Lab::new(Blobs::DataEndpoint);
    for number in 0..6 {
        lab.push(&format!("contoso.azurecr.io/app:{number}"), number, &[200_000]);
    }
    let (_containerd, ctr) = containerd(&lab);

    // First boot. There is no gate, so that nothing can be pulled, and the gate's own image comes
    // from a file.
    pull(&lab, &ctr, 0).failed();
    let file = lab.dir().join("gate.oci.tar");
    let copy = "skopeo copy docker://contoso.azurecr.io/app:0";
    lab.sh(Way::Direct, &format!("{copy} oci-archive:{}:app:0", file.display())).succeeded();
    lab.sh(Way::Direct, &format!("{ctr} images import {}", file.display())).succeeded();
    let manager = Manager::new(lab.dir(), Policy::of(&["contoso"]), Handing::Ports);
    let mut running = manager.start("gate-0");
    pull(&lab, &ctr, 1).succeeded();

    // An upgrade: the next image is pulled through the running gate, both serve, one ends. At no
    // moment is there no gate: a client knocks all the time.
    let over = CancellationToken::new();
    let _next = thread::scope(|scope| {
        let _over = over.clone().drop_guard();
        let knocking = scope.spawn(|| knock(&over));
        pull(&lab, &ctr, 2).succeeded();
        let next = manager.start("gate-1");
        pull(&lab, &ctr, 3).succeeded();
        running.signal("TERM");
        pull(&lab, &ctr, 4).succeeded();
        assert!(wait_until("the old gate ends", || running.ended()).success());
        pull(&lab, &ctr, 5).succeeded();
        over.cancel();
        assert!(knocking.join().unwrap() > 10);
        next
    });
    assert!(!manager.audit().contains("draining"), "a pull was refused");
}

/// Opens one tunnel after the other until it is over. Returns their number.
fn knock(over: &CancellationToken) -> usize {
    let mut tunnels = 0;
    while !over.is_cancelled() {
        let mut gate = TcpStream::connect(PROXY).expect("there is no gate");
        gate.set_read_timeout(Some(PATIENCE)).unwrap();
        let host = "contoso.azurecr.io:443";
        write!(gate, "CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
        let mut answer = [0; 12];
        gate.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        tunnels += 1;
    }
    tunnels
}

/// What the test above relies on.
#[test]
fn the_manifest_starts_the_next_gate_before_it_ends_the_old_one() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes/node-local");
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let daemon_set = read("daemonset.yaml");
    for line in
        ["maxSurge: 1", "maxUnavailable: 0", "hostNetwork: true", "imagePullPolicy: IfNotPresent"]
    {
        assert!(daemon_set.contains(line), "{line}");
    }
    // A declared port would keep a second pod from the node.
    assert!(!daemon_set.contains("ports:"));
    assert!(read("pullgate.toml").contains("reuse-port = true"));
}
