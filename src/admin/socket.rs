//! The admin sockets, and who can reach each.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;

use crate::config::Ports;

/// Mode of the Unix socket: access for its owner and group.
pub(super) const SOCKET_MODE: u32 = 0o660;

/// Who can reach the admin address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Other machines too.
    Network,
    /// This machine only, through a loopback address.
    Loopback,
    /// Users that the mode of the socket file allows.
    Socket,
}

#[derive(Debug)]
pub(super) enum AdminListener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// An admin socket.
#[derive(Debug)]
pub struct Socket {
    pub(super) listener: AdminListener,
    address: Option<SocketAddr>,
    pub(super) reach: Reach,
}

impl Socket {
    /// Creates an admin socket from a bound TCP listener.
    ///
    /// # Errors
    /// If its address cannot be read.
    pub fn tcp(listener: TcpListener) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let reach = if address.ip().is_loopback() { Reach::Loopback } else { Reach::Network };
        Ok(Self { listener: AdminListener::Tcp(listener), address: Some(address), reach })
    }

    /// Creates a Unix socket at a path. Its mode is set before anyone can connect. With
    /// `Ports::Own`, it does not replace a socket on which another process listens.
    ///
    /// # Errors
    /// If it cannot be created, or another process listens on it.
    pub fn unix(path: &Path, ports: Ports) -> io::Result<Self> {
        let listener = AdminListener::Unix(bind_unix(path, ports)?);
        Ok(Self { listener, address: None, reach: Reach::Socket })
    }

    /// Creates an admin socket from a non-blocking Unix socket of the service manager.
    ///
    /// # Errors
    /// If the runtime cannot register it.
    pub fn inherited(listener: std::os::unix::net::UnixListener) -> io::Result<Self> {
        let listener = AdminListener::Unix(UnixListener::from_std(listener)?);
        Ok(Self { listener, address: None, reach: Reach::Socket })
    }

    /// Returns its TCP address; `None` for a Unix socket.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }
}

impl AdminListener {
    pub(super) async fn accept(&self) -> io::Result<Either<TcpStream, UnixStream>> {
        match self {
            Self::Tcp(listener) => Ok(Either::Left(listener.accept().await?.0)),
            Self::Unix(listener) => Ok(Either::Right(listener.accept().await?.0)),
        }
    }
}

/// Binds a Unix socket. Sets its mode before anyone can connect. Replaces a socket on which no
/// process listens, but no other file.
fn bind_unix(path: &Path, ports: Ports) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "the path exists and is not a socket",
            ));
        }
        Ok(_) if ports == Ports::Own && std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        Ok(_) | Err(_) => {}
    }
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    let listener = UnixListener::bind(&fresh)?;
    let placed = std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(SOCKET_MODE))
        .and_then(|()| std::fs::rename(&fresh, path));
    if let Err(error) = placed {
        let _ = std::fs::remove_file(&fresh);
        return Err(error);
    }
    Ok(listener)
}
