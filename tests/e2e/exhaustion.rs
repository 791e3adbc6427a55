//! Resource exhaustion: silent sockets and endless hellos use a bounded number of descriptors and
//! bounded memory, and a concurrent pull succeeds.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::harness::{
    ADMIN, Blobs, Gate, Lab, PROXY, Policy, Way, bound_to_this_thread, wait_until,
};
use crate::second_hello::{SECP521R1, hello};

/// Opens sockets to the gate from its own addresses, reports that, and holds them until the end of
/// its input: silent sockets, tunnels without a hello, tunnels with an incomplete hello (the first or,
/// after a HelloRetryRequest, the second), or (of one address) tunnels, or requests to the mirror, that
/// ask for a layer and do not read it.
const HOLDER: &str = r#"
import resource, socket, ssl, sys
kind, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
# The default hello-bytes declared, in small records, and the last byte missing.
message = b"\x01\x00\x3f\xfc" + b"\x03\x03" + bytes(16378)
records = [message[at:at + 6] for at in range(0, 16384, 6)]
hello = b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in records)[:-1]
host = "contoso.eastus.data.azurecr.io" if kind == "lazy" else "contoso.azurecr.io"
connect = ("CONNECT %s:443 HTTP/1.1\r\nHost: %s\r\n\r\n" % (host, host)).encode()
tls = ssl._create_unverified_context()
held, answers = [], []
for number in range(count):
    source = "127.0.3.%d" % (first + (0 if kind in ("lazy", "mirror") else number % 8))
    port = 5080 if kind == "mirror" else 3128
    held.append(socket.create_connection(("127.0.0.1", port), source_address=(source, 0)))
    if kind == "mirror":
        held[-1].sendall(("GET %s HTTP/1.1\r\nHost: g\r\n\r\n" % sys.argv[4]).encode())
        answers.append(held[-1].recv(12).split(b" ")[1].decode())
    elif kind != "silent":
        held[-1].sendall(connect)
        answers.append(held[-1].recv(4096).split(b" ")[1].decode())
        if kind == "second" and answers[-1] == "200":
            held[-1].sendall(bytes.fromhex(sys.argv[4]))
            held[-1].recv(4096)
        if kind in ("hello", "second") and answers[-1] == "200":
            held[-1].sendall(hello)
        if kind == "lazy" and answers[-1] == "200":
            held[-1] = tls.wrap_socket(held[-1], server_hostname=host)
            held[-1].sendall(b"GET /layer HTTP/1.1\r\nHost: %s\r\n\r\n" % host.encode())
print("held", answers.count("200"), answers.count("503"), flush=True)
sys.stdin.read()
"#;

/// From a number of addresses, keeps a number of tunnels with an incomplete first hello open each, until
/// the end of its input: what the gate closes is opened again.
const FLOOD: &str = r#"
import resource, select, socket, sys
first, addresses, each = (int(word) for word in sys.argv[1:4])
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
head = b"CONNECT contoso.azurecr.io:443 HTTP/1.1\r\nHost: contoso.azurecr.io\r\n\r\n"
message = b"\x01\x00\x3f\xfc" + b"\x03\x03" + bytes(16378)
records = [message[at:at + 64] for at in range(0, 16384, 64)]
hello = b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in records)[:-1]
poll, held = select.epoll(), {}
poll.register(sys.stdin, select.EPOLLIN | select.EPOLLHUP)
def begin(source):
    try:
        one = socket.create_connection(("127.0.0.1", 3128), source_address=(source, 0), timeout=20)
        one.sendall(head)
        if b" 200 " not in one.recv(4096):
            return one.close()
        one.sendall(hello)
        held[one.fileno()] = (one, source)
        poll.register(one, select.EPOLLIN)
    except OSError:
        pass
counts = {"127.0.4.%d" % (first + number): 0 for number in range(addresses)}
while True:
    for source in counts:
        if counts[source] < each:
            before = len(held)
            begin(source)
            counts[source] += len(held) - before
    for number, _ in poll.poll(0 if min(counts.values()) < each else 0.1):
        if number == 0:
            sys.exit(0)
        one, source = held.pop(number)
        poll.unregister(number)
        one.close()
        counts[source] -= 1
"#;

/// Total number, in two processes, because one process cannot have enough descriptors.
const SOCKETS: usize = 20_000;

/// The manual's limit for any number of silent sockets, in KiB of resident memory.
const MOST_MEMORY: u64 = 96 * 1024;

/// The manual's limit for each tunnel with an incomplete hello, in KiB.
const MOST_PER_HELLO: u64 = 256;

#[test]
fn twenty_thousand_silent_sockets_leave_room_for_a_pull() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let image = lab.push("contoso.azurecr.io/app:1", 7, &[4 << 20, 2000]);
    let gate = lab.gate(&Policy::of(&["contoso"]));
    let holders = [hold("silent", 10, SOCKETS / 2), hold("silent", 20, SOCKETS / 2)];
    let holders = holders.map(Holder::ready);

    pull(&lab, &gate, "pulled");
    for (digest, _) in &image.layers {
        let name = digest.trim_start_matches("sha256:");
        assert!(lab.dir().join("pulled").join(name).exists(), "{name} was not pulled");
    }

    let memory = peak_memory(&gate);
    println!("{memory} KiB at the peak, with {SOCKETS} silent sockets");
    assert!(memory < MOST_MEMORY, "{memory} KiB");
    drop(holders);
}

#[test]
fn a_thousand_endless_hellos_take_the_memory_that_the_manual_says() {
    let lab = Lab::new(Blobs::DataEndpoint);
    lab.push("contoso.azurecr.io/app:1", 7, &[2000]);
    let gate =
        lab.gate(&Policy::of(&["contoso"]).with_more("[limits]\nhello-timeout-ms = 60000\n"));
    let before = peak_memory(&gate);
    let (holder, (open, refused)) = hold("hello", 10, 1000).ready();
    assert_eq!((open, refused), (1000, 0));
    wait_until("the gate has read what was sent", || {
        let queues = lab.sh(Way::Direct, "ss -Hnt sport = :3128").succeeded();
        queues
            .stdout()
            .lines()
            .all(|line| line.split_whitespace().nth(1) == Some("0"))
            .then_some(())
    });
    pull(&lab, &gate, "pulled");
    let memory = peak_memory(&gate);
    println!("{} KiB an endless hello", (memory - before) / 1000);
    assert!(memory < MOST_MEMORY + 1000 * MOST_PER_HELLO, "{memory} KiB");
    drop(holder);
}

/// Addresses that fill the gate with endless hellos give way to one that does not: an honest client is
/// served every time.
#[test]
fn endless_hellos_of_many_addresses_give_way() {
    let lab = Lab::new(Blobs::DataEndpoint);
    lab.push("contoso.azurecr.io/app:1", 7, &[2000]);
    let limits = "[limits]\nhello-timeout-ms = 60000\nopen-sessions = 96\n";
    let gate = lab.gate(&Policy::of(&["contoso"]).with_more(limits));
    let (held, (open, refused)) = hold("hello", 10, 200).ready();
    assert_eq!((open, refused), (96, 104), "no address has more than the others");
    for round in 0..10 {
        pull(&lab, &gate, &format!("pulled-{round}"));
    }
    drop(held);
}

/// The most kernel memory that a tunnel holds whose client never read, in bytes.
const MOST_PER_STALLED: u64 = 3 << 20;

/// Tunnels whose client does not read hold little kernel memory, are counted, and end.
#[test]
fn tunnels_that_do_not_read_hold_little_and_end() {
    const TUNNELS: usize = 40;
    let lab = Lab::new(Blobs::DataEndpoint);
    lab.push("contoso.azurecr.io/app:1", 7, &[4 << 20]);
    let layer = File::create(lab.served("contoso").join("layer")).unwrap();
    layer.set_len(64 << 20).unwrap();
    let limits = "[limits]\nstall-timeout-ms = 10000\n";
    let gate = lab.gate(&Policy::of(&["contoso"]).with_more(limits));
    let (lazy, (open, _)) = hold("lazy", 10, TUNNELS).ready();
    assert_eq!(open, TUNNELS);
    let all_stalled = || gate.metric("pullgate_stalled_tunnels", &[]) == TUNNELS as f64;
    wait_until("all are known to have stalled", || all_stalled().then_some(()));
    // What is under way when a tunnel is confined still arrives.
    let held = wait_until("they hold little", || {
        let held = held_by_gate(&lab);
        // Those that have ended do not count.
        (held < TUNNELS as u64 * MOST_PER_STALLED && all_stalled()).then_some(held)
    });
    println!("{} KiB a stalled tunnel", held / 1024 / TUNNELS as u64);
    pull(&lab, &gate, "beside");
    let data = "contoso.eastus.data.azurecr.io:443";
    gate.audited(&[("target", data), ("reason", "stall-timeout"), ("outcome", "failed")]);
    wait_until("all have ended", || {
        let reason = ["reason=\"stall-timeout\""];
        (gate.metric("pullgate_sessions_total", &reason) == TUNNELS as f64).then_some(())
    });
    assert_eq!(gate.metric("pullgate_stalled_tunnels", &[]), 0.0);
    let held = held_by_gate(&lab);
    assert!(held < 4 * MOST_PER_STALLED, "{held} bytes are still held");
    drop(lazy);
}

/// Returns the kernel memory of the gate's connections, in bytes.
fn held_by_gate(lab: &Lab) -> u64 {
    let ends = "ss -OHtnm sport = :3128 or dport = :443";
    let listed = lab.sh(Way::Direct, ends).succeeded().stdout();
    let sockets = listed.lines().filter_map(|line| line.split_once("skmem:(")?.1.split_once(')'));
    let held = |(values, _): (&str, &str)| -> u64 {
        // Received, reserved, and queued.
        let parts = values.split(',').filter_map(|value| {
            let digits = value.strip_prefix(['r', 'f', 'w'])?;
            digits.parse::<u64>().ok()
        });
        parts.sum()
    };
    sockets.map(held).sum()
}

/// The same after a HelloRetryRequest: a tunnel is not one while its second hello is due.
#[test]
fn endless_second_hellos_of_many_addresses_give_way() {
    let lab = Lab::new(Blobs::DataEndpoint);
    lab.push("contoso.azurecr.io/app:1", 7, &[2000]);
    let limits = "[limits]\nhello-timeout-ms = 60000\nopen-sessions = 96\n";
    let gate = lab.gate(&Policy::of(&["contoso"]).with_more(limits));
    let first: String =
        hello("contoso.azurecr.io", SECP521R1).iter().map(|byte| format!("{byte:02x}")).collect();
    let (held, (open, refused)) = hold_with("second", 10, 200, &first).ready();
    assert_eq!((open, refused), (96, 104), "no address has more than the others");
    for round in 0..10 {
        pull(&lab, &gate, &format!("pulled-{round}"));
    }
    drop(held);
}

/// Twelve addresses with 1,000 endless hellos each, opened again and again, beside an honest client.
#[test]
#[ignore = "takes minutes: make flood"]
fn twelve_addresses_with_a_thousand_endless_hellos_each() {
    const MOST_RESIDENT: u64 = 256 << 10;
    const AFTERWARDS: u64 = 64 << 10;
    let lab = Lab::new(Blobs::DataEndpoint);
    lab.push("contoso.azurecr.io/app:1", 7, &[4 << 20, 2000]);
    // Longer than the flood needs to open them all again.
    let limits = "[limits]\nhello-timeout-ms = 60000\n";
    let mut command = bound_to_this_thread("env");
    // As the delivered units, image and manifests set it.
    command.args(["MALLOC_MMAP_THRESHOLD_=16384", env!("CARGO_BIN_EXE_pullgate")]);
    let policy = Policy::of(&["contoso"]).with_more(limits);
    let gate = Gate::start_by(command, lab.dir(), &policy);
    println!("{} KiB at the start", memory(&gate, "VmRSS:"));
    let floods = [flood(10, 6, 1000), flood(20, 6, 1000)];
    let evicted = || gate.metric("pullgate_sessions_total", &["reason=\"session-limit\""]);
    let began = Instant::now();
    while evicted() < 5_000.0 && began.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(evicted() > 1_000.0, "the flood does not fill the gate");
    for round in 0..84 {
        pull(&lab, &gate, &format!("pulled-{round}"));
    }
    let open = gate.metric("pullgate_open_sessions", &[]);
    println!("84 of 84 pulls, {} evicted, {open} open", evicted());
    drop(floods);
    let peak = peak_memory(&gate);
    println!("{peak} KiB at the peak");
    assert!(peak <= MOST_RESIDENT, "{peak} KiB at the peak");
    let ended = Instant::now();
    while memory(&gate, "VmRSS:") >= AFTERWARDS && ended.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(500));
    }
    let after = memory(&gate, "VmRSS:");
    println!("{after} KiB {:.1} s after the flood", ended.elapsed().as_secs_f64());
    assert!(after < AFTERWARDS, "{after} KiB a minute after the flood");
}

/// With 256 descriptors there are 16 slots for silent sockets, 55 sessions and a reserve.
#[test]
fn few_descriptors_are_shared_out_and_never_used_up() {
    let lab = Lab::new(Blobs::DataEndpoint);
    lab.push("contoso.azurecr.io/app:1", 7, &[2000]);
    let limits = "[limits]\nhello-timeout-ms = 60000\n";
    let policy = Policy::of(&["contoso"]).with_more(limits);
    let gate = Gate::start_with_descriptors(256, lab.dir(), &policy);
    let (silent, _) = hold("silent", 10, 300).ready();
    let (tunnels, (open, _)) = hold("tunnel", 20, 40).ready();
    assert_eq!(open, 40);
    pull(&lab, &gate, "beside");
    // From the same addresses: others would evict some of theirs.
    let (more, (open, refused)) = hold("tunnel", 20, 40).ready();
    assert_eq!((open, refused), (15, 25), "55 sessions in all");
    gate.audited(&[("target", "contoso.azurecr.io:443"), ("reason", "session-limit")]);
    drop((silent, tunnels, more));
    pull(&lab, &gate, "after");
    assert!(!gate.log().contains("cannot accept"), "{}", gate.log());
}

/// There are 16 slots: a displaced connection receives the reason.
#[test]
fn displaced_connections_receive_the_reason() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let gate = Gate::start_with_descriptors(256, lab.dir(), &Policy::of(&["contoso"]));
    let connected = (0..60).map(|_| TcpStream::connect("127.0.0.1:3128").unwrap());
    let silent: Vec<_> = connected.collect();
    for (number, mut client) in silent.into_iter().take(60 - 16).enumerate() {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        let is_expected = answer.starts_with("HTTP/1.1 503 ") && answer.contains("session-limit");
        assert!(is_expected, "connection {number} received {answer:?}");
    }
    gate.audited(&[("reason", "session-limit")]);
}

/// There are 16 slots. A client far away needs time for its request; a flood from another address
/// displaces its own connections only.
#[test]
fn a_flood_displaces_only_its_own_connections() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let _gate = Gate::start_with_descriptors(256, lab.dir(), &Policy::of(&["contoso"]));
    let mut far = connected_from("127.0.9.1");
    let flood: Vec<_> = (0..60).map(|_| connected_from("127.0.9.2")).collect();
    for mut client in flood.into_iter().take(60 - 15) {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer:?}");
    }
    let host = "contoso.azurecr.io:443";
    write!(far, "CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    far.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

/// A liveness probe is answered although silent connections occupy the admin listener.
#[test]
fn silent_connections_do_not_blind_the_liveness_probe() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let gate = lab.gate(&Policy::of(&["contoso"]));
    let silent: Vec<_> = (0..200).map(|_| TcpStream::connect(ADMIN).unwrap()).collect();
    let probe = format!("{} health --live --admin {ADMIN}", env!("CARGO_BIN_EXE_pullgate"));
    lab.sh(Way::Direct, &probe).succeeded();
    drop((silent, gate));
}

/// Without free descriptors, the gate waits, logs it once, and continues when some are free.
#[test]
fn accepting_pauses_while_there_is_no_descriptor() {
    let lab = Lab::new(Blobs::DataEndpoint);
    lab.push("contoso.azurecr.io/app:1", 7, &[2000]);
    let gate = lab.gate(&Policy::of(&["contoso"]));
    let limit = |soft: &str| {
        let pid = gate.pid();
        lab.sh(Way::Direct, &format!("prlimit --pid {pid} --nofile={soft}:")).succeeded();
    };
    limit("8");
    let waiting = hold("silent", 10, 20);
    wait_until("the log says so", || gate.log().contains("cannot accept").then_some(()));
    limit("4096");
    let (waiting, _) = waiting.ready();
    pull(&lab, &gate, "after");
    assert_eq!(gate.log().matches("cannot accept").count(), 1, "{}", gate.log());
    drop(waiting);
}

/// The local ports towards one address are used up: that is the gate's shortage, not the registry's
/// or a route's.
#[test]
fn local_ports_used_up_are_named() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let limits = "[limits]\nhello-timeout-ms = 60000\n";
    let gate = lab.gate(&Policy::of(&["contoso"]).with_more(limits));
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "61000 61015").unwrap();
    let (tunnels, (open, refused)) = hold("tunnel", 10, 20).ready();
    // The sockets of the test itself take some of them.
    assert!(open <= 16 && refused == 0, "{open} are open, {refused} refused");
    let line = gate.audited(&[("target", "contoso.azurecr.io:443"), ("reason", "local-ports")]);
    assert_eq!(line["outcome"], "failed", "{line}");
    assert_eq!(
        gate.metric("pullgate_sessions_total", &["reason=\"local-ports\""]),
        (20 - open) as f64
    );
    assert_eq!(gate.log().matches("no local port is left").count(), 1, "{}", gate.log());
    drop(tunnels);
}

/// A connection to the proxy from one of this machine's addresses.
fn connected_from(address: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(address.parse().unwrap(), 0).into()).unwrap();
    let proxy: SocketAddr = PROXY.parse().unwrap();
    socket.connect(&proxy.into()).unwrap();
    socket.into()
}

#[track_caller]
fn pull(lab: &Lab, gate: &Gate, to: &str) {
    let to = lab.dir().join(to);
    let line = format!("skopeo copy docker://contoso.azurecr.io/app:1 dir:{}", to.display());
    lab.sh(Way::Through(gate), &line).succeeded();
}

/// A process that holds sockets until dropped.
pub struct Holder(Child);

pub fn hold(kind: &str, first: usize, count: usize) -> Holder {
    hold_with(kind, first, count, "")
}

/// `more`: the first hello, of holders of second hellos; the path of the layer, at the mirror.
pub fn hold_with(kind: &str, first: usize, count: usize, more: &str) -> Holder {
    Holder(python(HOLDER, &[kind, &first.to_string(), &count.to_string(), more]))
}

/// Floods from 127.0.4.`first` and the addresses behind it.
fn flood(first: usize, addresses: usize, each: usize) -> Holder {
    Holder(python(FLOOD, &[first, addresses, each].map(|number| number.to_string())))
}

fn python(program: &str, arguments: &[impl AsRef<std::ffi::OsStr>]) -> Child {
    let mut command: Command = bound_to_this_thread("python3");
    command.args(["-c", program]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

impl Holder {
    /// Waits until it holds all sockets. Returns the number of accepted and rejected tunnels.
    pub fn ready(mut self) -> (Self, (usize, usize)) {
        let mut said = String::new();
        BufReader::new(self.0.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let counts: Vec<usize> =
            said.split_whitespace().skip(1).map(|count| count.parse().unwrap()).collect();
        let [open, refused] = counts[..] else { panic!("{said:?}") };
        (self, (open, refused))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let ended = self.0.wait();
        assert!(std::thread::panicking() || ended.unwrap().success());
    }
}

/// Returns the gate's peak resident memory, in KiB.
fn peak_memory(gate: &Gate) -> u64 {
    memory(gate, "VmHWM:")
}

/// Returns a field of the gate's memory, in KiB.
fn memory(gate: &Gate, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gate.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
