//! The bytes that a parent receives first: a PROXY header if it wants one, and CONNECT. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::policy::{GateId, Via};

/// On whose behalf a connection is made.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// The client, for parents that want a PROXY header. `None`: the gate itself.
    pub client: Option<SocketAddr>,
    /// Where the client reached the gate.
    pub listener: Option<SocketAddr>,
    /// The gates that its request has passed.
    pub via: Via,
}

/// Writes a CONNECT request. `authority`: `host:port`, valid by construction.
pub(super) fn connect(
    authority: &str,
    via: &Via,
    own: GateId,
    authorization: Option<&str>,
) -> Vec<u8> {
    let mut head = format!(
        "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nVia: {}\r\n",
        via.through(own)
    );
    if let Some(value) = authorization {
        head.push_str("Proxy-Authorization: ");
        head.push_str(value);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// Writes a version 2 header of the PROXY protocol: the client's address, or LOCAL without one.
pub(super) fn proxy_header(caller: &Caller) -> Vec<u8> {
    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    const LOCAL: u8 = 0x20;
    const PROXY: u8 = 0x21;
    let mut header = SIGNATURE.to_vec();
    let Some(client) = caller.client else {
        header.extend([LOCAL, 0, 0, 0]);
        return header;
    };
    let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let listener = caller.listener.unwrap_or(unknown);
    let ports = [client.port().to_be_bytes(), listener.port().to_be_bytes()].concat();
    match (client.ip().to_canonical(), listener.ip().to_canonical()) {
        (IpAddr::V4(client), IpAddr::V4(listener)) => {
            header.extend([PROXY, 0x11, 0, 12]);
            header.extend(client.octets());
            header.extend(listener.octets());
        }
        (client, listener) => {
            header.extend([PROXY, 0x21, 0, 36]);
            header.extend(six(client).octets());
            header.extend(six(listener).octets());
        }
    }
    header.extend(ports);
    header
}

/// The address as IPv6; an IPv4 address is mapped.
fn six(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_one_head() {
        let own = GateId::new(7);
        let bytes = connect("contoso.azurecr.io:443", &Via::default(), own, Some("Basic YTpi"));
        let expected = "CONNECT contoso.azurecr.io:443 HTTP/1.1\r\nHost: contoso.azurecr.io:443\r\n\
                        Via: 1.1 pullgate-0000000000000007\r\nProxy-Authorization: Basic YTpi\r\n\r\n";
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn proxy_headers_are_read_back() {
        for (client, listener) in [
            (Some("10.7.0.2:40000"), Some("10.7.0.1:3128")),
            (Some("[fd07::2]:40000"), Some("[fd07::1]:3128")),
            (Some("[fd07::2]:40000"), Some("10.7.0.1:3128")),
            (Some("10.7.0.2:40000"), None),
            (None, None),
        ] {
            let parsed = |text: Option<&str>| text.map(|text| text.parse::<SocketAddr>().unwrap());
            let caller =
                Caller { client: parsed(client), listener: parsed(listener), via: Via::default() };
            let header = proxy_header(&caller);
            let (info, length) = proxy_protocol_rs::parse(&header).unwrap();
            assert_eq!(length, header.len());
            let source = info.source_ip().map(|ip| ip.to_canonical());
            assert_eq!(source, caller.client.map(|client| client.ip()));
        }
    }
}
