//! Binds all addresses before any is served: all or nothing.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, bail};

use super::inherited::Inherited;
use crate::admin;
use crate::config::{AdminAddress, ListenerSpec, Ports, Settings};
use crate::dns;
use crate::listen::listener::{BoundSocket, Sharing, bind_udp_and_tcp};

/// The sockets of the gate. None listens for sessions yet.
#[derive(Debug)]
pub(super) struct BoundSockets {
    /// With the bound addresses, if the configuration has port 0.
    pub(super) listeners: Vec<(Arc<ListenerSpec>, BoundSocket)>,
    pub(super) dns: Vec<dns::Bound>,
    pub(super) admin: Option<admin::Socket>,
}

impl BoundSockets {
    /// Binds the addresses of the settings, or uses inherited sockets.
    ///
    /// # Errors
    /// If an address cannot be bound, or an inherited socket is not in the settings.
    pub(super) fn bind(settings: &Settings, inherited: &mut Inherited) -> anyhow::Result<Self> {
        let ports = settings.conduct.ports;
        if settings.listeners.is_empty() {
            bail!("the configuration has no [[listen]]");
        }
        let listeners = settings.listeners.iter();
        let listeners = listeners.map(|spec| bind_listener(spec, inherited, ports));
        let listeners = listeners.collect::<anyhow::Result<_>>()?;
        let dns = settings.answerer.iter().flat_map(|dns| &dns.addresses);
        let dns = dns.map(|address| bind_dns(*address, ports)).collect::<anyhow::Result<_>>()?;
        let admin = settings.admin.as_ref();
        let admin = admin.map(|address| bind_admin(address, inherited, ports)).transpose();
        let admin = admin.context("the admin listener")?;
        inherited.nothing_left()?;
        Ok(Self { listeners, dns, admin })
    }

    /// Returns the addresses of the listeners and the DNS server.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let listeners = self.listeners.iter().map(|(spec, _)| spec.address);
        listeners.chain(self.dns.iter().map(dns::Bound::address)).collect()
    }

    /// Returns who else can serve the clients of the gate.
    pub(super) fn sharing(&self) -> Sharing {
        self.listeners.first().map_or(Sharing::Exclusive, |(_, socket)| socket.sharing())
    }
}

fn bind_listener(
    spec: &ListenerSpec,
    inherited: &mut Inherited,
    ports: Ports,
) -> anyhow::Result<(Arc<ListenerSpec>, BoundSocket)> {
    let bound = match inherited.tcp(spec.address) {
        Some(listener) => {
            let socket = BoundSocket::inherited(listener);
            socket.prepare_for(spec).map(|()| socket)
        }
        None => BoundSocket::bind_listener(spec, ports)
            .map_err(|error| inherited.explain(error, spec.address)),
    };
    let socket = bound
        .map_err(|error| with_capability(error, spec.address))
        .with_context(|| format!("cannot listen on {}", spec.address))?;
    let spec = spec.bound_at(socket.address()?);
    Ok((Arc::new(spec), socket))
}

fn bind_dns(address: SocketAddr, ports: Ports) -> anyhow::Result<dns::Bound> {
    let (udp, tcp) = bind_udp_and_tcp(address, ports)
        .map_err(|error| with_capability(error, address))
        .with_context(|| format!("cannot answer DNS on {address}"))?;
    Ok(dns::Bound::new(address, udp, tcp))
}

fn bind_admin(
    address: &AdminAddress,
    inherited: &mut Inherited,
    ports: Ports,
) -> io::Result<admin::Socket> {
    match address {
        AdminAddress::Tcp(address) => {
            let socket = match inherited.tcp(*address) {
                Some(listener) => BoundSocket::inherited(listener),
                None => BoundSocket::bind(*address, ports)
                    .map_err(|error| inherited.explain(error, *address))?,
            };
            admin::Socket::tcp(socket.listen_here()?)
        }
        AdminAddress::Unix(path) => match inherited.unix(path) {
            Some(listener) => admin::Socket::inherited(listener),
            None => admin::Socket::unix(path, ports),
        },
    }
}

/// Adds the capability that a port below 1024 needs to the error, if it is missing.
fn with_capability(error: io::Error, address: SocketAddr) -> io::Error {
    let is_bare = error.raw_os_error().is_some();
    if !(is_bare && error.kind() == io::ErrorKind::PermissionDenied && address.port() < 1024) {
        return error;
    }
    io::Error::new(
        error.kind(),
        "ports below 1024 need the capability CAP_NET_BIND_SERVICE: give it to the process \
         (AmbientCapabilities=CAP_NET_BIND_SERVICE in its unit), or choose another port",
    )
}
