//! Listening sockets: bound first, listening when nothing can fail any more, and handed over at the
//! end without losing connections.
//!
//! A connection is accepted as a plain descriptor, because its runtime is chosen later.
//!
//! Closing a listening socket resets the connections in its queue. A socket that the service
//! manager also holds keeps its queue for the next process. A socket that shares its port
//! (SO_REUSEPORT) does not: it first makes the kernel send new connections to the other process,
//! and accepts the rest.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use nix::libc::{BPF_K, BPF_RET, sock_filter, sock_fprog};
use nix::sys::socket::{setsockopt, sockopt::AttachReusePortCbpf};
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, Socket, Type};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::transparent::accept_foreign;
use crate::config::{Capture, ListenerSpec, Mode, Ports};

/// Length of the accept queue.
const BACKLOG: i32 = 4096;

/// Maximum duration of a TCP handshake that started before new connections were redirected. A lost
/// SYN-ACK is repeated after one second.
pub const LAST_ARRIVALS: Duration = Duration::from_secs(3);

/// Who else can serve the clients of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// No other process.
    Exclusive,
    /// A process that holds the same socket and its queue.
    SameSocket,
    /// A process that has bound the same port. Each socket has its own queue.
    SamePort,
}

/// A TCP socket that is bound but does not listen.
#[derive(Debug)]
pub struct BoundSocket {
    socket: Socket,
    sharing: Sharing,
}

impl BoundSocket {
    /// Binds an address, for one or several processes.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub fn bind(address: SocketAddr, ports: Ports) -> io::Result<Self> {
        let bound = Self::unbound(address, ports)?;
        bound.socket.bind(&address.into())?;
        Ok(bound)
    }

    /// Binds the address of a listener.
    ///
    /// # Errors
    /// If the address cannot be bound, or the process lacks a capability that the mode needs.
    pub fn bind_listener(spec: &ListenerSpec, ports: Ports) -> io::Result<Self> {
        let bound = Self::unbound(spec.address, ports)?;
        bound.prepare_for(spec)?;
        bound.socket.bind(&spec.address.into())?;
        Ok(bound)
    }

    /// Uses a listening socket that the service manager also holds.
    #[must_use]
    pub fn inherited(listener: std::net::TcpListener) -> Self {
        Self { socket: listener.into(), sharing: Sharing::SameSocket }
    }

    /// Sets the options that the listener's mode needs.
    ///
    /// # Errors
    /// If the process lacks the capability.
    pub fn prepare_for(&self, spec: &ListenerSpec) -> io::Result<()> {
        match spec.mode {
            Mode::Transparent(Capture::Tproxy) => accept_foreign(&self.socket, spec.address),
            Mode::Transparent(Capture::Redirect) | Mode::Connect | Mode::Mirror => Ok(()),
        }
    }

    fn unbound(address: SocketAddr, ports: Ports) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(ports == Ports::Shared)?;
        let sharing = match ports {
            Ports::Own => Sharing::Exclusive,
            Ports::Shared => Sharing::SamePort,
        };
        Ok(Self { socket, sharing })
    }

    /// Returns its address.
    ///
    /// # Errors
    /// If it is not an IP address.
    pub fn address(&self) -> io::Result<SocketAddr> {
        let address = self.socket.local_addr()?.as_socket();
        address.ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// Returns who else can serve its clients.
    #[must_use]
    pub fn sharing(&self) -> Sharing {
        self.sharing
    }

    /// Listens in the calling runtime.
    ///
    /// # Errors
    /// If a system call fails.
    pub fn listen_here(self) -> io::Result<TcpListener> {
        TcpListener::from_std(self.listen()?.into())
    }

    /// Listens. Called last, when nothing can fail any more: from now on the kernel sends
    /// connections here, also if sockets share the port.
    fn listen(self) -> io::Result<Socket> {
        // Bytes of a tunnel are forwarded as they arrive. Accepted sockets inherit the option;
        // without it, the gate works, too.
        let _ = self.socket.set_tcp_nodelay(true);
        if self.sharing != Sharing::SameSocket {
            self.socket.listen(BACKLOG)?;
        }
        Ok(self.socket)
    }
}

/// Binds an address for UDP and TCP, and listens.
///
/// # Errors
/// If it cannot be bound.
pub fn bind_udp_and_tcp(address: SocketAddr, ports: Ports) -> io::Result<(UdpSocket, TcpListener)> {
    let udp = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), None)?;
    udp.set_reuse_port(ports == Ports::Shared)?;
    udp.bind(&address.into())?;
    let tcp = BoundSocket::bind(address, ports)?;
    Ok((UdpSocket::from_std(udp.into())?, tcp.listen_here()?))
}

/// A `[[listen]]` with a listening socket, in the runtime that created it.
#[derive(Debug)]
pub struct Listener {
    /// As configured, with the bound address.
    pub spec: Arc<ListenerSpec>,
    /// Who else can serve its clients.
    pub sharing: Sharing,
    /// Of tokio's sockets, only streams allow custom system calls when ready; tokio's listener
    /// would register each connection with this runtime.
    socket: TcpStream,
}

impl Listener {
    /// Listens on a bound socket in the calling runtime.
    ///
    /// # Errors
    /// If a system call fails, or the epoll of the runtime accepts no more sockets.
    pub fn new(spec: Arc<ListenerSpec>, bound: BoundSocket) -> io::Result<Self> {
        let sharing = bound.sharing;
        let socket = TcpStream::from_std(bound.listen()?.into())?;
        let listener = Self { spec, sharing, socket };
        if sharing == Sharing::SamePort {
            // A process that ended may have left its choice behind. It could not take it back: until
            // its socket is closed, connections would arrive there again, and be reset. Without
            // success, all connections come here.
            let _ = listener.share();
        }
        Ok(listener)
    }

    /// Waits until a connection may be in the queue.
    ///
    /// # Errors
    /// If the runtime has ended.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Accepts the next connection in the queue. Returns its socket and the peer's address.
    ///
    /// # Errors
    /// `WouldBlock` if the queue is empty, and the errors of accept(2).
    pub fn accept(&self) -> io::Result<(OwnedFd, SocketAddr)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accept = || Ok(acceptfrom_with(&self.socket, flags)?);
        let (socket, peer) = self.socket.try_io(Interest::READABLE, accept)?;
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
        Ok((socket, peer.ok_or(io::ErrorKind::ConnectionAborted)?))
    }

    /// Makes the kernel send new connections to the process that bound the same port after this
    /// one. If there is none, they still arrive here.
    ///
    /// # Errors
    /// If the system call fails.
    pub fn hand_over(&self) -> io::Result<()> {
        // Sockets of one port are numbered in the order in which they started to listen.
        self.choose_socket(1)
    }

    /// Makes the kernel distribute new connections over all sockets of the port.
    fn share(&self) -> io::Result<()> {
        // A number that no socket has.
        self.choose_socket(u32::MAX)
    }

    /// Sends all new connections of the port to the socket with this number: a classic BPF program
    /// of one instruction returns the number (socket(7), SO_ATTACH_REUSEPORT_CBPF).
    fn choose_socket(&self, number: u32) -> io::Result<()> {
        let code = u16::try_from(BPF_RET | BPF_K).map_err(io::Error::other)?;
        let mut program = [sock_filter { code, jt: 0, jf: 0, k: number }];
        let program = sock_fprog { len: 1, filter: program.as_mut_ptr() };
        Ok(setsockopt(&self.socket, AttachReusePortCbpf, &program)?)
    }
}
