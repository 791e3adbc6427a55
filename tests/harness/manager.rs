//! A test double of the service manager: holds the sockets or leaves them to the gates, starts one
//! gate after another, and receives their sd_notify messages.

use std::fs;
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use rustix::io::{FdFlags, fcntl_setfd};

use super::daemon::{Daemon, bound_to_this_thread};
use super::gate::{ADMIN, PROXY, Policy, write_config};
use super::{PATIENCE, wait_until};

/// How a new gate gets the address of the previous one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handing {
    /// The manager holds the sockets: `LISTEN_FDS`.
    Sockets,
    /// Each gate binds the port itself: SO_REUSEPORT.
    Ports,
}

pub struct Manager {
    dir: PathBuf,
    config: PathBuf,
    notified: UnixDatagram,
    sockets: Vec<TcpListener>,
}

impl Manager {
    pub fn new(dir: &Path, policy: Policy, handing: Handing) -> Self {
        let dir = dir.join("gate");
        let (policy, addresses): (_, &[&str]) = match handing {
            Handing::Sockets => (policy, &[PROXY, ADMIN]),
            Handing::Ports => (policy.with_more("\n[process]\nreuse-port = true\n"), &[]),
        };
        let config = write_config(&dir, &policy);
        let bound = |address: &&str| {
            let listener = TcpListener::bind(address).unwrap();
            // The descriptor has the same number in the gate's shell.
            fcntl_setfd(&listener, FdFlags::empty()).unwrap();
            listener
        };
        let sockets = addresses.iter().map(bound).collect();
        let notified = UnixDatagram::bind(dir.join("notify")).unwrap();
        notified.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { dir, config, notified, sockets }
    }

    /// Makes the sockets blocking for all processes that hold them, as systemd does when it starts
    /// a gate.
    pub fn let_sockets_block(&self) {
        for socket in &self.sockets {
            socket.set_nonblocking(false).unwrap();
        }
    }

    /// Starts a gate and waits until it sends READY.
    pub fn start(&self, name: &str) -> Daemon {
        self.let_sockets_block();
        let mut line = String::new();
        for (index, socket) in self.sockets.iter().enumerate() {
            // First move the descriptors out of each other's way, then to their final numbers.
            line.push_str(&format!("exec {}<&{1} {1}<&-; ", 70 + index, socket.as_raw_fd()));
        }
        for index in 0..self.sockets.len() {
            line.push_str(&format!("exec {}<&{1} {1}<&-; ", 3 + index, 70 + index));
        }
        let pass = match self.sockets.len() {
            0 => String::new(),
            count => format!("LISTEN_PID=$$ LISTEN_FDS={count}"),
        };
        let gate = env!("CARGO_BIN_EXE_pullgate");
        line.push_str(&format!("{pass} exec {gate} run --config {}", self.config.display()));
        let mut command = bound_to_this_thread("bash");
        command.args(["-c", &line]).env_clear();
        command.env("NOTIFY_SOCKET", self.dir.join("notify")).env("WATCHDOG_USEC", "1000000");
        let mut daemon = Daemon::start(name, &self.dir, &mut command, None);
        self.hears("READY=1", &mut daemon);
        daemon
    }

    /// Waits until a gate sends `what`.
    pub fn hears(&self, what: &str, gate: &mut Daemon) -> String {
        wait_until(&format!("the manager hears {what}"), || {
            if what != "STOPPING=1" {
                gate.assert_alive();
            }
            let mut message = [0; 4096];
            let length = match self.notified.recv(&mut message) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return None,
                received => received.unwrap(),
            };
            let text = String::from_utf8_lossy(&message[..length]).into_owned();
            text.lines().any(|line| line == what).then_some(text)
        })
    }

    /// The audit file that all gates write to.
    pub fn audit(&self) -> String {
        fs::read_to_string(self.dir.join("audit.jsonl")).unwrap_or_default()
    }
}
