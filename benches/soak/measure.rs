//! Measures the memory, descriptors and tasks of a process every second, and whether they grow.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use pullgate::tools::demo::probe;

/// The largest permitted growth between the first and the last sixth of the run, as a fraction.
const MOST_GROWTH: f64 = 0.05;

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Duration,
    /// KiB.
    resident: f64,
    descriptors: f64,
    threads: f64,
    /// Besides those of the sessions.
    tasks: f64,
}

#[derive(Debug, Default)]
pub struct Measured {
    samples: Vec<Sample>,
}

impl Measured {
    pub async fn take(&mut self, at: Duration, pid: u32, admin: SocketAddr) {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| -> f64 {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as f64;
        let metrics = probe::page(admin, "/metrics").await.unwrap();
        let metric = |name: &str| -> f64 {
            let value = metrics.lines().find_map(|line| line.strip_prefix(name));
            value.unwrap().trim().parse().unwrap()
        };
        let tasks = metric("pullgate_runtime_tasks ") - metric("pullgate_open_sessions ");
        self.samples.push(Sample {
            at,
            resident: field("VmRSS:"),
            descriptors,
            threads: field("Threads:"),
            tasks,
        });
    }

    /// Prints a row for each sixth of the run, measured over its last tenth. Returns whether the
    /// last row has not grown compared with the first.
    ///
    /// Memory and descriptors are compared by their mean. Tasks come and go with sessions, so the
    /// minimum number of other tasks is compared.
    pub fn judge(&self, whole: Duration) -> bool {
        println!("minutes  resident KiB  descriptors: least, mean  threads  tasks: least, mean");
        let rows: Vec<[f64; 6]> = (1..=6).map(|sixth| self.row(whole * sixth / 6, whole)).collect();
        for (row, sixth) in rows.iter().zip(1..) {
            let minutes = (whole * sixth / 6).as_secs_f64() / 60.0;
            let [resident, least, mean, threads, few, tasks] = row;
            println!(
                "{minutes:7.1}  {resident:12.0}  {least:18.0}, {mean:4.1}  {threads:7.0}  \
                 {few:12.0}, {tasks:4.1}"
            );
        }
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return false };
        let growth = |index: usize| last[index] / first[index] - 1.0;
        let (resident, descriptors, tasks) = (growth(0), growth(2), growth(4));
        println!(
            "from the first sixth to the last: resident {:+.1} %, descriptors {:+.1} %, tasks \
             {:+.1} %",
            resident * 100.0,
            descriptors * 100.0,
            tasks * 100.0
        );
        [resident, descriptors, tasks].into_iter().all(|growth| growth <= MOST_GROWTH)
    }

    /// The last tenth of a sixth of the run that ends at `end`.
    fn row(&self, end: Duration, whole: Duration) -> [f64; 6] {
        let of: Vec<&Sample> =
            self.samples.iter().filter(|one| one.at <= end && one.at + whole / 60 > end).collect();
        let mean = |take: fn(&Sample) -> f64| {
            of.iter().map(|one| take(one)).sum::<f64>() / of.len().max(1) as f64
        };
        let least =
            |take: fn(&Sample) -> f64| of.iter().map(|one| take(one)).fold(f64::MAX, f64::min);
        [
            mean(|one| one.resident),
            least(|one| one.descriptors),
            mean(|one| one.descriptors),
            mean(|one| one.threads),
            least(|one| one.tasks),
            mean(|one| one.tasks),
        ]
    }
}
