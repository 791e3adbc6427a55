//! A socket that listens, and hands out what it accepts bare: which runtime a connection belongs to
//! is decided behind it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::Socket;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// A listening socket, in the runtime where it was made.
#[derive(Debug)]
pub(super) struct Ear {
    /// Of tokio's sockets only a stream lets its readiness be used with a call of one's own, and
    /// its listener would make each connection one of the same runtime.
    socket: TcpStream,
}

impl Ear {
    /// # Errors
    /// When the runtime's epoll takes no more.
    pub(super) fn new(listening: Socket) -> io::Result<Self> {
        Ok(Self { socket: TcpStream::from_std(listening.into())? })
    }

    /// Waits until somebody may be there.
    pub(super) async fn listen(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// The next connection that is there, and who made it.
    ///
    /// # Errors
    /// `WouldBlock` when there is none.
    pub(super) fn accept(&self) -> io::Result<(OwnedFd, SocketAddr)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accept = || Ok(acceptfrom_with(&self.socket, flags)?);
        let (socket, peer) = self.socket.try_io(Interest::READABLE, accept)?;
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
        Ok((socket, peer.ok_or(io::ErrorKind::ConnectionAborted)?))
    }
}

impl AsFd for Ear {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
