//! The compared proxies, each with the same allow-list of two hosts, and how to reach the origin
//! through them. The configuration of each is in its own file.

mod haproxy;
mod nginx;
mod pullgate;
mod squid;
mod traffic_server;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::process::{Daemon, Role};

/// A path from the client to the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// No proxy.
    Direct,
    /// The bare relay that only splices.
    Bare,
    /// pullgate with CONNECT.
    Pullgate,
    /// Another build of pullgate, for comparison.
    Other,
    /// pullgate without batching: `[relay] batch-ms = 0`.
    Unbatched,
    /// pullgate with a transparent listener.
    Transparent,
    /// pullgate behind a second one as its parent proxy, whose cost does not count.
    ThroughParent,
    /// HAProxy by SNI, `option splice-auto`.
    HaproxyAuto,
    /// HAProxy by SNI, splice forced in both directions.
    HaproxySplice,
    /// HAProxy that rejects a CONNECT with an answer. It cannot accept one.
    HaproxyConnect,
    /// nginx by SNI, `ssl_preread`.
    Nginx,
    /// Squid with CONNECT, which peeks at the hello like pullgate.
    SquidPeek,
    /// Squid with CONNECT only.
    Squid,
    /// Traffic Server with CONNECT.
    TrafficServer,
}

impl Kind {
    pub const ALL: [Self; 14] = [
        Self::Direct,
        Self::Bare,
        Self::Pullgate,
        Self::Other,
        Self::Unbatched,
        Self::Transparent,
        Self::ThroughParent,
        Self::HaproxyAuto,
        Self::HaproxySplice,
        Self::HaproxyConnect,
        Self::Nginx,
        Self::SquidPeek,
        Self::Squid,
        Self::TrafficServer,
    ];

    /// The code that selects it on the command line.
    pub fn code(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Bare => "bare",
            Self::Pullgate => "pullgate",
            Self::Other => "other",
            Self::Unbatched => "unbatched",
            Self::Transparent => "transparent",
            Self::ThroughParent => "through-parent",
            Self::HaproxyAuto => "haproxy",
            Self::HaproxySplice => "haproxy-splice",
            Self::HaproxyConnect => "haproxy-connect",
            Self::Nginx => "nginx",
            Self::SquidPeek => "squid-peek",
            Self::Squid => "squid",
            Self::TrafficServer => "traffic-server",
        }
    }

    /// The name in the tables.
    pub fn title(self) -> &'static str {
        match self {
            Self::Direct => "no proxy",
            Self::Bare => "a bare splice relay",
            Self::Pullgate => "pullgate",
            Self::Other => "pullgate, the other build",
            Self::Unbatched => "pullgate, `batch-ms = 0`",
            Self::Transparent => "pullgate, transparent",
            Self::ThroughParent => "pullgate, through a parent",
            Self::HaproxyAuto => "HAProxy, SNI, `splice-auto`",
            Self::HaproxySplice => "HAProxy, SNI, splice forced",
            Self::HaproxyConnect => "HAProxy, 403 to CONNECT",
            Self::Nginx => "nginx, `ssl_preread`",
            Self::SquidPeek => "Squid, CONNECT and peek",
            Self::Squid => "Squid, CONNECT only",
            Self::TrafficServer => "Traffic Server, CONNECT",
        }
    }

    /// Whether it is a third-party program.
    pub fn is_peer(self) -> bool {
        let own = [Self::Pullgate, Self::Other, Self::Unbatched, Self::Transparent];
        self.is_policed() && self != Self::ThroughParent && !own.contains(&self)
    }

    /// Whether it has an allow-list.
    pub fn is_policed(self) -> bool {
        !matches!(self, Self::Direct | Self::Bare)
    }

    /// Whether it differs from pullgate in nothing but the way of bulk.
    pub fn is_for_bulk(self) -> bool {
        matches!(self, Self::Unbatched | Self::ThroughParent)
    }

    /// Whether it relays the hosts of its allow-list.
    pub fn carries(self) -> bool {
        self != Self::HaproxyConnect
    }

    /// The program that it needs, and its Debian package.
    fn needs(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::HaproxyAuto | Self::HaproxySplice | Self::HaproxyConnect => {
                Some(("haproxy", "haproxy"))
            }
            Self::Nginx => Some(("nginx", "nginx")),
            Self::SquidPeek | Self::Squid => Some(("squid", "squid-openssl")),
            Self::TrafficServer => Some(("traffic_server", "trafficserver")),
            _ => None,
        }
    }
}

/// How a client reaches the origin.
#[derive(Debug, Clone)]
pub struct Route {
    /// The address that the client connects to.
    pub address: SocketAddr,
    /// How it requests a host.
    pub ask: Ask,
}

/// What a client sends before its hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Nothing: the SNI is sufficient.
    Nothing,
    /// CONNECT to the host with this port.
    Connect(u16),
}

/// A running proxy, or none.
pub struct Peer {
    pub kind: Kind,
    pub route: Route,
    pub version: String,
    running: Running,
    /// What it needs to run, and does not count.
    _parent: Option<Daemon>,
}

enum Running {
    Nothing,
    Daemon(Daemon),
    Role(Role),
}

impl Peer {
    /// The processes whose CPU time and memory are the proxy's.
    pub fn processes(&self) -> Vec<u32> {
        match &self.running {
            Running::Nothing => Vec::new(),
            Running::Daemon(daemon) => daemon.processes(),
            Running::Role(role) => vec![role.pid()],
        }
    }
}

/// The result of starting a proxy.
pub enum Started {
    Peer(Box<Peer>),
    /// It is not installed; contains its Debian package.
    Absent(&'static str),
}

/// The input of each configuration.
struct Place<'a> {
    /// The folder for the proxy's files.
    folder: &'a Path,
    /// Its listening address.
    address: SocketAddr,
    origin: SocketAddr,
    /// Maximum number of descriptors.
    descriptors: u64,
    /// Number of tunnels that it must support, with two descriptors each.
    tunnels: u64,
    /// pullgate's other build.
    other: Option<&'a Path>,
}

/// Starts a proxy in front of an origin, with its files in `folder`.
pub fn start(
    kind: Kind,
    folder: &Path,
    origin: SocketAddr,
    descriptors: u64,
    other: Option<&Path>,
) -> anyhow::Result<Started> {
    if let Some((program, package)) = kind.needs()
        && crate::process::program(program).is_none()
    {
        return Ok(Started::Absent(package));
    }
    let folder = folder.join(kind.code());
    fs::create_dir_all(&folder)?;
    let loopback = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let port = crate::process::free_port()?;
    let address = loopback(port);
    let place = Place {
        folder: &folder,
        address,
        origin,
        descriptors,
        tunnels: descriptors * 19 / 40,
        other,
    };
    let by_name = Route { address, ask: Ask::Nothing };
    let by_connect = Route { address, ask: Ask::Connect(origin.port()) };
    let mut parent = None;
    let (route, version, running) = match kind {
        Kind::Direct => {
            let route = Route { address: origin, ask: Ask::Nothing };
            (route, String::new(), Running::Nothing)
        }
        Kind::Bare => {
            let mut role = Role::start(&["bare", &origin.to_string()])?;
            let port = role.says()?.parse()?;
            let route = Route { address: loopback(port), ask: Ask::Nothing };
            (route, String::new(), Running::Role(role))
        }
        Kind::Pullgate | Kind::Other | Kind::Unbatched | Kind::Transparent => {
            let daemon = pullgate::start(kind, &place)?;
            let ask = if kind == Kind::Transparent { Ask::Nothing } else { Ask::Connect(443) };
            (Route { address, ask }, pullgate::version(), Running::Daemon(daemon))
        }
        Kind::ThroughParent => {
            let at = loopback(crate::process::free_port()?);
            parent = Some(pullgate::start_parent(&place, at)?);
            let daemon = pullgate::start_behind(&place, at)?;
            let ask = Ask::Connect(443);
            (Route { address, ask }, pullgate::version(), Running::Daemon(daemon))
        }
        Kind::HaproxyAuto | Kind::HaproxySplice | Kind::HaproxyConnect => {
            let daemon = haproxy::start(kind, &place)?;
            let route = if kind.carries() { by_name } else { by_connect };
            (route, haproxy::version(), Running::Daemon(daemon))
        }
        Kind::Nginx => {
            let daemon = nginx::start(&place)?;
            (by_name, nginx::version(), Running::Daemon(daemon))
        }
        Kind::SquidPeek | Kind::Squid => {
            let daemon = squid::start(kind, &place)?;
            (by_connect, squid::version(), Running::Daemon(daemon))
        }
        Kind::TrafficServer => {
            let daemon = traffic_server::start(&place)?;
            (by_connect, traffic_server::version(), Running::Daemon(daemon))
        }
    };
    Ok(Started::Peer(Box::new(Peer { kind, route, version, running, _parent: parent })))
}

/// Returns a program's version: the first word of its output with a digit after a dot.
fn version_of(program: &str, argument: &str) -> String {
    let Some(path) = crate::process::program(program) else { return String::new() };
    let Ok(output) = std::process::Command::new(path).arg(argument).output() else {
        return String::new();
    };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let number = |word: &&str| word.contains('.') && word.bytes().any(|one| one.is_ascii_digit());
    let word = said.split([' ', '/', '\n']).find(number).unwrap_or_default();
    word.split('-').next().unwrap_or_default().to_owned()
}
