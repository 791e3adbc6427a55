//! How much memory the kernel uses for TCP sockets, and how much there is.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::param::page_size;

/// Memory of sockets, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MemoryUse {
    /// What all sockets use.
    pub(super) used: u64,
    /// Up to here no connection suffers.
    pub(super) enough: u64,
}

/// Where the kernel says how much memory sockets use: on the whole machine, and in the control
/// group (cgroup v2) of the gate.
#[derive(Debug)]
pub struct SocketMemory {
    root: PathBuf,
    /// The low value of `tcp_mem`, in bytes.
    enough: u64,
    /// The directory of the control group, and half of its limit.
    group: Option<(PathBuf, u64)>,
}

impl SocketMemory {
    /// The memory of this machine.
    #[must_use]
    pub fn of_this_machine() -> Self {
        Self::under(Path::new("/"))
    }

    /// The memory of the machine whose root directory is here.
    #[must_use]
    pub fn under(root: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(root.join(path)).ok();
        let enough = read("proc/sys/net/ipv4/tcp_mem")
            .and_then(|text| low(&text))
            .or_else(|| usual(&read("proc/meminfo")?));
        let group = read("proc/self/cgroup").and_then(|text| {
            let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
            let folder = root.join("sys/fs/cgroup").join(path);
            let limit = fs::read_to_string(folder.join("memory.max")).ok()?;
            Some((folder, limit.trim().parse::<u64>().ok()? / 2))
        });
        Self { root: root.to_owned(), enough: enough.unwrap_or(u64::MAX), group }
    }

    /// Returns the use of whichever has less left, the machine or the control group.
    pub(super) fn now(&self) -> MemoryUse {
        let machine = MemoryUse { used: self.used().unwrap_or(0), enough: self.enough };
        let group = self.group.as_ref().and_then(|(folder, enough)| {
            let text = fs::read_to_string(folder.join("memory.stat")).ok()?;
            let used = text.lines().find_map(|line| line.strip_prefix("sock "))?;
            Some(MemoryUse { used: used.trim().parse().ok()?, enough: *enough })
        });
        let left = |memory: &MemoryUse| i128::from(memory.enough) - i128::from(memory.used);
        group.filter(|group| left(group) < left(&machine)).unwrap_or(machine)
    }

    fn used(&self) -> Option<u64> {
        let text = fs::read_to_string(self.root.join("proc/net/sockstat")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("TCP:"))?;
        let mut words = line.split_whitespace().skip_while(|word| *word != "mem").skip(1);
        pages(words.next()?)
    }
}

/// Returns the low value of the three in `tcp_mem`.
fn low(text: &str) -> Option<u64> {
    pages(text.split_whitespace().next()?)
}

/// Returns the kernel's default for the low value, 3/64 of the memory: only the first network
/// namespace shows the value itself.
fn usual(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes.saturating_mul(1024) / 64 * 3)
}

fn pages(text: &str) -> Option<u64> {
    Some(text.parse::<u64>().ok()?.saturating_mul(page_size() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOCKSTAT: &str = "sockets: used 31\nTCP: inuse 1 orphan 1 tw 17 alloc 31 mem 1057\n\
        UDP: inuse 0 mem 3\n";

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_machine_s_memory() {
        let page = page_size() as u64;
        let sockstat = ("proc/net/sockstat", SOCKSTAT);
        let root = machine(&[sockstat, ("proc/sys/net/ipv4/tcp_mem", "287901\t383868\t575802\n")]);
        let memory = SocketMemory::under(root.path()).now();
        assert_eq!(memory, MemoryUse { used: 1057 * page, enough: 287_901 * page });
        // Another network namespace does not show the limit.
        let root = machine(&[sockstat, ("proc/meminfo", "MemTotal:  2097152 kB\nMemFree: 1 kB\n")]);
        let memory = SocketMemory::under(root.path()).now();
        assert_eq!(memory, MemoryUse { used: 1057 * page, enough: 96 << 20 });
    }

    #[test]
    fn the_memory_of_a_container() {
        let root = machine(&[
            ("proc/net/sockstat", SOCKSTAT),
            ("proc/sys/net/ipv4/tcp_mem", "287901 383868 575802"),
            ("proc/self/cgroup", "4:memory:/x\n0::/pods/gate\n"),
            ("sys/fs/cgroup/pods/gate/memory.max", "268435456\n"),
            ("sys/fs/cgroup/pods/gate/memory.stat", "anon 5\nsock 4096000\nshmem 0\n"),
        ]);
        let memory = SocketMemory::under(root.path());
        assert_eq!(memory.now(), MemoryUse { used: 4_096_000, enough: 128 << 20 });
        let unlimited = root.path().join("sys/fs/cgroup/pods/gate/memory.max");
        fs::write(unlimited, "max\n").unwrap();
        let page = page_size() as u64;
        assert_eq!(SocketMemory::under(root.path()).now().enough, 287_901 * page);
    }

    #[test]
    fn a_machine_that_says_nothing_is_never_short() {
        let root = machine(&[]);
        let memory = SocketMemory::under(root.path()).now();
        assert_eq!(memory, MemoryUse { used: 0, enough: u64::MAX });
    }
}
