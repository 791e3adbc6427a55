//! A server process that ends with its handle, or with the test's thread, whichever goes first.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use super::site::Place;
use super::wait_until;

pub struct Daemon {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command`, with both outputs in `NAME.log` (or standard output where the command has
    /// set it already with `stdout`).
    pub fn start(name: &str, dir: &Path, command: &mut Command, stdout: Option<File>) -> Self {
        let log = dir.join(format!("{name}.log"));
        let out = File::create(&log).unwrap();
        command.stdin(Stdio::null()).stderr(out.try_clone().unwrap()).stdout(stdout.unwrap_or(out));
        let child = command.spawn().unwrap();
        Self { child, name: name.to_owned(), log }
    }

    /// Waits until `address` accepts; fails with the log if the process ends before that.
    #[track_caller]
    pub fn accepts(mut self, address: SocketAddr) -> Self {
        wait_until(&format!("{} accepts on {address}", self.name), || {
            self.assert_alive();
            TcpStream::connect(address).ok()
        });
        self
    }

    /// The same, in another network namespace.
    #[track_caller]
    pub fn accepts_in(mut self, place: Place, address: SocketAddr) -> Self {
        wait_until(&format!("{} accepts on {address}", self.name), || {
            self.assert_alive();
            place.inside(|| TcpStream::connect(address).ok())
        });
        self
    }

    #[track_caller]
    pub fn assert_alive(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("{} ended too early ({status}):\n{}", self.name, self.log());
        }
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The process, which `setpriv` has become by then.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, `HUP` or `TERM`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status();
        assert!(sent.is_ok_and(|sent| sent.success()), "{} is gone", self.name);
    }

    /// The exit status, once it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command that the kernel kills when the thread that started it ends, so that nothing outlives
/// a test, not even one that was killed itself.
pub fn bound_to_this_thread(program: &str) -> Command {
    let mut command = Command::new(find("setpriv"));
    command.args(["--pdeathsig", "KILL", "--"]).arg(find(program));
    command
}

/// Where a program is installed.
///
/// # Panics
/// When it is not; the message says what to do.
pub fn find(program: &str) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default();
    // A user's PATH often lacks the directories of the servers.
    let mut places = path.split(':').chain(["/usr/sbin", "/sbin"]);
    places
        .find_map(|place| Some(Path::new(place).join(program)).filter(|path| path.exists()))
        .unwrap_or_else(|| {
            panic!("{program} is not installed; `make test` installs what the tests need")
        })
}
