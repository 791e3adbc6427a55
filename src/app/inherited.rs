//! Sockets that the service manager passes to the gate (systemd's `LISTEN_FDS`).

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use listenfd::ListenFd;
use socket2::SockRef;

/// Timeout of accept(2) on a socket that another process has made blocking.
const ACCEPT_TIMEOUT: Duration = Duration::from_millis(1);

/// Inherited sockets (systemd's `LISTEN_FDS`).
#[derive(Debug, Default)]
pub struct Inherited {
    tcp: Vec<std::net::TcpListener>,
    unix: Vec<UnixListener>,
}

impl Inherited {
    /// Takes the sockets of the environment, once. Must be called before a second thread exists: it
    /// changes the environment, so that child processes do not use the sockets.
    ///
    /// # Errors
    /// If a descriptor is not a listening stream socket.
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

    /// Takes the TCP socket with this address; `None` if there is none.
    pub(super) fn tcp(&mut self, address: SocketAddr) -> Option<std::net::TcpListener> {
        let bound = |listener: &std::net::TcpListener| listener.local_addr().ok() == Some(address);
        let index = self.tcp.iter().position(bound)?;
        Some(self.tcp.swap_remove(index))
    }

    /// Takes the Unix socket with this path; `None` if there is none.
    pub(super) fn unix(&mut self, path: &Path) -> Option<UnixListener> {
        let bound = |listener: &UnixListener| {
            listener.local_addr().is_ok_and(|address| address.as_pathname() == Some(path))
        };
        let index = self.unix.iter().position(bound)?;
        Some(self.unix.swap_remove(index))
    }

    /// Explains why an address cannot be bound, if a socket that was handed down has its port: a socket
    /// unit with a bare port listens on `[::]`, which is another address than the configuration's.
    pub(super) fn explain(&self, error: io::Error, wanted: SocketAddr) -> io::Error {
        let addresses = self.tcp.iter().filter_map(|listener| listener.local_addr().ok());
        let same_port = { addresses }.find(|address| address.port() == wanted.port());
        let Some(passed) = same_port.filter(|_| error.kind() == io::ErrorKind::AddrInUse) else {
            return error;
        };
        io::Error::new(
            error.kind(),
            format!(
                "the socket unit listens on {passed}, the configuration on {wanted}: write \
                 ListenStream={wanted} in the socket unit (a bare port means [::]), or {passed} in \
                 the configuration"
            ),
        )
    }

    /// Checks that all sockets were taken: clients of the others would wait forever.
    ///
    /// # Errors
    /// If one is left, with its address and the remedy.
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

/// Limits how long accept(2) blocks on a shared socket.
///
/// All holders share the blocking mode, and systemd sets it for each process that it starts
/// (NonBlocking= in systemd.service(5)): a gate that calls accept(2) at that moment would block
/// until the next connection.
fn never_wait<S: AsFd>(listener: &S) -> io::Result<()> {
    let socket = SockRef::from(listener);
    socket.set_nonblocking(true)?;
    socket.set_read_timeout(Some(ACCEPT_TIMEOUT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_unit_with_a_bare_port_is_named() {
        let passed = std::net::TcpListener::bind("[::]:0").unwrap();
        let port = passed.local_addr().unwrap().port();
        let wanted = SocketAddr::from(([127, 0, 0, 1], port));
        let inherited = Inherited { tcp: vec![passed], unix: Vec::new() };
        let taken = || io::Error::from_raw_os_error(rustix::io::Errno::ADDRINUSE.raw_os_error());
        let explained = inherited.explain(taken(), wanted).to_string();
        for part in [format!("[::]:{port}"), format!("ListenStream=127.0.0.1:{port}")] {
            assert!(explained.contains(&part), "{explained}");
        }
        let other = SocketAddr::from(([127, 0, 0, 1], 1));
        assert_eq!(inherited.explain(taken(), other).to_string(), taken().to_string());
    }
}
