//! One measurement, and the summary of the measurements of a row.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::bench::Bench;
use crate::peer::Peer;
use crate::process::{self, Role};
use crate::web::Web;

/// The result of one measurement.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Sample {
    /// CPU time of the proxy's processes.
    pub cpu: Duration,
    /// CPU time of the whole machine: client, origin, proxy and kernel.
    pub machine: Duration,
    /// CPU time of unrelated programs.
    pub others: Duration,
    /// Duration of the measurement.
    pub wall: Duration,
    /// Number of relayed bytes.
    pub bytes: u64,
    /// Number of set-ups, denials or tunnels.
    pub count: u64,
    /// The latency of each, in nanoseconds.
    pub latencies: Vec<u64>,
    /// Memory of the proxy's processes added by the tunnels, in bytes.
    pub memory: u64,
    /// Kernel memory added by the tunnels, including the sockets of client and origin, in bytes.
    pub kernel: u64,
}

/// The share of one core used by other programs that counts as a disturbance. Kernel interrupts
/// count as other programs.
const DISTURBANCE: f64 = 0.3;

impl Sample {
    /// Whether other programs used part of the machine during the measurement.
    pub fn is_disturbed(&self) -> bool {
        self.others.as_secs_f64() > DISTURBANCE * self.wall.as_secs_f64()
    }
}

/// Starts counting.
pub struct Meter {
    proxy: Vec<u32>,
    /// The processes of client, origin, link and web server.
    ends: Vec<u32>,
    spent: Sample,
    began: Instant,
}

impl Meter {
    pub fn start(bench: &Bench, peer: &Peer) -> Self {
        let link = bench.link.as_ref().map(Role::pid);
        let mut ends: Vec<u32> =
            [std::process::id(), bench.origin.pid()].into_iter().chain(link).collect();
        ends.extend(bench.web.iter().flat_map(Web::processes));
        let proxy = peer.processes();
        Self { spent: spent(&proxy, &ends), proxy, ends, began: Instant::now() }
    }

    pub fn stop(self) -> Sample {
        let now = spent(&self.proxy, &self.ends);
        Sample {
            cpu: now.cpu.saturating_sub(self.spent.cpu),
            machine: now.machine.saturating_sub(self.spent.machine),
            others: now.others.saturating_sub(self.spent.others),
            wall: self.began.elapsed(),
            ..Sample::default()
        }
    }
}

/// Returns the CPU time used so far.
fn spent(proxy: &[u32], ends: &[u32]) -> Sample {
    let (cpu, machine) = (process::cpu_time(proxy), process::machine_time());
    let own = process::cpu_time(ends) + process::ended_children_time();
    let others = machine.saturating_sub(cpu + own);
    Sample { cpu, machine, others, ..Sample::default() }
}

/// The measurements of one row through one proxy.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    samples: Vec<Sample>,
    /// All latencies, sorted.
    latencies: Vec<u64>,
}

const GIB: f64 = (1_u64 << 30) as f64;

impl Figures {
    pub fn new(samples: Vec<Sample>) -> Self {
        let mut latencies: Vec<u64> =
            samples.iter().flat_map(|sample| sample.latencies.iter().copied()).collect();
        latencies.sort_unstable();
        Self { samples, latencies }
    }

    fn median(&self, of: impl Fn(&Sample) -> f64) -> Option<f64> {
        let mut all: Vec<f64> = self.samples.iter().map(of).filter(|one| one.is_finite()).collect();
        all.sort_by(f64::total_cmp);
        let middle = all.len() / 2;
        match (all.len() % 2, all.get(middle), all.get(middle.wrapping_sub(1))) {
            (1, Some(one), _) => Some(*one),
            (0, Some(high), Some(low)) => Some(f64::midpoint(*low, *high)),
            _ => None,
        }
    }

    /// CPU seconds of the proxy per GiB.
    pub fn cpu_a_gib(&self) -> Option<f64> {
        self.median(|one| one.cpu.as_secs_f64() * GIB / one.bytes as f64)
    }

    /// CPU seconds of the machine per GiB.
    pub fn machine_a_gib(&self) -> Option<f64> {
        self.median(|one| one.machine.as_secs_f64() * GIB / one.bytes as f64)
    }

    /// GiB per second.
    pub fn throughput(&self) -> Option<f64> {
        self.median(|one| one.bytes as f64 / GIB / one.wall.as_secs_f64())
    }

    /// CPU seconds of the proxy per thousand.
    pub fn cpu_a_thousand(&self) -> Option<f64> {
        self.median(|one| one.cpu.as_secs_f64() * 1000.0 / one.count as f64)
    }

    /// CPU seconds of the machine per thousand.
    pub fn machine_a_thousand(&self) -> Option<f64> {
        self.median(|one| one.machine.as_secs_f64() * 1000.0 / one.count as f64)
    }

    /// Number per second.
    pub fn rate(&self) -> Option<f64> {
        self.median(|one| one.count as f64 / one.wall.as_secs_f64())
    }

    /// The given permille of the latencies over all rounds, in milliseconds.
    pub fn within(&self, thousandths: usize) -> Option<f64> {
        let last = self.latencies.len().checked_sub(1)?;
        let index = (last * thousandths).div_ceil(1000);
        self.latencies.get(index).map(|nanoseconds| *nanoseconds as f64 / 1e6)
    }

    /// KiB of the proxy's memory for each tunnel.
    pub fn memory_each(&self) -> Option<f64> {
        self.median(|one| one.memory as f64 / 1024.0 / one.count as f64)
    }

    /// KiB of the kernel's memory for each tunnel.
    pub fn kernel_each(&self) -> Option<f64> {
        self.median(|one| one.kernel as f64 / 1024.0 / one.count as f64)
    }

    /// The share of one core that the proxy used, in thousandths.
    pub fn busy(&self) -> Option<f64> {
        self.median(|one| one.cpu.as_secs_f64() * 1000.0 / one.wall.as_secs_f64())
    }
}
