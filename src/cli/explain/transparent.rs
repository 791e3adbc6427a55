//! Explains transparent connections: the answer of the gate's DNS server, the original destination
//! and the TLS alert.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use crate::account::Headed;
use crate::config::{AnswerWith, Mode, Settings};
use crate::policy::ExplainedClient;
use crate::policy::{HTTPS, Name, OwnAddresses, PolicySet, Stop, Target};

/// How a connection reaches the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryMode {
    /// By a CONNECT request to the proxy.
    Connect,
    /// Redirected by a firewall, with its original destination if `--dialled` gives it.
    Transparent(Option<DialledAddress>),
}

/// The original destination of a connection. Without a port, it is the target port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DialledAddress {
    address: IpAddr,
    port: Option<u16>,
}

impl std::str::FromStr for DialledAddress {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse() {
            return Ok(Self { address, port: None });
        }
        let with_port: SocketAddr = text.parse()?;
        Ok(Self { address: with_port.ip(), port: Some(with_port.port()) })
    }
}

impl DialledAddress {
    /// Returns whether the target has a port that differs from this one.
    pub(super) fn contradicts(self, target: &str) -> bool {
        let (Some(dialled), Some(written)) = (self.port, written_port(target)) else {
            return false;
        };
        written.parse() != Ok(dialled)
    }
}

impl fmt::Display for DialledAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(out),
            None => self.address.fmt(out),
        }
    }
}

impl EntryMode {
    /// Returns the entry mode that the options select, or the only one that the configuration has.
    pub(super) fn of(
        settings: &Settings,
        transparent: bool,
        dialled: Option<DialledAddress>,
    ) -> Self {
        let has_proxy = settings.listeners.iter().any(|one| one.mode == Mode::Connect);
        if transparent || dialled.is_some() || !has_proxy {
            Self::Transparent(dialled)
        } else {
            Self::Connect
        }
    }

    /// Returns the value of `mode` in the configuration.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Transparent(_) => "transparent",
        }
    }

    /// Returns the target port if the host is given without one.
    pub(super) fn port(self) -> u16 {
        match self {
            Self::Transparent(Some(DialledAddress { port: Some(port), .. })) => port,
            _ => HTTPS,
        }
    }

    /// Compares the original destination with the addresses of the name; `None` without a destination.
    pub(super) fn headed(
        self,
        target: &Target,
        found: &[SocketAddr],
        own: &OwnAddresses,
    ) -> Option<DestinationReport> {
        let Self::Transparent(Some(DialledAddress { address, port })) = self else { return None };
        let to = SocketAddr::new(address, port.unwrap_or(target.port));
        let mut headed = Headed::to(to);
        headed.compare(found, own);
        Some(DestinationReport { address: to, spoofed: headed.is_spoofed() })
    }

    /// Returns what a Go client such as docker prints for a TLS alert; `None` for CONNECT.
    pub(super) fn alert(self, stop: &Stop) -> Option<String> {
        let alert = match (self, stop) {
            (Self::Connect, _) => return None,
            (Self::Transparent(_), Stop::Denied(_)) => "access denied",
            (Self::Transparent(_), Stop::Failed(_) | Stop::Detailed(_)) => "internal error",
        };
        Some(format!("remote error: tls: {alert}"))
    }
}

/// The value of `dialled` in `--json`.
#[derive(Debug, Serialize)]
pub(super) struct DestinationReport {
    address: SocketAddr,
    spoofed: bool,
}

impl fmt::Display for DestinationReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = match self.spoofed {
            true => "not an address of the name: recorded as spoofed-destination",
            false => "an address of the name or of the gate",
        };
        write!(out, "{}, {known}; the gate never connects to it", self.address)
    }
}

/// Returns the answer of the gate's DNS server for a name; `None` without a DNS server.
pub(super) fn answered(
    settings: &Settings,
    set: &PolicySet,
    name: &Name,
    client: &ExplainedClient,
) -> Option<String> {
    let answerer = settings.answerer.as_ref()?;
    let judged = match client {
        ExplainedClient::At(asker) => set.judge_host(name, asker, set.rules().enforcement),
        // For DNS queries, group membership depends on the client address only.
        ExplainedClient::Of(client) => set.judge_name_for(&Target::https(name.clone()), client),
    };
    Some(match (judged, &answerer.answer) {
        (Err(_), _) => "NXDOMAIN".to_owned(),
        (Ok(_), AnswerWith::Real) => "its real addresses, without those that are denied".to_owned(),
        (Ok(_), AnswerWith::Gate(own)) => {
            own.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        }
    })
}

/// Returns the port that is written after a host; `None` without one.
pub(super) fn written_port(target: &str) -> Option<&str> {
    let (_, port) = target.rsplit_once(':')?;
    port.bytes().all(|byte| byte.is_ascii_digit()).then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Reason;

    fn dialled(text: &str) -> DialledAddress {
        text.parse().unwrap()
    }

    #[test]
    fn the_port_is_the_one_that_is_dialled() {
        for (text, port) in [("20.1.2.3", 443), ("20.1.2.3:8443", 8443), ("[2001:db8::1]:444", 444)]
        {
            assert_eq!(EntryMode::Transparent(Some(dialled(text))).port(), port, "{text}");
        }
        assert_eq!(EntryMode::Transparent(None).port(), 443);
        assert_eq!(EntryMode::Connect.port(), 443);
        assert!("contoso.azurecr.io".parse::<DialledAddress>().is_err());
        for (text, target, contradicts) in [
            ("20.1.2.3:8443", "contoso.azurecr.io:443", true),
            ("[2001:db8::1]:444", "contoso.azurecr.io:99999", true),
            ("20.1.2.3:443", "contoso.azurecr.io:443", false),
            ("20.1.2.3:8443", "contoso.azurecr.io", false),
            ("20.1.2.3", "contoso.azurecr.io:8443", false),
        ] {
            assert_eq!(dialled(text).contradicts(target), contradicts, "{text} {target}");
        }
    }

    #[test]
    fn a_destination_that_the_name_does_not_have_is_spoofed() {
        let target = Target::https(Name::parse("contoso.azurecr.io").unwrap());
        let found = ["20.1.2.3:443".parse().unwrap()];
        let own = OwnAddresses::default();
        for (text, spoofed) in [("20.1.2.3", false), ("20.9.9.9:443", true)] {
            let way = EntryMode::Transparent(Some(dialled(text)));
            let report = way.headed(&target, &found, &own).unwrap();
            assert_eq!(report.spoofed, spoofed, "{report}");
        }
        assert!(EntryMode::Transparent(None).headed(&target, &found, &own).is_none());
    }

    #[test]
    fn a_denial_of_a_transparent_connection_is_an_alert() {
        let stop = Stop::from(Reason::OtherRegistry);
        let report = EntryMode::Transparent(None).alert(&stop);
        assert_eq!(report.as_deref(), Some("remote error: tls: access denied"));
        assert_eq!(EntryMode::Connect.alert(&stop), None);
    }
}
