//! Soak test: hours of mixed traffic through real gates, to check that no resource grows: pulls,
//! denials, reloads, SIGHUPs with rotated audits, and replacements.
//! `SOAK_SECONDS=3600 cargo bench --bench soak`.
//!
//! Two gates have the same load. One runs for the whole test and is measured; the other is replaced
//! every two minutes by a new one on the same port. All traffic is on loopback and bounded: two
//! pulls of 8 MiB at a time, twenty denials per second.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a bench fails by panicking, and its figures are for its user"
)]

mod gate;
mod measure;

use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use pullgate::tools::demo::authority::Authority;
use pullgate::tools::demo::folder::{Afterwards, Folder};
use pullgate::tools::demo::image::Image;
use pullgate::tools::demo::progress::PullProgress;
use pullgate::tools::demo::pull::{PullRoute, Puller};
use pullgate::tools::demo::registry::DemoRegistry;
use pullgate::tools::demo::{
    DATA, FOREIGN_LOGIN, IMAGE, LATER_DATA, LATER_LOGIN, LOGIN, STORAGE, TAG, probe,
};
use tokio::time::{MissedTickBehavior, interval, sleep};

use gate::Gate;
use measure::Measured;

const IMAGE_SIZE: u64 = 8 << 20;
const PULLERS: usize = 2;
const BETWEEN_PULLS: Duration = Duration::from_secs(1);
const BETWEEN_DENIALS: Duration = Duration::from_millis(100);
const BETWEEN_RELOADS: Duration = Duration::from_secs(15);
const BETWEEN_ROTATIONS: Duration = Duration::from_secs(60);
const BETWEEN_HAND_OVERS: Duration = Duration::from_secs(120);

/// Counters of the load.
#[derive(Debug, Default)]
struct Counts {
    pulls: AtomicU64,
    denials: AtomicU64,
    reloads: AtomicU64,
    rotations: AtomicU64,
    hand_overs: AtomicU64,
    faults: AtomicU64,
}

impl Counts {
    fn fault(&self, what: &str) {
        self.faults.fetch_add(1, Relaxed);
        println!("FAULT {what}");
    }
}

fn main() -> ExitCode {
    let seconds = std::env::var("SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    let Some(seconds) = seconds else {
        println!("soak: left out; SOAK_SECONDS=3600 cargo bench --bench soak");
        return ExitCode::SUCCESS;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(soak(Duration::from_secs(seconds)))
}

async fn soak(whole: Duration) -> ExitCode {
    let authority = Authority::new(&[LOGIN, DATA, LATER_LOGIN, LATER_DATA, STORAGE]).unwrap();
    let authority = Arc::new(authority);
    let image = Image::generate(1, IMAGE_SIZE).await.unwrap();
    let registry = DemoRegistry::start(&authority, image.clone(), image.clone()).await.unwrap();
    let folders = [(); 2].map(|()| {
        let parent = std::env::temp_dir();
        Arc::new(Folder::write(&parent, &registry, Afterwards::Remove).unwrap())
    });
    let counts = Arc::<Counts>::default();
    let mut steady = Gate::configure(&folders[0], free_port(), free_port());
    steady.start();
    let mut replaced = Gate::configure(&folders[1], free_port(), free_port());
    replaced.start();

    let until = Instant::now() + whole;
    let mut load = tokio::task::JoinSet::new();
    for (gate, folder) in [&steady, &replaced].into_iter().zip(&folders) {
        for _ in 0..PULLERS {
            let (authority, image) = (authority.clone(), image.clone());
            load.spawn(pull(authority, image, gate.proxy, counts.clone(), until));
        }
        load.spawn(ask_in_vain(gate.proxy, counts.clone(), until));
        load.spawn(reload(folder.clone(), counts.clone(), until));
    }
    let begun = Instant::now();
    let mut measured = Measured::default();
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut rotated, mut handed_over) = (begun, begun);
    while Instant::now() < until {
        second.tick().await;
        measured.take(begun.elapsed(), steady.pid(), steady.admin).await;
        if rotated.elapsed() >= BETWEEN_ROTATIONS {
            rotated = Instant::now();
            steady.rotate();
            counts.rotations.fetch_add(1, Relaxed);
        }
        if handed_over.elapsed() >= BETWEEN_HAND_OVERS {
            handed_over = Instant::now();
            replaced.hand_over();
            counts.hand_overs.fetch_add(1, Relaxed);
        }
    }
    while load.join_next().await.is_some() {}
    let lost = probe::page(steady.admin, "/metrics").await.unwrap();
    for line in lost.lines().filter(|line| line.starts_with("pullgate_audit_dropped_total")) {
        println!("{line}");
    }
    if !steady.end() || !replaced.end() {
        counts.fault("a gate did not end well");
    }
    println!("{counts:?}");
    println!("reached what nothing may reach: {}", registry.reached_outside());
    let flat = measured.judge(whole);
    let well = flat && counts.faults.load(Relaxed) == 0 && registry.reached_outside() == 0;
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn pull(
    authority: Arc<Authority>,
    image: Image,
    proxy: SocketAddr,
    counts: Arc<Counts>,
    until: Instant,
) {
    while Instant::now() < until {
        // A new client each time, like a host that pulls occasionally.
        let puller = Puller::new(&authority, PullRoute::Proxy(proxy)).unwrap();
        let progress = PullProgress::of(image.size());
        match puller.pull(&format!("{LOGIN}/{IMAGE}:{TAG}"), &image, &progress).await {
            Ok(_) => drop(counts.pulls.fetch_add(1, Relaxed)),
            Err(error) => counts.fault(&format!("pull: {error}")),
        }
        sleep(BETWEEN_PULLS).await;
    }
}

/// Requests a denied host, and sends bytes that are not TLS into an allowed tunnel.
async fn ask_in_vain(proxy: SocketAddr, counts: Arc<Counts>, until: Instant) {
    let targets = [STORAGE, FOREIGN_LOGIN, "example.com", LOGIN];
    for host in targets.iter().cycle() {
        if Instant::now() >= until {
            return;
        }
        let asked = probe::connect(proxy, &format!("{host}:443")).await;
        match asked {
            Ok((answer, tunnel)) if *host == LOGIN && answer.code == 200 => {
                let said = probe::say(tunnel, b"GET / HTTP/1.1\r\n\r\n").await;
                if !said.is_ok_and(|back| back.first() == Some(&21)) {
                    counts.fault("plain bytes: no alert");
                }
            }
            Ok((answer, _)) if *host != LOGIN && answer.code == 403 => {}
            Ok((answer, _)) => counts.fault(&format!("{host}: {} {}", answer.code, answer.phrase)),
            Err(error) => counts.fault(&format!("{host}: {error}")),
        }
        counts.denials.fetch_add(1, Relaxed);
        sleep(BETWEEN_DENIALS).await;
    }
}

async fn reload(folder: Arc<Folder>, counts: Arc<Counts>, until: Instant) {
    while Instant::now() < until {
        sleep(BETWEEN_RELOADS).await;
        folder.add_later_registry().unwrap();
        sleep(BETWEEN_RELOADS).await;
        folder.remove_later_registry().unwrap();
        counts.reloads.fetch_add(2, Relaxed);
    }
}
