//! A server process that is killed when its handle is dropped or when the test's thread ends.

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
    /// Starts `command`. Both outputs go to `NAME.log`; standard output is left alone if the
    /// command has already set it with `stdout`.
    pub fn start(name: &str, dir: &Path, command: &mut Command, stdout: Option<File>) -> Self {
        let log = dir.join(format!("{name}.log"));
        let out = File::create(&log).unwrap();
        command.stdin(Stdio::null()).stderr(out.try_clone().unwrap()).stdout(stdout.unwrap_or(out));
        let child = command.spawn().unwrap();
        Self { child, name: name.to_owned(), log }
    }

    /// Waits until `address` accepts connections. Fails with the log if the process exits before
    /// that.
    #[track_caller]
    pub fn accepts(mut self, address: SocketAddr) -> Self {
        wait_until(&format!("{} accepts on {address}", self.name), || {
            self.assert_alive();
            TcpStream::connect(address).ok()
        });
        self
    }

    /// Like the above, in another network namespace.
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

    /// Returns its output so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The process id; `setpriv` has replaced itself with the program by then.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, `HUP` or `TERM`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status();
        assert!(sent.is_ok_and(|sent| sent.success()), "{} is gone", self.name);
    }

    /// Waits for its exit and returns the status.
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

/// A command that the kernel kills when the thread that started it ends, so that no process
/// outlives a test, even if the test itself is killed.
pub fn bound_to_this_thread(program: &str) -> Command {
    let mut command = Command::new(find("setpriv"));
    command.args(["--pdeathsig", "KILL", "--"]).arg(find(program));
    command
}

/// Returns the path of an installed program.
///
/// # Panics
/// If it is not installed; the message says what to do.
pub fn find(program: &str) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default();
    // A user's PATH often lacks the directories of server programs.
    let mut places = path.split(':').chain(["/usr/sbin", "/sbin"]);
    places
        .find_map(|place| Some(Path::new(place).join(program)).filter(|path| path.exists()))
        .unwrap_or_else(|| {
            panic!("{program} is not installed; `make test` installs what the tests need")
        })
}
