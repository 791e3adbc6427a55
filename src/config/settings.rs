//! What takes effect at start only: listeners, admin, audit, process.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::tls::TlsPaths;
use crate::policy::Enforcement;

/// How clients come to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As to a forward proxy, with CONNECT.
    Connect,
    /// Without knowing: their traffic is brought here, and the hello names the target.
    Transparent(Capture),
    /// As to a registry.
    Mirror,
}

/// How traffic is brought to a transparent listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capture {
    /// nftables' `redirect` or `dnat`; the kernel keeps the destination that it replaced.
    Redirect,
    /// nftables' `tproxy`; the connection keeps its destination. Listening takes CAP_NET_ADMIN.
    Tproxy,
}

impl Mode {
    /// The word of the configuration.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Transparent(_) => "transparent",
            Self::Mirror => "mirror",
        }
    }
}

/// A `[[listen]]`. The sockets, the sessions and the admin pages share it from the start on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSpec {
    /// How clients reach it.
    pub mode: Mode,
    /// Its address. Port 0 stands for a free port, until the socket is bound.
    pub address: SocketAddr,
    /// The address as text, as audit lines carry it.
    pub name: Arc<str>,
    /// Its own enforcement, which takes precedence over the policy's.
    pub enforcement: Option<Enforcement>,
    /// The networks of load balancers, which must send a PROXY header. `None`: no header is read.
    pub balancers: Option<Vec<IpNet>>,
    /// TLS towards clients; `None`: it speaks none.
    pub tls: Option<TlsPaths>,
}

impl ListenerSpec {
    /// Returns the same listener at another address: the one that its socket has been bound to.
    #[must_use]
    pub fn bound_at(&self, address: SocketAddr) -> Self {
        Self { address, name: address.to_string().into(), ..self.clone() }
    }
}

/// The DNS server for the clients of a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answerer {
    /// Where it is asked, over UDP and TCP; at least one, each a single address and a port.
    pub addresses: Vec<SocketAddr>,
    /// What it says of an allowed name.
    pub answer: Answer,
    /// So many queries of one client are answered in a second.
    pub queries_per_second: u32,
}

/// What an answerer says of an allowed name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The gate's own addresses: clients come to a transparent listener there.
    Gate(Vec<IpAddr>),
    /// Where the name resolves to, as far as it may be dialled.
    Real,
}

/// Where the operator looks in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket, relative to the main file's folder where it is not absolute.
    Unix(PathBuf),
}

/// Where audit lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditTarget {
    /// Standard output.
    StandardOutput,
    /// A file, relative to the main file's folder where it is not absolute.
    File(PathBuf),
    /// The socket of a syslog service.
    Syslog(PathBuf),
    /// The socket of systemd's journal.
    Journal(PathBuf),
}

/// What becomes of new sessions while the audit cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFull {
    /// They are served.
    #[default]
    GoOn,
    /// They are refused.
    Stop,
}

/// Whether a second process may listen at the gate's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ports {
    /// None may.
    #[default]
    Own,
    /// One of the same user may (SO_REUSEPORT), so that it takes over before this one ends.
    Shared,
}

/// Which files the process may reach, beside what their modes allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FileAccess {
    /// Those that it needs (Landlock).
    #[default]
    Needed,
    /// Any.
    All,
}

/// How much of the machine the gate is to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// A thread for each processor.
    #[default]
    Normal,
    /// One thread, few sessions and small pipes: for a gateway with little memory.
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
    /// Further folders and files that may be read, relative to the main file's folder where they
    /// are not absolute.
    pub readable: Vec<PathBuf>,
}

/// What takes effect at start only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where clients come in; at least one.
    pub listeners: Vec<Arc<ListenerSpec>>,
    /// The DNS server for a gateway's clients, if there is one.
    pub answerer: Option<Answerer>,
    /// Where the operator looks in, if anywhere.
    pub admin: Option<AdminAddress>,
    /// Where audit lines go.
    pub audit: AuditTarget,
    /// What becomes of new sessions while they cannot be written.
    pub on_full: OnFull,
    /// The longest that bytes of a bulk flow wait for more; `None`: not at all.
    pub batch: Option<Duration>,
    /// What concerns the process as a whole.
    pub conduct: Conduct,
}

/// How long bytes of a bulk flow wait for more where `[relay] batch-ms` is silent. With what the
/// runtime's clock adds it stays below 10 ms, the most that a transfer's last byte may be late.
pub const BATCH: Duration = Duration::from_millis(8);
