//! Parses hosts and address ranges of the configuration.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

use super::addresses::{Class, class_of};
use super::name::{Name, NameError};
use super::target::{Target, parse_port};

/// Why a text is not a valid host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostFault {
    /// Its name is invalid.
    #[error("the host {0}")]
    Name(#[from] NameError),
    /// Its port is invalid.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// It has a scheme, a path or user information.
    #[error("it is a URL or a path, not a host")]
    Form,
}

impl HostFault {
    /// Returns the remedy.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Name(NameError::Wildcard) => "name each host",
            Self::Name(NameError::TrailingDot) => "write it without the dot",
            Self::Name(NameError::SingleLabel) => "write the name in full",
            Self::Name(_) | Self::Port | Self::Form => {
                "write host or host:port, as az acr show-endpoints prints it"
            }
        }
    }
}

/// Parses a host: a name and an optional port (default 443).
///
/// # Errors
/// What is wrong with the name or the port.
pub fn parse_host(text: &str) -> Result<Target, HostFault> {
    let target = parse_host_or_label(text)?;
    if target.name.is_single_label() { Err(NameError::SingleLabel.into()) } else { Ok(target) }
}

/// Parses a host whose name can have one label only.
///
/// # Errors
/// What is wrong with the name or the port.
pub fn parse_host_or_label(text: &str) -> Result<Target, HostFault> {
    if text.contains(['/', '@']) {
        return Err(HostFault::Form);
    }
    match text.split_once(':') {
        None => Ok(Target::https(Name::parse_or_label(text)?)),
        Some((_, rest)) if rest.contains(':') => Err(NameError::IpLiteral.into()),
        Some((host, port)) => {
            let name = Name::parse_or_label(host)?;
            Ok(Target { name, port: parse_port(port).ok_or(HostFault::Port)? })
        }
    }
}

/// Parses a range, or a single address as a range of one. A v4-mapped range becomes the IPv4 range,
/// because addresses are compared in that form.
#[must_use]
pub fn parse_range(text: &str) -> Option<IpNet> {
    let alone = || text.parse::<IpAddr>().map(IpNet::from);
    let range = text.parse::<IpNet>().ok().or_else(|| alone().ok())?.trunc();
    let IpNet::V6(six) = range else { return Some(range) };
    let inner = six.network().to_ipv4_mapped().zip(six.prefix_len().checked_sub(MAPPED));
    match inner {
        Some((network, prefix)) => Ipv4Net::new(network, prefix).ok().map(IpNet::V4),
        None => Some(range),
    }
}

/// The length of `::ffff:0:0/96` (RFC 4291 §2.5.5.2).
const MAPPED: u8 = Ipv6Addr::BITS as u8 - std::net::Ipv4Addr::BITS as u8;

/// Returns why no address in a range can be dialled, whatever the configuration says.
///
/// A wide range can contain such addresses, which stay denied. If both ends are in the same denied
/// block, the whole range is, and allowing it is an error.
#[must_use]
pub fn never_dialled(range: &IpNet) -> Option<&'static str> {
    match (class_of(range.network()), class_of(range.broadcast())) {
        (Class::Never(first), Class::Never(last)) if first == last => Some(first),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let cases = [
            ("contoso.azurecr.io", Some("contoso.azurecr.io:443")),
            ("Contoso.AzureCR.io:8443", Some("contoso.azurecr.io:8443")),
            ("contoso.azurecr.io:", None),
            ("contoso.azurecr.io:0", None),
            ("contoso.azurecr.io:65536", None),
            ("https://contoso.azurecr.io", None),
            ("contoso.azurecr.io/", None),
            (" contoso.azurecr.io", None),
            ("10.0.0.1", None),
            ("10.0.0.1:443", None),
            ("[::1]:443", None),
            ("::1", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let found = parse_host(text).map(|target| target.to_string()).ok();
            assert_eq!(found.as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn ranges_and_whether_anything_in_them_is_ever_dialled() {
        let cases = [
            ("10.1.0.0/24", Some("10.1.0.0/24"), false),
            ("10.1.0.7/24", Some("10.1.0.0/24"), false),
            ("10.1.0.7", Some("10.1.0.7/32"), false),
            ("fd00:1::/64", Some("fd00:1::/64"), false),
            ("::ffff:10.1.0.0/120", Some("10.1.0.0/24"), false),
            ("::ffff:169.254.169.254", Some("169.254.169.254/32"), true),
            ("10.1.0.0/33", None, false),
            ("10.1.0", None, false),
            ("", None, false),
            ("169.254.169.254/32", Some("169.254.169.254/32"), true),
            ("169.254.0.0/16", Some("169.254.0.0/16"), true),
            ("168.63.129.16", Some("168.63.129.16/32"), true),
            ("168.63.128.0/20", Some("168.63.128.0/20"), false),
            ("100.100.100.200", Some("100.100.100.200/32"), true),
            ("100.64.0.0/10", Some("100.64.0.0/10"), false),
            ("224.0.0.0/4", Some("224.0.0.0/4"), true),
            ("fe80::/10", Some("fe80::/10"), true),
            ("ff00::/8", Some("ff00::/8"), true),
            ("fd00:ec2::254", Some("fd00:ec2::254/128"), true),
            ("fc00::/7", Some("fc00::/7"), false),
            ("0.0.0.0/0", Some("0.0.0.0/0"), false),
            ("::/0", Some("::/0"), false),
        ];
        for (text, expected, never) in cases {
            let range = parse_range(text);
            assert_eq!(range.map(|range| range.to_string()).as_deref(), expected, "{text:?}");
            assert_eq!(range.is_some_and(|range| never_dialled(&range).is_some()), never, "{text}");
        }
    }
}
