//! Settings that take effect at start only: listeners, admin, audit, process.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::tls::TlsPaths;
use crate::policy::Enforcement;

/// How clients use a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As a forward proxy, with CONNECT.
    Connect,
    /// Transparently: traffic is redirected to it, and the ClientHello names the target.
    Transparent(Capture),
    /// As a registry.
    Mirror,
}

/// How traffic reaches a transparent listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capture {
    /// nftables `redirect` or `dnat`; the kernel stores the original destination.
    Redirect,
    /// nftables `tproxy`; connections keep their destination. Listening requires CAP_NET_ADMIN.
    Tproxy,
}

impl Mode {
    /// Returns the value of `mode`.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Transparent(_) => "transparent",
            Self::Mirror => "mirror",
        }
    }
}

/// A `[[listen]]`. The sockets, the sessions and the admin pages share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSpec {
    /// How clients use it.
    pub mode: Mode,
    /// Its address. Port 0 means a free port, until the socket is bound.
    pub address: SocketAddr,
    /// The address as text, for audit lines.
    pub name: Arc<str>,
    /// Its own enforcement, which overrides the policy's.
    pub enforcement: Option<Enforcement>,
    /// Networks of load balancers, which must send a PROXY header. `None`: no header is read.
    pub balancers: Option<Vec<IpNet>>,
    /// TLS with clients; `None`: no TLS.
    pub tls: Option<TlsPaths>,
}

impl ListenerSpec {
    /// Returns the same listener with the address that its socket was bound to.
    #[must_use]
    pub fn bound_at(&self, address: SocketAddr) -> Self {
        Self { address, name: address.to_string().into(), ..self.clone() }
    }
}

/// The DNS server for clients of a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answerer {
    /// Its addresses, for UDP and TCP. At least one; each is specific and has a port.
    pub addresses: Vec<SocketAddr>,
    /// The answer for an allowed name.
    pub answer: AnswerWith,
    /// Maximum number of queries per second for each client.
    pub queries_per_second: u32,
}

/// The answer of the DNS server for an allowed name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnswerWith {
    /// The gate's own addresses, where a transparent listener accepts clients.
    Gate(Vec<IpAddr>),
    /// The real addresses, except those that may not be dialled.
    Real,
}

/// The address of the admin listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket. A relative path is relative to the folder of the main file.
    Unix(PathBuf),
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(out, "{address}"),
            Self::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}

/// The destination of audit lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditTarget {
    /// Standard output.
    StandardOutput,
    /// A file. A relative path is relative to the folder of the main file.
    File(PathBuf),
    /// The socket of a syslog service.
    Syslog(PathBuf),
    /// The socket of systemd's journal.
    Journal(PathBuf),
}

/// What happens to new sessions while the audit cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFull {
    /// They are accepted.
    #[default]
    GoOn,
    /// They are rejected.
    Stop,
}

/// Whether a second process can listen on the same addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ports {
    /// No other process can.
    #[default]
    Own,
    /// A process of the same user can (SO_REUSEPORT), so that it takes over before this one ends.
    Shared,
}

/// Which files the process can access, in addition to file modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FileAccess {
    /// Only those that it needs (Landlock).
    #[default]
    Needed,
    /// All files.
    All,
}

/// How many resources the gate uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// One worker thread for each processor.
    #[default]
    Normal,
    /// One worker thread, few sessions and small pipes, for gateways with little memory.
    Small,
}

/// `[process]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conduct {
    /// `profile`.
    pub profile: Profile,
    /// `reuse-port`.
    pub ports: Ports,
    /// `landlock`.
    pub files: FileAccess,
    /// Further folders and files that can be read. Relative paths are relative to the folder of the
    /// main file.
    pub readable: Vec<PathBuf>,
}

/// Settings that take effect at start only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The listeners, at least one.
    pub listeners: Vec<Arc<ListenerSpec>>,
    /// The DNS server for clients of a gateway; `None` if there is none.
    pub answerer: Option<Answerer>,
    /// The admin listener; `None` if there is none.
    pub admin: Option<AdminAddress>,
    /// The destination of audit lines.
    pub audit: AuditTarget,
    /// What happens to new sessions while the audit cannot be written.
    pub on_full: OnFull,
    /// How long bytes of a bulk flow can wait for more. `None` disables batching.
    pub batch: Option<Duration>,
    /// Settings of the process.
    pub conduct: Conduct,
    /// The programs of `credentials-command`, which the sandbox must let run.
    pub helpers: Vec<PathBuf>,
}

/// Default of `[relay] batch-ms`. With the granularity of the runtime's timer it stays below 10 ms,
/// the maximum delay of the last byte of a transfer.
pub const BATCH: Duration = Duration::from_millis(8);
