//! One measurement, and what a row of them comes to.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::load::Bench;
use crate::peer::Peer;
use crate::process;

/// What one measurement found.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Sample {
    /// CPU time of the proxy's processes.
    pub cpu: Duration,
    /// CPU time of the whole machine: client, origin, proxy and kernel.
    pub machine: Duration,
    /// CPU time of programs that have no part in it.
    pub others: Duration,
    /// How long it took.
    pub wall: Duration,
    /// How many bytes came through.
    pub bytes: u64,
    /// How many set-ups, denials or tunnels.
    pub count: u64,
    /// How long each took, in nanoseconds.
    pub latencies: Vec<u64>,
    /// Memory of the proxy's processes that the tunnels added, in bytes.
    pub memory: u64,
    /// Memory of the kernel that they added, client's and origin's sockets included, in bytes.
    pub kernel: u64,
}

/// So much of one core in other programs' hands is a disturbance. What the kernel does in interrupts
/// counts among it.
const DISTURBANCE: f64 = 0.3;

impl Sample {
    /// Whether other programs took part of the machine meanwhile.
    pub fn is_disturbed(&self) -> bool {
        self.others.as_secs_f64() > DISTURBANCE * self.wall.as_secs_f64()
    }
}

/// Counts from now on.
pub struct Meter {
    proxy: Vec<u32>,
    /// Client and origin.
    ends: [u32; 2],
    spent: Sample,
    began: Instant,
}

impl Meter {
    pub fn start(bench: &Bench, peer: &Peer) -> Self {
        let (proxy, ends) = (peer.processes(), [std::process::id(), bench.origin.pid()]);
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

/// What has been spent so far.
fn spent(proxy: &[u32], ends: &[u32]) -> Sample {
    let (cpu, machine) = (process::cpu_time(proxy), process::machine_time());
    let others = machine.saturating_sub(cpu + process::cpu_time(ends));
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

    /// CPU seconds of the proxy a GiB.
    pub fn cpu_a_gib(&self) -> Option<f64> {
        self.median(|one| one.cpu.as_secs_f64() * GIB / one.bytes as f64)
    }

    /// CPU seconds of the machine a GiB.
    pub fn machine_a_gib(&self) -> Option<f64> {
        self.median(|one| one.machine.as_secs_f64() * GIB / one.bytes as f64)
    }

    /// GiB a second.
    pub fn throughput(&self) -> Option<f64> {
        self.median(|one| one.bytes as f64 / GIB / one.wall.as_secs_f64())
    }

    /// CPU seconds of the proxy a thousand.
    pub fn cpu_a_thousand(&self) -> Option<f64> {
        self.median(|one| one.cpu.as_secs_f64() * 1000.0 / one.count as f64)
    }

    /// CPU seconds of the machine a thousand.
    pub fn machine_a_thousand(&self) -> Option<f64> {
        self.median(|one| one.machine.as_secs_f64() * 1000.0 / one.count as f64)
    }

    /// How many a second.
    pub fn rate(&self) -> Option<f64> {
        self.median(|one| one.count as f64 / one.wall.as_secs_f64())
    }

    /// The latency that so many parts of a thousand stay within, over all rounds, in milliseconds.
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
