//! Programs that a run starts, and the resources that they and the machine use.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Timeout for a program to listen, and to exit after it was asked to.
const PATIENCE: Duration = Duration::from_secs(20);

/// Polling interval: short, but long enough not to disturb the measurement.
const AGAIN: Duration = Duration::from_millis(5);

/// Raises the soft limit of descriptors to the hard limit and returns it.
pub fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let soft =
        if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    soft.unwrap_or(1 << 20)
}

/// Returns a free port of the loopback interface.
pub fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Searches for a program in Debian's directories.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// A running program, killed on drop.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it; its output goes to `log`.
    pub fn start(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let out = fs::File::create(log)?;
        let program = command.get_program().to_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("{} cannot be started", Path::new(&program).display()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Waits until it accepts connections on this address.
    pub fn accepting(mut self, address: SocketAddr) -> anyhow::Result<Self> {
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            let ended = self.child.try_wait()?;
            if ended.is_some() || Instant::now() > end {
                let said = fs::read_to_string(&self.log).unwrap_or_default();
                bail!("nothing listens on {address} ({ended:?}): {said}");
            }
            std::thread::sleep(AGAIN);
        }
        Ok(self)
    }

    /// Its process and all descendants.
    pub fn processes(&self) -> Vec<u32> {
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if let Some(parent) = parent(pid) {
                children.entry(parent).or_default().push(pid);
            }
        }
        let mut found = vec![self.child.id()];
        let mut next = 0;
        while let Some(pid) = found.get(next) {
            found.extend(children.remove(pid).unwrap_or_default());
            next += 1;
        }
        found
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let own = self.processes();
        let pid = Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let end = Instant::now() + Duration::from_secs(2);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(AGAIN);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in own.into_iter().skip(1).filter(|pid| parent(*pid).is_some()) {
            let pid = Pid::from_raw(pid.cast_signed());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, can contain any characters.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// A part of this program in a separate process that answers line by line.
pub struct Role {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Role {
    pub fn start(words: &[impl AsRef<OsStr>]) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().context("no input")?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        Ok(Self { child, input, output })
    }

    /// Reads its next line.
    pub fn says(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    pub fn ask(&mut self) -> anyhow::Result<String> {
        self.tell("")
    }

    /// Sends it a line and reads its answer.
    pub fn tell(&mut self, line: &str) -> anyhow::Result<String> {
        self.input.write_all(format!("{line}\n").as_bytes())?;
        self.says()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the CPU time that these processes have used so far, including ended threads.
///
/// Uses the kernel's process clock in nanoseconds: `/proc/PID/stat` counts in hundredths of a
/// second, which is too coarse for these measurements.
pub fn cpu_time(processes: &[u32]) -> Duration {
    let one = |pid: &u32| {
        let clock = clock_getcpuclockid(Pid::from_raw(pid.cast_signed())).ok()?;
        clock_gettime(clock).ok().map(Duration::from)
    };
    processes.iter().filter_map(one).sum()
}

/// The congestion control of new connections in this network namespace.
pub const CONGESTION_CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// Returns the CPU time that the whole machine has used so far.
pub fn machine_time() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> =
        line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    // user, nice, system, then idle and iowait, then irq, softirq and stolen time.
    of_ticks([0, 1, 2, 5, 6, 7].iter().filter_map(|index| ticks.get(*index)).sum())
}

/// Returns the CPU time of the programs that this one has started and that have ended.
pub fn ended_children_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace());
    // cutime and cstime: proc_pid_stat(5).
    of_ticks(
        fields.into_iter().flatten().skip(13).take(2).filter_map(|it| it.parse::<u64>().ok()).sum(),
    )
}

fn of_ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// The proportional set size of these processes, in bytes.
pub fn memory(processes: &[u32]) -> u64 {
    let one = |pid: &u32| {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        kib(&rollup, "Pss:")
    };
    processes.iter().filter_map(one).sum::<u64>() * 1024
}

/// Returns the kernel memory for sockets, descriptors and similar objects, in bytes: slabs, page
/// tables, stacks and TCP buffers.
pub fn kernel_memory() -> u64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kept = ["Slab:", "PageTables:", "KernelStack:"];
    let kept: u64 = kept.iter().filter_map(|key| kib(&info, key)).sum();
    let sockets = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let tcp = sockets.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let pages = tcp.rsplit(' ').next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    kept * 1024 + pages * rustix::param::page_size() as u64
}

fn kib(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
