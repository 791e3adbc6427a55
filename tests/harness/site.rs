//! The network of a gateway: three network namespaces, joined by two virtual cables.
//!
//! ```text
//! client  10.7.0.2 ─── 10.7.0.1  gateway  198.51.100.1 ─── outside, where the test's thread is:
//!         fd07::2      fd07::1            2001:db8::1      the registries, resolvers, an attacker
//! ```
//!
//! The gateway routes: until rules are loaded, the client can reach every external host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::daemon::find;

/// The gate's user if it runs in its own namespace: not root, as on a real gateway.
pub const GATE_USER: &str = "990";

pub const ROOT: &str = "0";

/// No capabilities.
pub const NO_CAPABILITIES: &str = "-all";

/// The client's side of the gateway, where its listeners are.
pub const INSIDE: [&str; 2] = ["10.7.0.1", "fd07::1"];

/// The external resolver.
pub const RESOLVER: [&str; 2] = ["198.51.100.53", "2001:db8::53"];

/// The addresses of cloud metadata services.
pub const METADATA: [&str; 3] = ["169.254.169.254", "168.63.129.16", "fd00:ec2::254"];

/// External addresses besides the registries': an attacker, a resolver, and cloud services.
const OUTSIDE: [&str; 9] = [
    "198.51.100.254/24",
    "2001:db8::254/64",
    "198.51.100.66/24",
    "2001:db8::66/64",
    "198.51.100.53/24",
    "2001:db8::53/64",
    "169.254.169.254/32",
    "168.63.129.16/32",
    "fd00:ec2::254/128",
];

/// A network namespace other than the thread's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The client's namespace, whose only route is through the gateway.
    Client,
    /// The namespace that the gate runs in.
    Gateway,
}

impl Place {
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Gateway => "gateway",
        }
    }

    fn path(self) -> PathBuf {
        Path::new("/run/netns").join(self.name())
    }

    /// Creates a command in the namespace, as a user with capabilities. The kernel kills it when
    /// the thread that started it ends.
    pub fn command(self, user: &str, capabilities: &str, program: &Path) -> Command {
        let mut command = Command::new(find("ip"));
        command.args(["netns", "exec", self.name()]).arg(find("setpriv"));
        command.args(["--pdeathsig", "KILL"]);
        if user != ROOT {
            command.args(["--reuid", user, "--regid", user, "--clear-groups"]);
            command.args(["--inh-caps", capabilities, "--ambient-caps", capabilities]);
        }
        command.arg("--").arg(program);
        command
    }

    /// Runs a closure in the namespace, in a separate thread. Sockets that it returns stay there.
    pub fn inside<T: Send>(self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                let namespace = fs::File::open(self.path()).unwrap();
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            entered.join().unwrap()
        })
    }

    /// Runs a command in the namespace; it must succeed.
    #[track_caller]
    pub fn run(self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut command = self.command(ROOT, NO_CAPABILITIES, &find(words[0]));
        succeed(command.args(&words[1..]));
    }
}

/// Creates the namespaces, cables, addresses and routes. The thread must be in its own namespaces.
pub fn build(dir: &Path, registries: &[String]) {
    for place in [Place::Client, Place::Gateway] {
        ip(&format!("netns add {}", place.name()));
        ip(&format!("-n {} link set lo up", place.name()));
        // `ip netns exec` mounts these over the files in /etc.
        let etc = Path::new("/etc/netns").join(place.name());
        fs::create_dir_all(&etc).unwrap();
        fs::write(etc.join("hosts"), "127.0.0.1 localhost\n").unwrap();
        fs::write(etc.join("resolv.conf"), "").unwrap();
    }
    ip("link add inside netns gateway type veth peer name eth0 netns client");
    ip("link add outside netns gateway type veth peer name cable");
    for (place, device, addresses) in [
        ("-n client", "eth0", ["10.7.0.2/24", "fd07::2/64"]),
        ("-n gateway", "inside", ["10.7.0.1/24", "fd07::1/64"]),
        ("-n gateway", "outside", ["198.51.100.1/24", "2001:db8::1/64"]),
    ] {
        add_addresses(place, device, &addresses.map(ToOwned::to_owned));
    }
    let outside: Vec<String> =
        OUTSIDE.iter().map(ToString::to_string).chain(registries.iter().cloned()).collect();
    add_addresses("", "cable", &outside);
    for route in [
        "-n client route add default via 10.7.0.1",
        "-n client -6 route add default via fd07::1",
        "-n gateway route add default via 198.51.100.254",
        "-n gateway -6 route add default via 2001:db8::254",
        "route add 10.7.0.0/24 via 198.51.100.1",
        "-6 route add fd07::/64 via 2001:db8::1",
    ] {
        ip(route);
    }
    Place::Gateway.inside(|| {
        for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            fs::write(Path::new("/proc/sys/net").join(switch), "1").unwrap();
        }
    });
    // The gate's user must be able to read its files here.
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
}

fn add_addresses(place: &str, device: &str, addresses: &[String]) {
    for address in addresses {
        // No duplicate address detection: there are no other hosts.
        let at_once = if address.contains(':') { "nodad" } else { "" };
        ip(&format!("{place} address add {address} dev {device} {at_once}"));
    }
    ip(&format!("{place} link set {device} up"));
}

#[track_caller]
fn ip(line: &str) {
    succeed(Command::new(find("ip")).args(line.split_whitespace()));
}

#[track_caller]
fn succeed(command: &mut Command) {
    let ran = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{command:?}: {}\n{text}", ran.status);
}
