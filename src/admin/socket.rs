//! The sockets that the operator looks in by, and who can reach each.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;

use crate::config::Ports;

/// The Unix socket is for its owner and group.
pub(super) const SOCKET_MODE: u32 = 0o660;

/// Who can reach the admin address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Other machines.
    Network,
    /// This machine, by a loopback address.
    Loopback,
    /// Whom the file's mode lets in.
    Socket,
}

#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A socket that the operator looks in by.
#[derive(Debug)]
pub struct Socket {
    pub(super) listener: Listener,
    address: Option<SocketAddr>,
    pub(super) reach: Reach,
}

impl Socket {
    /// A TCP socket that listens.
    ///
    /// # Errors
    /// When it has no address.
    pub fn tcp(listener: TcpListener) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let reach = if address.ip().is_loopback() { Reach::Loopback } else { Reach::Network };
        Ok(Self { listener: Listener::Tcp(listener), address: Some(address), reach })
    }

    /// A Unix socket at a path, made with its mode set before anybody can connect. With ports of
    /// one's own it is not taken from a process that listens there.
    ///
    /// # Errors
    /// When it cannot be made, or belongs to somebody else.
    pub fn unix(path: &Path, ports: Ports) -> io::Result<Self> {
        let listener = Listener::Unix(bind_unix(path, ports)?);
        Ok(Self { listener, address: None, reach: Reach::Socket })
    }

    /// A Unix socket that a service manager has made, and that does not block.
    ///
    /// # Errors
    /// When the runtime does not take it.
    pub fn inherited(listener: std::os::unix::net::UnixListener) -> io::Result<Self> {
        let listener = Listener::Unix(UnixListener::from_std(listener)?);
        Ok(Self { listener, address: None, reach: Reach::Socket })
    }

    /// Where it is, if on TCP.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }
}

impl Listener {
    pub(super) async fn accept(&self) -> io::Result<Either<TcpStream, UnixStream>> {
        match self {
            Self::Tcp(listener) => Ok(Either::Left(listener.accept().await?.0)),
            Self::Unix(listener) => Ok(Either::Right(listener.accept().await?.0)),
        }
    }
}

/// Binds a Unix socket with its mode set before anybody can connect. A socket that nobody listens
/// on any more is replaced; whatever else is there is not.
fn bind_unix(path: &Path, ports: Ports) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is there, and no socket"));
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
