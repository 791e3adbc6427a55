//! A gate with 10 to 100,000 registries: the time to load and reload them, and the effect on
//! tunnels. Exchanges in one tunnel and new tunnels are measured in three situations: without other
//! work, during continuous reloads, and, for comparison, beside an unrelated busy thread. Then the gate
//! is left alone, and what is measured is its examination of the files every 30 seconds.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a bench fails by panicking, and prints what it found"
)]

#[path = "common/flights.rs"]
mod flights;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use flights::flights;
use pullgate::app::{self, Inherited, Prepared};
use rustix::time::{ClockId, clock_gettime};

const NAME: &str = "contoso.azurecr.io";

/// Numbers of registries besides the one that is used.
const SIZES: [usize; 3] = [10, 1_000, 100_000];

/// Duration of each measurement.
const WATCHED: Duration = Duration::from_secs(4);

/// How long the gate is left alone: the files are examined twice.
const ALONE: Duration = Duration::from_secs(65);

/// How often the CPU time is looked at meanwhile.
const STEP: Duration = Duration::from_millis(50);

/// Size of an exchange in a tunnel, in bytes.
const MESSAGE: usize = 256;

fn main() {
    let origin = Origin::start();
    for size in SIZES {
        let folder = tempfile::tempdir().unwrap();
        let gate = Gate::new(folder.path(), size, &origin);
        println!("{size} registries: loaded in {:.3} s", gate.loaded.as_secs_f64());
        gate.watched(&origin, "nothing else", |_| {});
        let mut reloads = Vec::new();
        gate.watched(&origin, "reloads", |over| {
            while !over.load(Relaxed) {
                reloads.push(gate.reload());
            }
        });
        reloads.sort_unstable();
        let median = reloads[reloads.len() / 2].as_secs_f64();
        println!("  {} reloads, {median:.3} s each", reloads.len());
        gate.watched(&origin, "a thread that computes", |over| {
            let mut sum = 0_u64;
            while !over.load(Relaxed) {
                sum = std::hint::black_box(sum.wrapping_add(1));
            }
        });
        gate.reload();
        println!("  {}", examinations());
    }
}

/// Measures the CPU time of two examinations of the files, and how long the longer one takes.
fn examinations() -> String {
    let end = Instant::now() + ALONE;
    let (began, mut last) = (cpu(), cpu());
    let (mut longest, mut busy) = (Duration::ZERO, Duration::ZERO);
    while Instant::now() < end {
        std::thread::sleep(STEP);
        let now = cpu();
        // More than a few timers of an idle gate.
        let is_busy = now - last > STEP / 50;
        busy = if is_busy { busy + STEP } else { Duration::ZERO };
        (longest, last) = (longest.max(busy), now);
    }
    let each = (last - began).as_secs_f64() / 2.0;
    format!("{each:.4} CPU-s every 30 s for the files, busy for {:.2} s", longest.as_secs_f64())
}

/// Returns the CPU time of this process.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// Answers hellos, then echoes all bytes.
struct Origin {
    address: SocketAddr,
    hello: Vec<u8>,
    answer: Arc<[u8]>,
}

impl Origin {
    fn start() -> Self {
        let (hello, answer) = flights(NAME, 0);
        let answer: Arc<[u8]> = answer.into();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (address, length) = (listener.local_addr().unwrap(), hello.len());
        let answers = answer.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, answer) = (stream.unwrap(), answers.clone());
                std::thread::spawn(move || -> std::io::Result<()> {
                    stream.set_nodelay(true)?;
                    stream.read_exact(&mut vec![0; length])?;
                    stream.write_all(&answer)?;
                    let mut message = [0; MESSAGE];
                    loop {
                        stream.read_exact(&mut message)?;
                        stream.write_all(&message)?;
                    }
                });
            }
        });
        Self { address, hello, answer }
    }
}

/// A complete gate on its own threads.
struct Gate {
    address: SocketAddr,
    folder: PathBuf,
    loaded: Duration,
    runtime: tokio::runtime::Runtime,
    running: app::Running,
}

impl Gate {
    fn new(folder: &Path, size: usize, origin: &Origin) -> Self {
        let main = format!(
            "[[listen]]\nmode = \"connect\"\naddress = \"127.0.0.1:0\"\n\
             [addresses]\nallow = [\"127.0.0.0/8\"]\n[dns.hosts]\n\"{NAME}\" = [\"{}\"]\n\
             [audit]\npath = \"audit.jsonl\"\n",
            origin.address
        );
        std::fs::write(folder.join("pullgate.toml"), main).unwrap();
        let registries = folder.join("registries.d");
        std::fs::create_dir(&registries).unwrap();
        for number in 0..size {
            let label = format!("registry{number:06}");
            let text = format!(
                "login-server = \"{label}.azurecr.io\"\n\
                 data-endpoints = [\"{label}.eastus.data.azurecr.io\"]\n"
            );
            std::fs::write(registries.join(format!("{label}.toml")), text).unwrap();
        }
        let own = format!("login-server = \"{NAME}\"\n");
        std::fs::write(registries.join("contoso.toml"), own).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let began = Instant::now();
        let prepared = Prepared::read(&folder.join("pullgate.toml"));
        let prepared = prepared.unwrap_or_else(|faults| panic!("{faults}"));
        let running = runtime.block_on(app::start(prepared, Inherited::default())).unwrap();
        let (address, loaded) = (running.listeners()[0].address, began.elapsed());
        let gate = Self { address, folder: folder.to_owned(), loaded, runtime, running };
        // The gate checks once more whether something has changed.
        gate.reload();
        gate
    }

    /// Changes a file and triggers a reload.
    fn reload(&self) -> Duration {
        let path = self.folder.join("registries.d/contoso.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text + "# again\n").unwrap();
        let began = Instant::now();
        self.runtime.block_on(self.running.reload());
        began.elapsed()
    }

    /// Opens a tunnel through the gate.
    fn tunnel(&self, origin: &Origin) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        write!(stream, "CONNECT {NAME}:443 HTTP/1.1\r\nhost: {NAME}:443\r\n\r\n").unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            said.push(byte[0]);
        }
        assert!(said.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&said));
        stream.write_all(&origin.hello).unwrap();
        stream.read_exact(&mut vec![0; origin.answer.len()]).unwrap();
        stream
    }

    /// Measures exchanges and set-ups alternately while `work` runs.
    fn watched(&self, origin: &Origin, beside: &str, work: impl FnOnce(&AtomicBool)) {
        let over = AtomicBool::new(false);
        let (exchanges, set_ups) = std::thread::scope(|scope| {
            let measuring = scope.spawn(|| {
                let (mut exchanges, mut set_ups) = (Vec::new(), Vec::new());
                let mut held = self.tunnel(origin);
                let end = Instant::now() + WATCHED;
                while Instant::now() < end {
                    for _ in 0..20 {
                        exchanges.push(timed(|| exchange(&mut held)));
                    }
                    set_ups.push(timed(|| drop(self.tunnel(origin))));
                }
                over.store(true, Relaxed);
                (exchanges, set_ups)
            });
            work(&over);
            measuring.join().unwrap()
        });
        println!("  beside {beside}: {}", summary("exchange", exchanges));
        println!("  beside {beside}: {}", summary("set-up", set_ups));
    }
}

fn exchange(stream: &mut TcpStream) {
    let mut message = [7; MESSAGE];
    stream.write_all(&message).unwrap();
    stream.read_exact(&mut message).unwrap();
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

fn summary(what: &str, mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let within =
        |thousandths: usize| times[(times.len() - 1) * thousandths / 1000].as_secs_f64() * 1e3;
    format!(
        "{} of {what}, p50 {:.3} ms, p99 {:.3} ms, p99.9 {:.3} ms, longest {:.3} ms",
        times.len(),
        within(500),
        within(990),
        within(999),
        within(1000)
    )
}
