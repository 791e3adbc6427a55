//! A long link between two network namespaces, for kernels without netem. `near` holds the client
//! and the proxies, `far` the origin. A process of its own carries packets between two TUN devices.
//!
//! The senders' segmentation offload is on: the device hands over trains of up to 64 KiB, which become
//! segments here, each with its own turn on the wire. At the other end, segments that arrive together
//! are merged, as a network card's driver does.

pub mod lane;

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tun_rs::{
    DeviceBuilder, GROTable, IDEAL_BATCH_SIZE, SyncDevice, VIRTIO_NET_HDR_LEN as VNET_HEADER,
};

use lane::Lane;
pub use lane::Link;

/// The addresses of the two ends.
pub const NEAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// Interrupt moderation: a network card hands over what has arrived at most this often.
const INTERRUPTS: Duration = Duration::from_micros(50);

/// While packets are under way, the senders are looked at by the clock.
const LOOK: Duration = Duration::from_micros(100);

/// Number of reads from one sender before the other direction has its turn.
const TURN: usize = 64;

/// The largest packet after merging, in bytes.
const LARGEST: usize = 65_535;

/// The congestion control of both ends: the default of Linux, and of most servers.
const CONGESTION_CONTROL: &str = "cubic";

/// Moves this thread, and what it starts, into a network namespace of its own. After an error, the
/// loopback interface still works.
pub fn enter() -> anyhow::Result<()> {
    ip_program()?;
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace needs root")?;
    ip(&["link", "set", "lo", "up"])?;
    fs::write(crate::process::CONGESTION_CONTROL, CONGESTION_CONTROL)
        .context("the kernel has no cubic")
}

fn ip_program() -> anyhow::Result<PathBuf> {
    crate::process::program("ip").context("ip is missing: install iproute2")
}

fn ip(words: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(ip_program()?).args(words).output()?;
    if !output.status.success() {
        bail!("ip {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// One end: a device, and the direction towards it.
struct End {
    device: SyncDevice,
    lane: Lane<Vec<u8>>,
    /// When packets were last handed over.
    last: Duration,
}

/// `link NEAR FAR`: carries packets between the namespaces of two processes. Each input line is a
/// [`Link`] that holds from now on; the answer counts what happened to the packets so far.
pub fn run(near: u32, far: u32) -> anyhow::Result<()> {
    let idle = Link { delay_ms: 0, rate_mbit: 1_000, loss_bp: 0 };
    let mut ends = [(near, NEAR), (far, FAR)].map(|(pid, address)| -> anyhow::Result<End> {
        let device = device(pid, address)?;
        let lane = Lane::new(idle, u64::from(address.to_bits()));
        Ok(End { device, lane, last: Duration::ZERO })
    });
    let [Ok(near), Ok(far)] = &mut ends else {
        return ends.into_iter().find_map(Result::err).map_or(Ok(()), Err);
    };
    as_hardware();
    println!("ready");
    let mut carrier = Carrier::new();
    loop {
        carrier.take(near, far)?;
        carrier.take(far, near)?;
        let next = [carrier.hand_over(near)?, carrier.hand_over(far)?].into_iter().flatten().min();
        if carrier.wait(near, far, next)? {
            let mut line = [0; 256];
            let length = io::stdin().read(&mut line)?;
            if length == 0 {
                return Ok(());
            }
            let link: Link = std::str::from_utf8(&line[..length])?.parse()?;
            near.lane.set(link);
            far.lane.set(link);
            println!("{:?} {:?}", near.lane.counts, far.lane.counts);
            io::stdout().flush()?;
        }
    }
}

fn device(pid: u32, address: Ipv4Addr) -> anyhow::Result<SyncDevice> {
    let path = format!("/proc/{pid}/ns/net");
    setns(File::open(&path)?, CloneFlags::CLONE_NEWNET).context(path)?;
    let device = DeviceBuilder::new().name("wan").offload(true).build_sync()?;
    device.set_nonblocking(true)?;
    ip(&["address", "add", &format!("{address}/30"), "dev", "wan"])?;
    // What the link holds is its queue; the device must not drop before.
    ip(&["link", "set", "wan", "up", "mtu", "1500", "txqueuelen", "10000"])?;
    Ok(device)
}

/// The link stands for hardware, which does not wait for the programs that it serves.
fn as_hardware() {
    let pid = std::process::id().to_string();
    let chrt = Command::new("chrt").args(["--fifo", "--pid", "1", &pid]).status();
    if !chrt.is_ok_and(|status| status.success()) {
        eprintln!("the link has no real-time priority: its delays vary more");
    }
}

/// The buffers of the process, and its clock.
struct Carrier {
    began: Instant,
    train: Vec<u8>,
    segments: Vec<Vec<u8>>,
    sizes: Vec<usize>,
    batch: Vec<Vec<u8>>,
    merger: GROTable,
}

impl Carrier {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            train: vec![0; VNET_HEADER + LARGEST],
            segments: vec![vec![0; 2_048]; IDEAL_BATCH_SIZE],
            sizes: vec![0; IDEAL_BATCH_SIZE],
            batch: std::iter::repeat_with(|| Vec::with_capacity(2 * VNET_HEADER + LARGEST))
                .take(IDEAL_BATCH_SIZE)
                .collect(),
            merger: GROTable::default(),
        }
    }

    /// Takes what `from` has sent, and puts it on the way to `to`.
    fn take(&mut self, from: &End, to: &mut End) -> anyhow::Result<()> {
        for _ in 0..TURN {
            let (train, segments) = (&mut self.train, &mut self.segments);
            let count = match from.device.recv_multiple(train, segments, &mut self.sizes, 0) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("the device cannot be read"),
            };
            let now = self.began.elapsed();
            for (segment, size) in self.segments.iter().zip(&self.sizes).take(count) {
                to.lane.offer(now, segment[..*size].to_vec());
            }
        }
        Ok(())
    }

    /// Hands over what has arrived at an end. Returns when it is to be called again.
    fn hand_over(&mut self, end: &mut End) -> anyhow::Result<Option<Duration>> {
        while let Some(due) = end.lane.next() {
            let now = self.began.elapsed();
            let at = due.max(end.last + INTERRUPTS);
            if at > now {
                return Ok(Some(at));
            }
            let mut count = 0;
            for slot in &mut self.batch {
                let Some(packet) = end.lane.take(now) else { break };
                slot.clear();
                slot.extend_from_slice(&[0; VNET_HEADER]);
                slot.extend_from_slice(&packet);
                count += 1;
            }
            let full = count == self.batch.len();
            let batch = &mut self.batch[..count];
            match end.device.send_multiple(&mut self.merger, batch, VNET_HEADER) {
                Ok(_) => {}
                // The receiver's device is full or down: the packets are lost, as on a real link.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("the device cannot be written"),
            }
            // A batch has room for fewer packets than may have arrived.
            if !full {
                end.last = now;
            }
        }
        Ok(None)
    }

    /// Waits until there is something to do. Returns whether there is input.
    fn wait(&self, near: &End, far: &End, next: Option<Duration>) -> anyhow::Result<bool> {
        let input = io::stdin();
        let mut all = [
            PollFd::new(&input, PollFlags::IN),
            PollFd::new(&near.device, PollFlags::IN),
            PollFd::new(&far.device, PollFlags::IN),
        ];
        let until = next.map(|next| next.saturating_sub(self.began.elapsed()).min(LOOK));
        let timeout = until.map(Timespec::try_from).transpose()?;
        let watched = if next.is_some() { &mut all[..1] } else { &mut all[..] };
        match poll(watched, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(all[0].revents().intersects(PollFlags::IN | PollFlags::HUP))
    }
}
