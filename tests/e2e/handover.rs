//! Replaces a gate at the same address under load: no connection is rejected, no pull is
//! interrupted.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::harness::{Blobs, Daemon, Handing, Lab, Manager, PATIENCE, Policy, wait_until};
use crate::second_hello::{X25519, hello};

const DATA: &str = "contoso.eastus.data.azurecr.io";

/// New connections per second.
const RATE: u32 = 1000;

/// New connections between two steps.
const MORE: u32 = if cfg!(debug_assertions) { 250 } else { RATE };

/// Number of clients that open them.
const CLIENTS: u32 = 24;

const LAYER: u64 = 1 << 30;

#[test]
fn sockets_that_the_manager_holds_go_to_the_next_gate() {
    three_hand_overs(Handing::Sockets);
}

#[test]
fn a_shared_port_goes_to_the_next_gate() {
    three_hand_overs(Handing::Ports);
}

#[test]
fn a_gate_goes_on_while_the_manager_starts_another() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let manager = Manager::new(lab.dir(), Policy::of(&["contoso"]), Handing::Sockets);
    let mut gate = manager.start("gate");
    manager.let_sockets_block();
    // The first signal wakes the gate; it then checks for a second one.
    for number in 1..=3 {
        tunnel().unwrap_or_else(|error| panic!("connection {number}: {error}"));
    }
    gate.signal("TERM");
    assert!(wait_until("it ends", || gate.ended()).success());
}

fn three_hand_overs(handing: Handing) {
    let lab = Lab::new(Blobs::DataEndpoint);
    File::create(lab.served("contoso").join("layer")).unwrap().set_len(LAYER).unwrap();
    let limits = "\n[limits]\nopen-sessions-per-client = 10000\n";
    let manager = Manager::new(lab.dir(), Policy::of(&["contoso"]).with_more(limits), handing);
    let mut gates = vec![manager.start("gate-0")];

    let to = lab.dir().join("pulled");
    let pulled = || fs::metadata(&to).map_or(0, |file| file.len());
    let url = format!("https://{DATA}/layer");
    let line =
        ["curl", "-sS", "--proxy", "http://127.0.0.1:3128", "-o", to.to_str().unwrap(), &url];
    let mut pull = lab.daemon("curl", &line);
    let streams_on = |pull: &mut Daemon, mebibytes: u64| {
        let before = pulled();
        pull.signal("CONT");
        wait_until("the layer streams", || (pulled() > before + (mebibytes << 20)).then_some(()));
        // The pull pauses between two replacements, so that it spans all of them on any machine.
        pull.signal("STOP");
        assert!(pulled() < LAYER);
    };
    streams_on(&mut pull, 1);

    let load = Load::start();
    for number in 1..=3 {
        // Each gate serves alone before it is replaced, and then together with the next one.
        load.goes_on();
        gates.push(manager.start(&format!("gate-{number}")));
        load.goes_on();
        gates[number - 1].signal("TERM");
        streams_on(&mut pull, 50);
    }
    load.goes_on();
    let (opened, took, faults) = load.end();
    let rate = f64::from(opened) / took.as_secs_f64();
    let not_served = faults.len();
    println!("{handing:?}: {opened} connections, {rate:.0} a second, {not_served} not served");
    assert!(faults.is_empty(), "{handing:?}: of {opened}: {faults:?}");

    assert!(gates[0].ended().is_none(), "the first gate stays for the pull");
    pull.signal("CONT");
    let status = wait_until("the pull ends", || pull.ended());
    assert!(status.success(), "{status}: {}", pull.log());
    assert_eq!(pulled(), LAYER);
    for gate in &mut gates[..3] {
        let status = wait_until("the replaced gate ends", || gate.ended());
        assert!(status.success(), "{status}: {}", gate.log());
    }
    let audit = manager.audit();
    assert!(!audit.contains("draining"), "a client was rejected with draining");
    assert!(audit.contains(&format!("\"target\":\"{DATA}:443\"")));
}

/// Clients that open tunnels at a steady rate, each up to the server's first record.
struct Load {
    begun: Instant,
    opened: Arc<AtomicU32>,
    over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn start() -> Self {
        let (opened, over) = (Arc::<AtomicU32>::default(), Arc::<AtomicBool>::default());
        let begun = Instant::now();
        let client = |_| {
            let (opened, over) = (opened.clone(), over.clone());
            thread::spawn(move || {
                let mut faults = Vec::new();
                while !over.load(Ordering::SeqCst) {
                    let number = opened.fetch_add(1, Ordering::SeqCst);
                    let due = Duration::from_secs(1) / RATE * number;
                    thread::sleep(due.saturating_sub(begun.elapsed()));
                    if let Err(error) = tunnel() {
                        faults.push(format!("{number}: {error}"));
                    }
                }
                faults
            })
        };
        let clients = (0..CLIENTS).map(client).collect();
        Self { begun, opened, over, clients }
    }

    /// Waits until some more connections have been opened.
    fn goes_on(&self) {
        let enough = self.opened.load(Ordering::SeqCst) + MORE;
        wait_until("more connections are opened", || {
            (self.opened.load(Ordering::SeqCst) >= enough).then_some(())
        });
    }

    /// Returns the number of connections, the elapsed time, and the errors.
    fn end(self) -> (u32, Duration, Vec<String>) {
        self.over.store(true, Ordering::SeqCst);
        let ended = self.clients.into_iter().flat_map(|client| client.join().unwrap());
        let faults = ended.collect();
        (self.opened.load(Ordering::SeqCst), self.begun.elapsed(), faults)
    }
}

fn tunnel() -> io::Result<()> {
    let during = |what: &'static str| {
        move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"))
    };
    let mut stream = TcpStream::connect("127.0.0.1:3128").map_err(during("connect"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "CONNECT {DATA}:443 HTTP/1.1\r\nHost: {DATA}:443\r\n\r\n")
        .map_err(during("CONNECT"))?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).map_err(during("its answer"))?;
        head.push(byte[0]);
    }
    if !head.starts_with(b"HTTP/1.1 200 ") {
        return Err(io::Error::other(String::from_utf8_lossy(&head).into_owned()));
    }
    stream.write_all(&hello(DATA, X25519)).map_err(during("hello"))?;
    let mut record = [0; 5];
    stream.read_exact(&mut record).map_err(during("the server's hello"))?;
    if record[0] == 22 { Ok(()) } else { Err(io::Error::other(format!("{record:?}"))) }
}
