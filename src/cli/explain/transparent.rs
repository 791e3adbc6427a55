//! What a client sees that knows of no gate: what the answerer tells it, where it was headed, and how
//! it is refused.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::client::ExplainedClient;
use crate::account::Headed;
use crate::config::{Answer, Mode, Settings};
use crate::policy::{HTTPS, Name, OwnAddresses, PolicySet, Stop, Target};

/// How a client comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// It asks the proxy.
    Connect,
    /// Its traffic is brought to the gate; where it was headed, if that is known.
    Transparent(Option<Dialled>),
}

/// An address that a client dials, on the target's port where it names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dialled {
    address: IpAddr,
    port: Option<u16>,
}

impl std::str::FromStr for Dialled {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse() {
            return Ok(Self { address, port: None });
        }
        let with_port: SocketAddr = text.parse()?;
        Ok(Self { address: with_port.ip(), port: Some(with_port.port()) })
    }
}

impl Dialled {
    /// Whether a target names another port beside its host.
    pub(super) fn contradicts(self, target: &str) -> bool {
        let (Some(dialled), Some(written)) = (self.port, written_port(target)) else {
            return false;
        };
        written.parse() != Ok(dialled)
    }
}

impl fmt::Display for Dialled {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(out),
            None => self.address.fmt(out),
        }
    }
}

impl Way {
    /// The way that was asked for; the only one that the configuration has, where none was.
    pub(super) fn of(settings: &Settings, transparent: bool, dialled: Option<Dialled>) -> Self {
        let has_proxy = settings.listeners.iter().any(|one| one.mode == Mode::Connect);
        if transparent || dialled.is_some() || !has_proxy {
            Self::Transparent(dialled)
        } else {
            Self::Connect
        }
    }

    /// The word of the configuration.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Transparent(_) => "transparent",
        }
    }

    /// The port that is asked for, where the command line names none beside the host.
    pub(super) fn port(self) -> u16 {
        match self {
            Self::Transparent(Some(Dialled { port: Some(port), .. })) => port,
            _ => HTTPS,
        }
    }

    /// Where a client was headed, compared with what its name resolved to.
    pub(super) fn headed(
        self,
        target: &Target,
        found: &[SocketAddr],
        own: &OwnAddresses,
    ) -> Option<ToldHeaded> {
        let Self::Transparent(Some(Dialled { address, port })) = self else { return None };
        let to = SocketAddr::new(address, port.unwrap_or(target.port));
        let mut headed = Headed::to(to);
        headed.compare(found, own);
        Some(ToldHeaded { address: to, spoofed: headed.is_spoofed() })
    }

    /// What a Go client such as docker prints of a refusal, where it is told by an alert.
    pub(super) fn alert(self, stop: &Stop) -> Option<String> {
        let alert = match (self, stop) {
            (Self::Connect, _) => return None,
            (Self::Transparent(_), Stop::Denied(_)) => "access denied",
            (Self::Transparent(_), Stop::Failed(_)) => "internal error",
        };
        Some(format!("remote error: tls: {alert}"))
    }
}

/// As `dialled` names it.
#[derive(Debug, Serialize)]
pub(super) struct ToldHeaded {
    address: SocketAddr,
    spoofed: bool,
}

impl fmt::Display for ToldHeaded {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = match self.spoofed {
            true => "which the name has not: recorded as spoofed-destination",
            false => "which the name has, or the gate",
        };
        write!(out, "{}, {known}; it is never dialled", self.address)
    }
}

/// What the answerer says of a name, where there is one.
pub(super) fn answered(
    settings: &Settings,
    set: &PolicySet,
    name: &Name,
    client: &ExplainedClient,
) -> Option<String> {
    let answerer = settings.answerer.as_ref()?;
    let judged = match client {
        ExplainedClient::At(asker) => set.judge_host(name, asker, set.rules().enforcement),
        // Whoever is of a group is so by its address where DNS is asked.
        ExplainedClient::Of(client) => set.judge_name_for(&Target::https(name.clone()), client),
    };
    Some(match (judged, &answerer.answer) {
        (Err(_), _) => "NXDOMAIN".to_owned(),
        (Ok(_), Answer::Real) => "the real addresses, as far as they may be dialled".to_owned(),
        (Ok(_), Answer::Gate(own)) => {
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

    fn dialled(text: &str) -> Dialled {
        text.parse().unwrap()
    }

    #[test]
    fn the_port_is_the_one_that_is_dialled() {
        for (text, port) in [("20.1.2.3", 443), ("20.1.2.3:8443", 8443), ("[2001:db8::1]:444", 444)]
        {
            assert_eq!(Way::Transparent(Some(dialled(text))).port(), port, "{text}");
        }
        assert_eq!(Way::Transparent(None).port(), 443);
        assert_eq!(Way::Connect.port(), 443);
        assert!("contoso.azurecr.io".parse::<Dialled>().is_err());
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
    fn where_a_client_was_headed() {
        let target = Target::https(Name::parse("contoso.azurecr.io").unwrap());
        let found = ["20.1.2.3:443".parse().unwrap()];
        let own = OwnAddresses::default();
        for (text, spoofed) in [("20.1.2.3", false), ("20.9.9.9:443", true)] {
            let way = Way::Transparent(Some(dialled(text)));
            let told = way.headed(&target, &found, &own).unwrap();
            assert_eq!(told.spoofed, spoofed, "{told}");
        }
        assert!(Way::Transparent(None).headed(&target, &found, &own).is_none());
    }

    #[test]
    fn a_refusal_is_an_alert_there() {
        let stop = Stop::from(Reason::OtherRegistry);
        let told = Way::Transparent(None).alert(&stop);
        assert_eq!(told.as_deref(), Some("remote error: tls: access denied"));
        assert_eq!(Way::Connect.alert(&stop), None);
    }
}
