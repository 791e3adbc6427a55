//! The compared proxies, each with the same allow-list of two hosts, and how to reach the origin
//! through them. The configuration of each is in its own file.

mod docker_registry;
mod haproxy;
mod kind;
mod nginx;
mod nginx_reverse;
mod place;
mod pullgate;
mod squid;
mod traffic_server;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

pub use kind::Kind;
use place::Place;
use rustls::ClientConfig;

use crate::certificate::Certificate;
use crate::client::client_of_proxy;
use crate::process::{Daemon, Role};

/// How a client reaches the origin.
#[derive(Debug, Clone)]
pub struct Route {
    /// The address that the client connects to.
    pub address: SocketAddr,
    /// How it requests a host.
    pub ask: Ask,
    /// How it speaks TLS to the proxy, if it does.
    pub tls: Option<Arc<ClientConfig>>,
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
    /// What its clients trust in place of the origin's certificate, in DER.
    pub certificate: Option<Vec<u8>>,
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

/// Starts a proxy in front of an origin, with its files in `folder`.
// long: an arm for each kind of proxy.
pub fn start(
    kind: Kind,
    folder: &Path,
    (origin, certificate): (SocketAddr, &[u8]),
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
        certificate,
        other,
    };
    let route = |address, ask| Route { address, ask, tls: None };
    let by_name = route(address, Ask::Nothing);
    let by_connect = route(address, Ask::Connect(origin.port()));
    let by_gate = route(address, Ask::Connect(443));
    let (mut parent, mut trusted) = (None, None);
    let (route, version, running) = match kind {
        Kind::Direct => (route(origin, Ask::Nothing), String::new(), Running::Nothing),
        Kind::Bare => {
            let mut role = Role::start(&["bare", &origin.to_string()])?;
            let port = role.says()?.parse()?;
            (route(loopback(port), Ask::Nothing), String::new(), Running::Role(role))
        }
        Kind::Pullgate | Kind::Other | Kind::Unbatched | Kind::Transparent | Kind::Verifying => {
            let daemon = pullgate::start(kind, &place)?;
            let route = if kind == Kind::Transparent { by_name } else { by_gate };
            (route, pullgate::version(), Running::Daemon(daemon))
        }
        Kind::ProxyTls | Kind::OtherProxyTls | Kind::HaproxyTls => {
            let own = Certificate::of_hosts()?;
            let tls = Some(client_of_proxy(&own.der)?);
            let (daemon, version, route) = match kind {
                Kind::HaproxyTls => {
                    (haproxy::start_with_tls(&place, &own)?, haproxy::version(), by_name)
                }
                _ => {
                    let files = own.write(&folder)?;
                    let daemon = pullgate::start_with_tls(kind, &place, &files)?;
                    (daemon, pullgate::version(), by_gate)
                }
            };
            (Route { tls, ..route }, version, Running::Daemon(daemon))
        }
        Kind::HttpsParent | Kind::OtherHttpsParent | Kind::HaproxyTlsServer => {
            let at = loopback(crate::process::free_port()?);
            let files = Certificate::of_hosts()?.write(&folder)?;
            parent = Some(pullgate::start_second(kind, &place, at, Some(&files))?);
            let (daemon, version) = match kind {
                Kind::HaproxyTlsServer => {
                    let daemon = haproxy::start_before_parent(&place, (at, &files.0))?;
                    (daemon, haproxy::version())
                }
                _ => {
                    let daemon = pullgate::start_before(kind, &place, at, Some(&files.0))?;
                    (daemon, pullgate::version())
                }
            };
            (by_gate, version, Running::Daemon(daemon))
        }
        Kind::Mirror | Kind::NginxReverse | Kind::DockerRegistry => {
            let own = Certificate::of_hosts()?;
            let files = own.write(&folder)?;
            trusted = Some(own.der);
            let (daemon, version) = match kind {
                Kind::Mirror => (pullgate::start_mirror(&place, &files)?, pullgate::version()),
                Kind::NginxReverse => (nginx_reverse::start(&place, &files)?, nginx::version()),
                _ => (docker_registry::start(&place, &files)?, docker_registry::version()),
            };
            (by_name, version, Running::Daemon(daemon))
        }
        Kind::Inspected => {
            let (daemon, authority) = pullgate::start_inspecting(&place)?;
            trusted = Some(authority);
            (by_gate, pullgate::version(), Running::Daemon(daemon))
        }
        Kind::SquidBump => {
            let authority = Certificate::of_authority()?;
            let daemon = squid::start_decrypting(&place, &authority)?;
            trusted = Some(authority.der);
            (by_connect, squid::version(), Running::Daemon(daemon))
        }
        Kind::ThroughParent | Kind::BeforeGate => {
            let at = loopback(crate::process::free_port()?);
            parent = Some(pullgate::start_second(kind, &place, at, None)?);
            let daemon = pullgate::start_before(kind, &place, at, None)?;
            (by_gate, pullgate::version(), Running::Daemon(daemon))
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
    let certificate = trusted;
    Ok(Started::Peer(Box::new(Peer {
        kind,
        route,
        version,
        certificate,
        running,
        _parent: parent,
    })))
}
