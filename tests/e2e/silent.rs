//! Sockets that say nothing: they cost the gate a bounded number of descriptors and little memory,
//! and a pull beside them goes on.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use crate::harness::{Blobs, Gate, Lab, Policy, Way, bound_to_this_thread};

/// Opens sockets to the gate from addresses of its own, says so, and holds them until its input ends.
const HOLDER: &str = r#"
import resource, socket, sys
first, count = int(sys.argv[1]), int(sys.argv[2])
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
held = []
for number in range(count):
    source = "127.0.3.%d" % (first + number % 8)
    held.append(socket.create_connection(("127.0.0.1", 3128), source_address=(source, 0)))
print("held", flush=True)
sys.stdin.read()
"#;

/// In all, by two processes, since one may not have so many descriptors.
const SOCKETS: usize = 20_000;

/// What the manual promises for any number of silent sockets, in KiB of resident memory.
const MOST_MEMORY: u64 = 96 * 1024;

#[test]
fn twenty_thousand_silent_sockets_leave_room_for_a_pull() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let image = lab.push("contoso.azurecr.io/app:1", 7, &[4 << 20, 2000]);
    let gate = lab.gate(&Policy::of(&["contoso"]));
    let mut holders = [hold(10, SOCKETS / 2), hold(20, SOCKETS / 2)];
    for holder in &mut holders {
        let mut said = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "held\n");
    }

    let to = lab.dir().join("pulled");
    let line = format!("skopeo copy docker://contoso.azurecr.io/app:1 dir:{}", to.display());
    lab.sh(Way::Through(&gate), &line).succeeded();
    for (digest, _) in &image.layers {
        let name = digest.trim_start_matches("sha256:");
        assert!(to.join(name).exists(), "{name} was not pulled");
    }

    let memory = peak_memory(&gate);
    println!("{memory} KiB at the peak, with {SOCKETS} silent sockets");
    assert!(memory < MOST_MEMORY, "{memory} KiB");
    for mut holder in holders {
        drop(holder.stdin.take());
        assert!(holder.wait().unwrap().success());
    }
}

fn hold(first: usize, count: usize) -> Child {
    let mut command: Command = bound_to_this_thread("python3");
    command.args(["-c", HOLDER, &first.to_string(), &count.to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// The most resident memory that the gate ever had, in KiB.
fn peak_memory(gate: &Gate) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gate.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
