//! What a client asks for: a host and a port, from the request target of a CONNECT.

use std::fmt;

use super::name::{Name, NameError};
use super::reason::Reason;

/// The port of HTTPS, meant where a policy's host names none.
pub const HTTPS: u16 = 443;

/// A host name and a port: what is asked for, judged and looked up. Never an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// The canonical host name.
    pub name: Name,
    /// The port, never 0.
    pub port: u16,
}

/// Why a CONNECT's request target is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The host is no name.
    #[error("the host {0}")]
    Name(#[from] NameError),
    /// No `:port` at the end, which RFC 9112 §3.2.3 demands of the authority-form.
    #[error("it has no port; CONNECT takes host:port")]
    PortMissing,
    /// A port with a sign, a leading zero, too many digits or none; or 0.
    #[error("its port is not a number from 1 to 65535")]
    Port,
    /// A character that has no place in authority-form: user info, a scheme, a path, an escape.
    #[error("it is not in the form host:port")]
    Form,
}

impl TargetError {
    /// The reason that answer, metric and audit tell.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::Name(NameError::IpLiteral) => Reason::IpLiteral,
            Self::Name(_) | Self::PortMissing | Self::Port | Self::Form => Reason::BadTarget,
        }
    }
}

impl Target {
    /// A target on the port of HTTPS.
    #[must_use]
    pub fn https(name: Name) -> Self {
        Self { name, port: HTTPS }
    }

    /// Reads the authority-form of RFC 9112 §3.2.3 and nothing beside it: `host ":" port`.
    ///
    /// # Errors
    /// Anything else, user info, scheme, path, escape and IPv6 zone included.
    pub fn parse_authority(text: &str) -> Result<Self, TargetError> {
        if text.bytes().any(|byte| matches!(byte, b'@' | b'/' | b'?' | b'#' | b'%' | b'\\')) {
            return Err(TargetError::Form);
        }
        if text.starts_with('[') || text.parse::<std::net::Ipv6Addr>().is_ok() {
            return Err(TargetError::Name(NameError::IpLiteral));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            // Told as an address where it is one: the missing port is the smaller fault.
            return Err(match Name::parse(text) {
                Err(NameError::IpLiteral) => TargetError::Name(NameError::IpLiteral),
                _ => TargetError::PortMissing,
            });
        };
        let name = Name::parse(host)?;
        let port = parse_port(port).ok_or(TargetError::Port)?;
        Ok(Self { name, port })
    }
}

/// A port from 1 to 65535 in plain decimal: no sign, no leading zero, no space.
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
