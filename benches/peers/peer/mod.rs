//! The proxies that are compared, each with the same allow-list of two hosts, and how to reach the
//! origin through them. Each has a file that knows its configuration.

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

/// A way from the client to the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// No proxy.
    Direct,
    /// The relay that only splices.
    Bare,
    /// This program, over CONNECT.
    Pullgate,
    /// Another build of it, to compare with.
    Other,
    /// The same without batching: `[relay] batch-ms = 0`.
    Unbatched,
    /// This program, for redirected traffic.
    Transparent,
    /// HAProxy by SNI, `option splice-auto`.
    HaproxyAuto,
    /// HAProxy by SNI, splice forced both ways.
    HaproxySplice,
    /// HAProxy as it refuses a CONNECT: with an answer. It cannot grant one.
    HaproxyConnect,
    /// nginx by SNI, `ssl_preread`.
    Nginx,
    /// Squid over CONNECT, which peeks at the hello as this program does.
    SquidPeek,
    /// Squid over CONNECT alone.
    Squid,
    /// Traffic Server over CONNECT.
    TrafficServer,
}

impl Kind {
    pub const ALL: [Self; 13] = [
        Self::Direct,
        Self::Bare,
        Self::Pullgate,
        Self::Other,
        Self::Unbatched,
        Self::Transparent,
        Self::HaproxyAuto,
        Self::HaproxySplice,
        Self::HaproxyConnect,
        Self::Nginx,
        Self::SquidPeek,
        Self::Squid,
        Self::TrafficServer,
    ];

    /// By which it is chosen on the command line.
    pub fn code(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Bare => "bare",
            Self::Pullgate => "pullgate",
            Self::Other => "other",
            Self::Unbatched => "unbatched",
            Self::Transparent => "transparent",
            Self::HaproxyAuto => "haproxy",
            Self::HaproxySplice => "haproxy-splice",
            Self::HaproxyConnect => "haproxy-connect",
            Self::Nginx => "nginx",
            Self::SquidPeek => "squid-peek",
            Self::Squid => "squid",
            Self::TrafficServer => "traffic-server",
        }
    }

    /// As tables name it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Direct => "no proxy",
            Self::Bare => "a bare splice relay",
            Self::Pullgate => "pullgate",
            Self::Other => "pullgate, the other build",
            Self::Unbatched => "pullgate, `batch-ms = 0`",
            Self::Transparent => "pullgate, transparent",
            Self::HaproxyAuto => "HAProxy, SNI, `splice-auto`",
            Self::HaproxySplice => "HAProxy, SNI, splice forced",
            Self::HaproxyConnect => "HAProxy, 403 to CONNECT",
            Self::Nginx => "nginx, `ssl_preread`",
            Self::SquidPeek => "Squid, CONNECT and peek",
            Self::Squid => "Squid, CONNECT only",
            Self::TrafficServer => "Traffic Server, CONNECT",
        }
    }

    /// Whether it is another's program.
    pub fn is_peer(self) -> bool {
        let own = [Self::Pullgate, Self::Other, Self::Unbatched, Self::Transparent];
        self.is_policed() && !own.contains(&self)
    }

    /// Whether it has an allow-list.
    pub fn is_policed(self) -> bool {
        !matches!(self, Self::Direct | Self::Bare)
    }

    /// Whether it carries what its allow-list has.
    pub fn carries(self) -> bool {
        self != Self::HaproxyConnect
    }

    /// The program that it needs, and Debian's package.
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
    /// Where it connects.
    pub address: SocketAddr,
    /// How it asks for a host, where it has to ask.
    pub ask: Ask,
}

/// What a client says before its hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Nothing: the hello's name is enough.
    Nothing,
    /// CONNECT, with this port behind the host's name.
    Connect(u16),
}

/// A proxy that runs, or none.
pub struct Peer {
    pub kind: Kind,
    pub route: Route,
    pub version: String,
    running: Running,
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

/// What came of starting one.
pub enum Started {
    Peer(Box<Peer>),
    /// It is not installed: Debian's package.
    Absent(&'static str),
}

/// What each configuration is made from.
struct Place<'a> {
    /// For the proxy's files.
    folder: &'a Path,
    /// Where it listens.
    address: SocketAddr,
    origin: SocketAddr,
    /// How many descriptors it may have.
    descriptors: u64,
    /// How many tunnels it must be ready for, each with two descriptors.
    tunnels: u64,
    /// pullgate's other build.
    other: Option<&'a Path>,
}

/// Starts a proxy in front of an origin, with its files in `folder`.
pub fn start(
    kind: Kind,
    folder: &Path,
    origin: u16,
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
    let origin_address = loopback(origin);
    let place = Place {
        folder: &folder,
        address,
        origin: origin_address,
        descriptors,
        tunnels: descriptors * 19 / 40,
        other,
    };
    let by_name = Route { address, ask: Ask::Nothing };
    let by_connect = Route { address, ask: Ask::Connect(origin) };
    let (route, version, running) = match kind {
        Kind::Direct => {
            let route = Route { address: origin_address, ask: Ask::Nothing };
            (route, String::new(), Running::Nothing)
        }
        Kind::Bare => {
            let mut role = Role::start(&["bare", &origin_address.to_string()])?;
            let port = role.says()?.parse()?;
            let route = Route { address: loopback(port), ask: Ask::Nothing };
            (route, String::new(), Running::Role(role))
        }
        Kind::Pullgate | Kind::Other | Kind::Unbatched | Kind::Transparent => {
            let daemon = pullgate::start(kind, &place)?;
            let ask = if kind == Kind::Transparent { Ask::Nothing } else { Ask::Connect(443) };
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
    Ok(Started::Peer(Box::new(Peer { kind, route, version, running })))
}

/// What a program says of its version: the first word with a digit after a dot.
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
