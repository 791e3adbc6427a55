//! The address of a DNS server, in the syntax of `[dns] servers` and resolv.conf(5).

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The port of DNS.
const DNS: u16 = 53;

/// Maximum length of an interface name, in bytes (IFNAMSIZ - 1).
const LONGEST_ZONE: usize = 15;

/// The address of a DNS server: IP address, port and, for a link-local address, its zone.
///
/// The zone stays text, because only the kernel knows the index of an interface, and it can change.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NameServer {
    ip: IpAddr,
    port: u16,
    zone: Option<Box<str>>,
}

impl NameServer {
    /// Parses `10.0.0.2`, `10.0.0.2:5353`, `fd00::53`, `[fd00::53]:5353`, `fe80::53%eth0` or
    /// `[fe80::53%eth0]:5353`. `None` for anything else, such as a zone on an address that is not
    /// link-local.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let Some((before, after)) = text.split_once('%') else {
            let alone = || text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, DNS));
            return text.parse().ok().or_else(alone).map(Self::from);
        };
        let (ip, zone, port) = match before.strip_prefix('[') {
            Some(ip) => {
                let (zone, port) = after.split_once("]:")?;
                (ip, zone, port.parse().ok()?)
            }
            None => (before, after, DNS),
        };
        let ip: IpAddr = ip.parse().ok()?;
        (is_link_local(ip) && is_zone(zone)).then(|| Self { ip, port, zone: Some(zone.into()) })
    }

    /// Returns the IP address.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Returns the port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the name or index of the interface of a link-local address.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// Returns whether the address requires a zone but has none.
    #[must_use]
    pub fn lacks_zone(&self) -> bool {
        self.zone.is_none() && is_link_local(self.ip)
    }
}

/// Returns whether the address is in fe80::/10, which every interface has (RFC 4291 §2.5.6).
fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// Returns whether a text is an interface name or an index.
fn is_zone(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_graphic() && !b"/:%]".contains(&byte);
    (1..=LONGEST_ZONE).contains(&text.len()) && text.bytes().all(is_allowed)
}

impl From<SocketAddr> for NameServer {
    fn from(address: SocketAddr) -> Self {
        let zone = match address {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => Some(v6.scope_id().to_string().into()),
            _ => None,
        };
        Self { ip: address.ip(), port: address.port(), zone }
    }
}

impl fmt::Display for NameServer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.zone {
            Some(zone) => write!(out, "[{}%{zone}]:{}", self.ip, self.port),
            None => SocketAddr::new(self.ip, self.port).fmt(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_and_written_back() {
        let cases: &[(&str, Option<&str>)] = &[
            ("10.0.0.2", Some("10.0.0.2:53")),
            ("127.0.0.1:5353", Some("127.0.0.1:5353")),
            ("fd00::53", Some("[fd00::53]:53")),
            ("[fd00::53]:5353", Some("[fd00::53]:5353")),
            ("fe80::53", Some("[fe80::53]:53")),
            ("fe80::53%eth0", Some("[fe80::53%eth0]:53")),
            ("fe80::53%2", Some("[fe80::53%2]:53")),
            ("[fe80::53%eth0.100]:5353", Some("[fe80::53%eth0.100]:5353")),
            ("fe80::53%a-name-too-long1", None),
            ("fe80::53%", None),
            ("fe80::53%eth0%eth1", None),
            ("[fe80::53%eth0]", None),
            ("[fe80::53%eth0]:", None),
            ("fe80::53%eth0:53", None),
            ("fe80::53%et h0", None),
            ("fe80::53%../eth0", None),
            ("fd00::53%eth0", None),
            ("10.0.0.2%eth0", None),
            ("ns.example.com", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let parsed = NameServer::parse(text);
            assert_eq!(parsed.as_ref().map(ToString::to_string).as_deref(), *expected, "{text:?}");
            if let Some(parsed) = parsed {
                assert_eq!(NameServer::parse(&parsed.to_string()), Some(parsed), "{text:?}");
            }
        }
        assert!(NameServer::parse("fe80::53").unwrap().lacks_zone());
        assert!(!NameServer::parse("fe80::53%eth0").unwrap().lacks_zone());
        let scoped: SocketAddr = "[fe80::53%3]:53".parse().unwrap();
        assert_eq!(NameServer::from(scoped).zone(), Some("3"));
    }
}
