//! Tests ways to bypass the firewall rules of this machine, as an ordinary user: another machine's
//! address as the source, and the source ports of the gate's DNS queries.
//!
//! Whether a packet left cannot be observed here. What can be observed is whether the kernel
//! refused to send it (EPERM), as it does for packets that an output rule drops.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;

use socket2::{Domain, Socket, Type};

use super::dns;
use super::verdict::{Found, MARK, Verdict, describe, found};
use crate::policy::Name;

/// The ports that unprivileged programs can bind.
const PORTS: RangeInclusive<u16> = 1024..=u16::MAX;

/// The destination port of datagrams. No service listens there (RFC 863).
const DISCARD: u16 = 9;

/// Binds another machine's address, which `IPV6_FREEBIND` allows without privileges, sends from it
/// to this machine, and answers: the answer then belongs to a connection that seems to come from
/// outside.
pub(super) fn forged_source(outside: Ipv6Addr) -> Found {
    match try_forged_source(outside) {
        Ok(found) => found,
        Err(error) => found(Verdict::Closed, describe(&error)),
    }
}

fn try_forged_source(outside: Ipv6Addr) -> io::Result<Found> {
    let answering = own_socket(outside)?;
    if !is_restricted(&answering, (outside, DISCARD).into()) {
        return Ok(unrestricted());
    }
    let forging = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
    rustix::net::sockopt::set_ipv6_freebind(&forging, true)?;
    forging.bind(&SocketAddr::from((outside, 0)).into())?;
    let forging = UdpSocket::from(forging);
    forging.send_to(MARK.as_bytes(), answering.local_addr()?)?;
    // ICMP errors of the kernel go to the forged address as well, even if this answer does not.
    Ok(match answering.send_to(MARK.as_bytes(), forging.local_addr()?) {
        Ok(_) => found(Verdict::Open, "an answer to it is sent"),
        Err(_) => found(Verdict::Unsure, "it is accepted on this machine"),
    })
}

/// Queries a DNS server from every port, after the gate has queried it: rules that accept
/// established connections of the gate would accept one of these.
pub(super) fn sweep(server: SocketAddr, name: &Name) -> Found {
    let question = dns::question(name);
    let any = match server.ip() {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    match UdpSocket::bind((any, 0)) {
        Ok(socket) if is_restricted(&socket, server) => {}
        Ok(_) => return unrestricted(),
        Err(error) => return found(Verdict::Closed, describe(&error)),
    }
    let sent = PORTS.into_iter().find(|port| {
        let socket = UdpSocket::bind((any, *port));
        socket.is_ok_and(|socket| socket.send_to(&question, server).is_ok())
    });
    match sent {
        Some(port) => found(Verdict::Open, format!("a query is sent from port {port}")),
        None => found(Verdict::Closed, "no port can send to it"),
    }
}

fn unrestricted() -> Found {
    found(Verdict::Skipped, "no rule of this machine itself drops what it sends")
}

/// Returns a socket with the address that this machine would send from.
fn own_socket(outside: Ipv6Addr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
    socket.connect((outside, DISCARD))?;
    UdpSocket::bind((socket.local_addr()?.ip(), 0))
}

/// Returns whether a rule of this machine drops an ordinary datagram.
fn is_restricted(socket: &UdpSocket, to: SocketAddr) -> bool {
    let sent = socket.send_to(MARK.as_bytes(), to);
    sent.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}
