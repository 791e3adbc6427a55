//! The gates under load, as processes of the real program.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use pullgate::tools::demo::folder::Folder;

/// Timeout for the start of a gate.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Gate {
    pub proxy: SocketAddr,
    pub admin: SocketAddr,
    folder: PathBuf,
    running: Option<Child>,
    /// Replaced gates that may still be draining.
    replaced: Vec<Child>,
}

impl Gate {
    /// Sets the ports in the demo's configuration; two gates can share them.
    pub fn configure(folder: &Folder, proxy: SocketAddr, admin: SocketAddr) -> Self {
        let mut text = fs::read_to_string(folder.settings()).unwrap();
        for address in [proxy, admin] {
            text = text.replacen("127.0.0.1:0", &address.to_string(), 1);
        }
        text.push_str("\n[process]\nreuse-port = true\n");
        fs::write(folder.settings(), text).unwrap();
        let folder = folder.path().to_owned();
        Self { proxy, admin, folder, running: None, replaced: Vec::new() }
    }

    /// Starts a gate, beside a running one if there is one.
    pub fn start(&mut self) {
        let log = File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pullgate"));
        command.arg("run").arg("--config").arg(self.folder.join("pullgate.toml"));
        command.env("RUST_LOG", "warn").stdin(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap();
        let ready = self.folder.join("audit.jsonl");
        let begun = Instant::now();
        while !ready.exists() || TcpStream::connect(self.admin).is_err() {
            assert!(begun.elapsed() < PATIENCE, "a gate does not start");
            sleep(Duration::from_millis(20));
        }
        self.replaced.extend(self.running.replace(child));
    }

    pub fn pid(&self) -> u32 {
        self.running.as_ref().map(Child::id).unwrap()
    }

    /// Starts a new gate, then stops the old one.
    pub fn hand_over(&mut self) {
        self.start();
        // The new gate's socket listens once it serves; the admin port may still be the old gate's.
        sleep(Duration::from_secs(1));
        let before = self.replaced.last().unwrap().id();
        signal(before, "TERM");
        self.replaced.retain_mut(|child| child.try_wait().unwrap().is_none());
    }

    /// Renames the audit file, as logrotate does.
    pub fn rotate(&self) {
        fs::rename(self.folder.join("audit.jsonl"), self.folder.join("audit.jsonl.1")).unwrap();
        signal(self.pid(), "HUP");
    }

    /// Stops all processes. Returns whether all of them exited successfully.
    pub fn end(&mut self) -> bool {
        signal(self.pid(), "TERM");
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        for line in log.lines().filter(|line| !line.contains("storage account")).take(20) {
            println!("{line}");
        }
        self.running
            .iter_mut()
            .chain(&mut self.replaced)
            .all(|child| child.wait().unwrap().success())
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        for child in self.running.iter_mut().chain(&mut self.replaced) {
            // It may have ended already.
            let _ = child.kill();
        }
    }
}

fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap();
    assert!(sent.success());
}
