//! The target of a CONNECT request: a host and a port.

use std::fmt;

use super::name::{Name, NameError};
use super::reason::Reason;

/// The port of HTTPS, the default of hosts in a policy.
pub const HTTPS: u16 = 443;

/// A host name and a port, to be judged and resolved. Never an IP address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// The canonical host name.
    pub name: Name,
    /// The port, never 0.
    pub port: u16,
}

/// Why a request target is not a valid `host:port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The host is not a valid name.
    #[error("the host {0}")]
    Name(#[from] NameError),
    /// `:port` is missing, which RFC 9112 §3.2.3 requires in authority-form.
    #[error("it has no port; CONNECT requires host:port")]
    PortMissing,
    /// The port is missing, 0, too large, or has a sign or leading zeros.
    #[error("its port is not a number from 1 to 65535")]
    Port,
    /// A character that is not allowed in authority-form: user information, a scheme, a path, an
    /// escape.
    #[error("it is not in the form host:port")]
    Form,
}

impl TargetError {
    /// Returns the reason code for answers, metrics and the audit.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::Name(NameError::IpLiteral) => Reason::IpLiteral,
            Self::Name(_) | Self::PortMissing | Self::Port | Self::Form => Reason::BadTarget,
        }
    }
}

impl Target {
    /// Returns a target on port 443.
    #[must_use]
    pub fn https(name: Name) -> Self {
        Self { name, port: HTTPS }
    }

    /// Parses exactly the authority-form of RFC 9112 §3.2.3: `host ":" port`. A host of one label
    /// is left to the policy.
    ///
    /// # Errors
    /// Anything else, for example user information, a scheme, a path, an escape or an IPv6 zone.
    pub fn parse_authority(text: &str) -> Result<Self, TargetError> {
        if text.bytes().any(|byte| matches!(byte, b'@' | b'/' | b'?' | b'#' | b'%' | b'\\')) {
            return Err(TargetError::Form);
        }
        if text.starts_with('[') || text.parse::<std::net::Ipv6Addr>().is_ok() {
            return Err(TargetError::Name(NameError::IpLiteral));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            // Reported as an IP address, because the missing port matters less.
            return Err(match Name::parse(text) {
                Err(NameError::IpLiteral) => TargetError::Name(NameError::IpLiteral),
                _ => TargetError::PortMissing,
            });
        };
        let name = Name::parse_or_label(host)?;
        let port = parse_port(port).ok_or(TargetError::Port)?;
        Ok(Self { name, port })
    }
}

/// Parses a port from 1 to 65535 in plain decimal: no sign, leading zeros or spaces.
#[must_use]
pub fn parse_port(text: &str) -> Option<u16> {
    let plain = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    if !plain {
        return None;
    }
    text.parse().ok()
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.name, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authority_form_and_nothing_else() {
        use TargetError::*;
        #[expect(clippy::type_complexity, reason = "a table reads best as one")]
        let cases: &[(&str, Result<(&str, u16), TargetError>)] = &[
            ("contoso.azurecr.io:443", Ok(("contoso.azurecr.io", 443))),
            ("Contoso.azurecr.io:8443", Ok(("contoso.azurecr.io", 8443))),
            ("contoso.azurecr.io", Err(PortMissing)),
            ("contoso.azurecr.io:", Err(Port)),
            ("contoso.azurecr.io:0", Err(Port)),
            ("contoso.azurecr.io:0443", Err(Port)),
            ("contoso.azurecr.io:+443", Err(Port)),
            ("contoso.azurecr.io:65536", Err(Port)),
            ("contoso.azurecr.io: 443", Err(Port)),
            ("contoso.azurecr.io:4\u{0664}3", Err(Port)),
            ("contoso.azurecr.io.:443", Err(Name(NameError::TrailingDot))),
            ("user@contoso.azurecr.io:443", Err(Form)),
            ("https://contoso.azurecr.io:443/", Err(Form)),
            ("contoso.azurecr.io:443/", Err(Form)),
            ("contoso%2eazurecr.io:443", Err(Form)),
            ("127.0.0.1:443", Err(Name(NameError::IpLiteral))),
            ("[::1]:443", Err(Name(NameError::IpLiteral))),
            ("::1", Err(Name(NameError::IpLiteral))),
            ("::1:443", Err(Name(NameError::IpLiteral))),
            ("2130706433", Err(Name(NameError::IpLiteral))),
            ("a:b:443", Err(Name(NameError::IpLiteral))),
            ("/", Err(Form)),
            ("*", Err(PortMissing)),
            ("", Err(PortMissing)),
        ];
        for (text, expected) in cases {
            let found = Target::parse_authority(text);
            let found = found.as_ref().map(|target| (target.name.as_str(), target.port));
            assert_eq!(found, expected.as_ref().map(|pair| *pair), "{text:?}");
        }
    }
}
