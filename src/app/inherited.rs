//! Sockets that the service manager opened before it started the gate (systemd's `LISTEN_FDS`).

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use listenfd::ListenFd;
use socket2::SockRef;

/// How long accept(2) may wait on a socket that another process has made a blocking one.
const ACCEPT_TIMEOUT: Duration = Duration::from_millis(1);

/// Sockets that the process was started with (systemd's `LISTEN_FDS`).
#[derive(Debug, Default)]
pub struct Inherited {
    tcp: Vec<std::net::TcpListener>,
    unix: Vec<UnixListener>,
}

impl Inherited {
    /// Takes the sockets that the environment names, once. Must be called before there is a second
    /// thread: it changes the environment, so that no child process takes the sockets.
    ///
    /// # Errors
    /// When a descriptor is not a listening stream socket.
    pub fn from_environment() -> anyhow::Result<Self> {
        let mut passed = ListenFd::from_env();
        let mut inherited = Self::default();
        for index in 0..passed.len() {
            if let Ok(Some(listener)) = passed.take_tcp_listener(index) {
                never_wait(&listener)?;
                inherited.tcp.push(listener);
                continue;
            }
            let listener = passed.take_unix_listener(index);
            let what = "LISTEN_FDS: only listening stream sockets are taken (ListenStream=)";
            if let Some(listener) = listener.context(what)? {
                never_wait(&listener)?;
                inherited.unix.push(listener);
            }
        }
        Ok(inherited)
    }

    /// Takes the TCP socket that is bound to this address. `None` when there is none.
    pub(super) fn tcp(&mut self, address: SocketAddr) -> Option<std::net::TcpListener> {
        let bound = |listener: &std::net::TcpListener| listener.local_addr().ok() == Some(address);
        let index = self.tcp.iter().position(bound)?;
        Some(self.tcp.swap_remove(index))
    }

    /// Takes the Unix socket that is bound to this path. `None` when there is none.
    pub(super) fn unix(&mut self, path: &Path) -> Option<UnixListener> {
        let bound = |listener: &UnixListener| {
            listener.local_addr().is_ok_and(|address| address.as_pathname() == Some(path))
        };
        let index = self.unix.iter().position(bound)?;
        Some(self.unix.swap_remove(index))
    }

    /// Checks that every socket was taken: clients of the others would wait for ever.
    ///
    /// # Errors
    /// When one is left, with its address and what to do.
    pub(super) fn nothing_left(&self) -> anyhow::Result<()> {
        let tcp = self.tcp.iter().filter_map(|listener| listener.local_addr().ok());
        let unix = self.unix.iter().filter_map(|listener| {
            Some(listener.local_addr().ok()?.as_pathname()?.display().to_string())
        });
        let left: Vec<String> = tcp.map(|address| address.to_string()).chain(unix).collect();
        if left.is_empty() {
            return Ok(());
        }
        bail!(
            "the service manager hands down {}, which the configuration does not name: write the \
             same address in [[listen]] or [admin] as in ListenStream=",
            left.join(", ")
        )
    }
}

/// Has accept(2) return at once on a socket that other processes hold, too.
///
/// All holders share the setting whether a socket blocks, and systemd sets it for each process that
/// it starts (NonBlocking= in systemd.service(5)): a gate that calls accept(2) at that moment
/// would wait for the next connection. The timeout bounds that wait.
fn never_wait<S: AsFd>(listener: &S) -> io::Result<()> {
    let socket = SockRef::from(listener);
    socket.set_nonblocking(true)?;
    socket.set_read_timeout(Some(ACCEPT_TIMEOUT))
}
