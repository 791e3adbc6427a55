//! The machine's own addresses.

use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

/// Returns the addresses of all interfaces; an empty list if the system call fails.
#[must_use]
pub fn interfaces() -> Vec<IpAddr> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    let mut found: Vec<IpAddr> =
        interfaces.filter_map(|interface| ip_of(&interface.address?)).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| address.ip().into());
    v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    #[test]
    fn loopback_is_ours() {
        assert!(super::interfaces().contains(&Ipv4Addr::LOCALHOST.into()));
    }
}
