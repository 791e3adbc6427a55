//! A run: starts the proxies, measures every row in interleaved rounds, and stores the results.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::ValueEnum as _;

use crate::bench::Bench;
use crate::found::Found;
use crate::link;
use crate::load::{self, curl};
use crate::options::Options;
use crate::peer::{self, Kind, Peer, Started};
use crate::process::{self, Role};
use crate::registry::Registry;
use crate::row::Row;
use crate::sample::Sample;
use crate::web::Web;
use crate::wire::{DATA, Framing, Hello, LOGIN};

/// How often a disturbed measurement is repeated; and the limit for a whole run.
const TRIES: usize = 2;
const MOST_AGAIN: usize = 40;

/// Timeout for other programs to finish.
const PAUSE: Duration = Duration::from_millis(500);

/// Measures all selected rows.
///
/// Results are stored in a file after each row.
// long: what is measured with is started once, in one order, before the rows.
pub fn run(options: &Options, kept: &Path) -> anyhow::Result<Found> {
    let began = Instant::now();
    let rows = options.rows()?;
    let descriptors = process::raise_descriptors();
    let kinds_of = |is_web: bool| -> Vec<Kind> {
        let is_needed = |kind: &Kind| {
            let mut rows = rows.iter().filter(|row| row.needs_web() == is_web);
            options.through(*kind) && rows.any(|row| row.through.has(*kind))
        };
        Kind::value_variants().iter().copied().filter(is_needed).collect()
    };
    let kinds = kinds_of(false);
    let folder = tempfile::tempdir()?;
    open_to_all(folder.path())?;
    let (mut origin, link, host) = ends(kinds.len(), options.wan)?;
    let certificate = bytes_of(&origin.says()?).context("the origin says no certificate")?;
    let ports = kinds.iter().map(|_| Ok(origin.says()?.parse::<u16>()?));
    let ports = ports.collect::<anyhow::Result<Vec<_>>>()?;
    let mut bench = Bench {
        certificate,
        registry: Registry::new(),
        pull: Hello::new(DATA, Framing::Tls13)?,
        push: Hello::new(LOGIN, Framing::Tls13)?,
        push_tls12: Hello::new(LOGIN, Framing::Tls12)?,
        denied: AtomicU64::new(0),
        origin,
        link,
        web: None,
    };
    let mut found = Found { machine: machine(), ..Found::default() };
    let starter = Starter { options, folder: folder.path(), descriptors };
    let mut peers = Vec::new();
    for (kind, port) in kinds.into_iter().zip(ports) {
        let origin = (SocketAddr::from((host, port)), bench.certificate.clone());
        if let Some(peer) = starter.start(kind, &origin, &mut found)? {
            load::works(&mut bench, &peer).context(kind.code())?;
            peers.push(peer);
        }
    }
    let mut web_peers = Vec::new();
    if rows.iter().any(|row| row.needs_web()) {
        bench.web = Web::start(folder.path(), bench.origin.pid(), host)?;
        if bench.web.is_none() {
            eprintln!("the rows with HTTP are left out: nginx or curl is not installed");
            found.absent.push("the web server and its client (nginx, curl)".to_owned());
        }
    }
    if let Some(web) = &bench.web {
        let origin = (web.address, web.certificate.clone());
        let starter = Starter { folder: &folder.path().join("web"), ..starter };
        for kind in kinds_of(true) {
            if let Some(peer) = starter.start(kind, &origin, &mut found)? {
                curl::works(&bench, &peer).context(kind.code())?;
                web_peers.push(peer);
            }
        }
    }
    let mut again = MOST_AGAIN;
    for row in rows {
        let all = if row.needs_web() { &web_peers } else { &peers };
        let through: Vec<&Peer> = all.iter().filter(|peer| row.through.has(peer.kind)).collect();
        // Measurements that leave memory allocated run only once.
        let rounds = options.rounds.filter(|_| row.rounds > 1).unwrap_or(row.rounds);
        eprintln!("{:>4} s  {} ({rounds} rounds)", began.elapsed().as_secs(), row.code);
        for round in 0..rounds {
            // Each round begins with a different proxy, so that the order varies.
            for index in 0..through.len() {
                let peer = through[(index + round) % through.len()];
                let measured = undisturbed(row, &mut bench, peer, descriptors, &mut again);
                let sample =
                    measured.with_context(|| format!("{} {}", row.code, peer.kind.code()))?;
                let of_row = found.samples.entry(row.code.to_owned()).or_default();
                of_row.entry(peer.kind).or_default().push(sample);
            }
        }
        found.seconds = began.elapsed().as_secs();
        fs::write(kept, serde_json::to_string(&found)?)?;
    }
    Ok(found)
}

/// How proxies are started.
#[derive(Clone, Copy)]
struct Starter<'a> {
    options: &'a Options,
    folder: &'a Path,
    descriptors: u64,
}

impl Starter<'_> {
    /// Starts a proxy before an origin with this certificate, unless it is not installed.
    fn start(
        &self,
        kind: Kind,
        (origin, certificate): &(SocketAddr, Vec<u8>),
        found: &mut Found,
    ) -> anyhow::Result<Option<Peer>> {
        let (folder, other) = (self.folder, self.options.beside.as_deref());
        let started = peer::start(kind, folder, (*origin, certificate), self.descriptors, other);
        match started.context(kind.code())? {
            Started::Peer(peer) => {
                found.versions.insert(kind, peer.version.clone());
                Ok(Some(*peer))
            }
            Started::Absent(package) => {
                eprintln!("{} is left out: the package {package} is not installed", kind.title());
                found.absent.push(format!("{} ({package})", kind.title()));
                Ok(None)
            }
        }
    }
}

/// Starts the origin, and the link before it. Returns the origin's address.
fn ends(ports: usize, wan: bool) -> anyhow::Result<(Role, Option<Role>, Ipv4Addr)> {
    let ports = ports.to_string();
    if !wan {
        if let Err(error) = link::enter() {
            eprintln!("measured with the congestion control of this machine: {error:#}");
        }
        return Ok((Role::start(&["origin", &ports])?, None, Ipv4Addr::LOCALHOST));
    }
    link::enter()?;
    let origin = Role::start(&["origin", &ports, "far"])?;
    let own = std::process::id().to_string();
    let mut link = Role::start(&["link", &own, &origin.pid().to_string()])?;
    anyhow::ensure!(link.says()? == "ready", "the link does not start");
    Ok((origin, Some(link), link::FAR))
}

/// Measures once, and again if other programs used part of the machine. Returns the least disturbed
/// measurement.
fn undisturbed(
    row: &Row,
    bench: &mut Bench,
    peer: &Peer,
    descriptors: u64,
    again: &mut usize,
) -> anyhow::Result<Sample> {
    let mut best = row.measure(bench, peer, descriptors)?;
    for _ in 0..TRIES {
        // Measurements that leave memory allocated cannot be repeated.
        if !best.is_disturbed() || row.rounds == 1 || *again == 0 {
            break;
        }
        *again -= 1;
        std::thread::sleep(PAUSE);
        let next = row.measure(bench, peer, descriptors)?;
        if next.others < best.others {
            best = next;
        }
    }
    Ok(best)
}

/// Some proxies switch to another user, who needs access to their folders.
fn open_to_all(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    (!hex.is_empty()).then(|| hex.as_bytes().chunks(2).map(pair).collect())?
}

/// Returns a description of the machine.
fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split_once(": ")).map_or("", |(_, model)| model);
    let threads = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = kernel.split('-').next().unwrap_or_default().trim();
    let control = fs::read_to_string(process::CONGESTION_CONTROL).unwrap_or_default();
    format!("{threads} cores of {model}, Linux {kernel}, congestion control {}", control.trim())
}
