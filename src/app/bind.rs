//! The sockets that clients come in by: bound here, or handed down by a service manager; and how
//! they are let go so that no connection is lost.
//!
//! Closing a listener resets what waits in its queue. A socket that the service manager holds too
//! keeps its queue for whoever serves next. One that shares its port (SO_REUSEPORT) does not, so it
//! first has the kernel send what is new to the other process, and takes in the rest.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use listenfd::ListenFd;
use nix::libc::{BPF_K, BPF_RET, sock_filter, sock_fprog};
use nix::sys::socket::{setsockopt, sockopt::AttachReusePortCbpf};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

use super::listener::Ear;
use crate::config::{Capture, Mode, Ports};
use crate::listen::transparent::accept_foreign;

/// Connections that the kernel queues for a listener.
const BACKLOG: i32 = 4096;

/// How long a handshake may still take that began before the kernel was told to send new ones
/// elsewhere: a SYN-ACK that was lost is repeated after one second.
pub(super) const LAST_ARRIVALS: Duration = Duration::from_secs(3);

/// How long accept(2) may wait on a socket that somebody else has made one that blocks.
const LONGEST_ACCEPT: Duration = Duration::from_millis(1);

/// Sockets that the process was started with (systemd's `LISTEN_FDS`).
#[derive(Debug, Default)]
pub struct Inherited {
    tcp: Vec<std::net::TcpListener>,
    unix: Vec<UnixListener>,
}

impl Inherited {
    /// Takes what the environment tells of, once. Call it before there is a second thread: it
    /// changes the environment, so that no child takes the sockets for its own.
    ///
    /// # Errors
    /// When a descriptor is no listening stream socket.
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

    /// The TCP socket that is bound to this address, where there is one.
    pub(super) fn tcp(&mut self, address: SocketAddr) -> Option<std::net::TcpListener> {
        let bound = |listener: &std::net::TcpListener| listener.local_addr().ok() == Some(address);
        let index = self.tcp.iter().position(bound)?;
        Some(self.tcp.swap_remove(index))
    }

    /// The Unix socket that is bound to this path, where there is one.
    pub(super) fn unix(&mut self, path: &Path) -> Option<UnixListener> {
        let bound = |listener: &UnixListener| {
            listener.local_addr().is_ok_and(|address| address.as_pathname() == Some(path))
        };
        let index = self.unix.iter().position(bound)?;
        Some(self.unix.swap_remove(index))
    }

    /// Refuses what nothing has taken: its clients would wait for ever.
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

/// Makes a socket that others hold, too, one that accept(2) does not wait for, or not for long.
///
/// Whether a descriptor may block is one setting for all its holders, and systemd sets it anew for
/// each process that it starts (NonBlocking= in systemd.service(5)): a gate that was asked for a
/// connection just then would stand still until there is one. The timeout holds for it even so.
fn never_wait<S: AsFd>(listener: &S) -> io::Result<()> {
    let socket = SockRef::from(listener);
    socket.set_nonblocking(true)?;
    socket.set_read_timeout(Some(LONGEST_ACCEPT))
}

/// Who can serve a listener's clients besides this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holding {
    /// Nobody: they are answered until the very end.
    Alone,
    /// Whoever else holds the same socket, its queue included.
    Together,
    /// Whoever has bound the same port; a queue of its own ends with this socket.
    Beside,
}

/// A socket that is bound, and listens from [`Bound::listen`] on.
#[derive(Debug)]
pub(super) struct Bound {
    socket: Socket,
    pub(super) holding: Holding,
}

impl Bound {
    /// Binds an address, or takes the socket that was handed down for it.
    pub(super) fn new(
        address: SocketAddr,
        mode: Mode,
        inherited: &mut Inherited,
        ports: Ports,
    ) -> io::Result<Self> {
        if let Some(listener) = inherited.tcp(address) {
            let socket = Socket::from(listener);
            if mode == Mode::Transparent(Capture::Tproxy) {
                accept_foreign(&socket, address)?;
            }
            return Ok(Self { socket, holding: Holding::Together });
        }
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(ports == Ports::Shared)?;
        if mode == Mode::Transparent(Capture::Tproxy) {
            accept_foreign(&socket, address)?;
        }
        socket.bind(&address.into())?;
        let holding = match ports {
            Ports::Own => Holding::Alone,
            Ports::Shared => Holding::Beside,
        };
        Ok(Self { socket, holding })
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        let address = self.socket.local_addr()?.as_socket();
        address.ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// Lets clients come. Done last, when nothing can fail any more: among sockets that share a
    /// port it is only now that the kernel sends connections here.
    pub(super) fn listen(self) -> io::Result<Socket> {
        // What passes is complete as it comes; what is accepted here inherits the option. A socket
        // that refuses it is served without.
        let _ = self.socket.set_tcp_nodelay(true);
        if self.holding != Holding::Together {
            self.socket.listen(BACKLOG)?;
        }
        Ok(self.socket)
    }

    /// The same, for what is served in the runtime that calls.
    pub(super) fn listen_here(self) -> io::Result<TcpListener> {
        TcpListener::from_std(self.listen()?.into())
    }
}

/// Binds an address for UDP and for TCP, and listens.
pub(super) fn both_transports(
    address: SocketAddr,
    ports: Ports,
) -> io::Result<(UdpSocket, TcpListener)> {
    let domain = Domain::for_address(address);
    let udp = Socket::new(domain, Type::DGRAM.nonblocking(), None)?;
    udp.set_reuse_port(ports == Ports::Shared)?;
    udp.bind(&address.into())?;
    let tcp = Bound::new(address, Mode::Connect, &mut Inherited::default(), ports)?;
    Ok((UdpSocket::from_std(udp.into())?, tcp.listen_here()?))
}

/// Has the kernel send new connections to the process that has bound the same port after this one;
/// where there is none, they go on coming here.
pub(super) fn turn_to_successor(listener: &Ear) -> io::Result<()> {
    // Sockets of one port are numbered in the order in which they began to listen.
    choose(listener, 1)
}

/// Has the kernel spread new connections over all sockets of the port again.
pub(super) fn turn_to_all(listener: &Ear) -> io::Result<()> {
    // A number that no socket has.
    choose(listener, u32::MAX)
}

/// Makes a socket of the port, by number, take all new connections: a classic BPF program of one
/// instruction that returns it (socket(7), SO_ATTACH_REUSEPORT_CBPF).
fn choose(listener: &Ear, number: u32) -> io::Result<()> {
    let code = u16::try_from(BPF_RET | BPF_K).map_err(io::Error::other)?;
    let mut program = [sock_filter { code, jt: 0, jf: 0, k: number }];
    let program = sock_fprog { len: 1, filter: program.as_mut_ptr() };
    Ok(setsockopt(listener, AttachReusePortCbpf, &program)?)
}
