//! The names in a client certificate, and the patterns for them in a `[[client]]`.

use std::fmt;

use super::name::Name;

/// The names in the subjectAltName of a certificate: DNS names and URIs (RFC 5280 §4.2.1.6). The
/// common name is ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateNames {
    dns: Vec<Box<str>>,
    uris: Vec<Box<str>>,
}

impl CertificateNames {
    /// Creates the names of a certificate. Wildcards are ignored, because they identify no client.
    pub fn new<'a>(
        dns: impl Iterator<Item = &'a str>,
        uris: impl Iterator<Item = &'a str>,
    ) -> Self {
        let exact = dns.filter(|name| !name.contains('*'));
        Self {
            dns: exact.map(|name| name.to_ascii_lowercase().into()).collect(),
            uris: uris.map(Into::into).collect(),
        }
    }

    /// Returns whether there are no names.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.dns.is_empty() && self.uris.is_empty()
    }
}

impl fmt::Display for CertificateNames {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = self.uris.iter().chain(&self.dns);
        match names.next() {
            None => out.write_str("no DNS or URI name"),
            Some(first) => {
                out.write_str(first)?;
                names.try_for_each(|name| write!(out, ", {name}"))
            }
        }
    }
}

/// A pattern for certificate names in a `[[client]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateName {
    /// This DNS name.
    Dns(Name),
    /// One label followed by this: `*.fleet.contoso.com`.
    DnsBelow(Name),
    /// This URI, compared exactly.
    Uri(Box<str>),
    /// Any URI with this prefix, which ends with a slash: `spiffe://contoso.com/fleet/*`.
    UriBelow(Box<str>),
}

/// Why a text is not a valid pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateNameFault {
    /// Neither a DNS name nor a URI.
    #[error("it is neither a DNS name nor a URI")]
    Form,
    /// A `*` in an invalid position.
    #[error("a * stands only for a DNS name's first label, or for what follows a URI's last slash")]
    Wildcard,
}

impl CertificateName {
    /// Parses an entry of `certificate-names`.
    ///
    /// # Errors
    /// If it is neither a DNS name nor a URI.
    pub fn parse(text: &str) -> Result<Self, CertificateNameFault> {
        if let Some((scheme, rest)) = text.split_once("://") {
            let of_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
            let plain = rest.bytes().all(|byte| byte.is_ascii_graphic());
            if scheme.is_empty() || !scheme.bytes().all(of_scheme) || rest.is_empty() || !plain {
                return Err(CertificateNameFault::Form);
            }
            let (front, below) = match text.strip_suffix('*') {
                Some(front) => (front, true),
                None => (text, false),
            };
            // The part before the last slash must name an authority: `spiffe://*` would match every
            // client.
            let names = rest.split('/').next().is_some_and(|host| !host.is_empty() && host != "*");
            return match below {
                _ if front.contains('*') => Err(CertificateNameFault::Wildcard),
                true if !front.ends_with('/') || !names => Err(CertificateNameFault::Wildcard),
                true => Ok(Self::UriBelow(front.into())),
                false => Ok(Self::Uri(text.into())),
            };
        }
        let name = |text: &str| Name::parse(text).map_err(|_| CertificateNameFault::Form);
        match text.strip_prefix("*.") {
            Some(parent) if parent.contains('*') => Err(CertificateNameFault::Wildcard),
            Some(parent) => name(parent).map(Self::DnsBelow),
            None if text.contains('*') => Err(CertificateNameFault::Wildcard),
            None => name(text).map(Self::Dns),
        }
    }

    /// Returns whether a certificate has a matching name.
    #[must_use]
    pub fn is_among(&self, names: &CertificateNames) -> bool {
        let below = |name: &str, parent: &str| {
            let label = name.strip_suffix(parent).and_then(|front| front.strip_suffix('.'));
            label.is_some_and(|label| !label.is_empty() && !label.contains('.'))
        };
        match self {
            Self::Dns(name) => names.dns.iter().any(|one| **one == *name.as_str()),
            Self::DnsBelow(parent) => names.dns.iter().any(|one| below(one, parent.as_str())),
            Self::Uri(uri) => names.uris.contains(uri),
            Self::UriBelow(front) => {
                // A path with `..` is not below the prefix.
                let climbs = |uri: &str| uri.split('/').any(|part| part == ".." || part == ".");
                let mut uris = names.uris.iter();
                uris.any(|uri| uri.len() > front.len() && uri.starts_with(&**front) && !climbs(uri))
            }
        }
    }
}

impl fmt::Display for CertificateName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => write!(out, "{name}"),
            Self::DnsBelow(parent) => write!(out, "*.{parent}"),
            Self::Uri(uri) => out.write_str(uri),
            Self::UriBelow(front) => write!(out, "{front}*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(dns: &[&str], uris: &[&str]) -> CertificateNames {
        CertificateNames::new(dns.iter().copied(), uris.iter().copied())
    }

    #[test]
    fn names_and_whose_they_are() {
        let certificate = names(
            &["Agent-1.CI.contoso.com", "*.evil.example"],
            &["spiffe://contoso.com/fleet/7", "spiffe://contoso.com/fleet/../ops/1"],
        );
        let cases = [
            ("agent-1.ci.contoso.com", true),
            ("agent-2.ci.contoso.com", false),
            ("*.ci.contoso.com", true),
            ("*.contoso.com", false),
            ("ci.contoso.com", false),
            ("*.evil.example", false),
            ("spiffe://contoso.com/fleet/7", true),
            ("spiffe://contoso.com/fleet/8", false),
            ("spiffe://contoso.com/fleet/*", true),
            ("spiffe://contoso.com/*", true),
            ("spiffe://contoso.com/fleet/7/*", false),
            ("spiffe://contoso.com/ops/*", false),
            ("spiffe://contoso.co/*", false),
        ];
        for (asked, expected) in cases {
            let name = CertificateName::parse(asked).unwrap();
            assert_eq!(name.is_among(&certificate), expected, "{asked}");
            assert!(!name.is_among(&CertificateNames::default()), "{asked}");
            assert_eq!(name.to_string(), asked.to_lowercase());
        }
        // What climbs is below nothing.
        let climber = names(&[], &["spiffe://contoso.com/fleet/../ops/1"]);
        let fleet = CertificateName::parse("spiffe://contoso.com/fleet/*").unwrap();
        assert!(!fleet.is_among(&climber));
    }

    #[test]
    fn patterns_that_match_no_client_or_all_are_rejected() {
        use CertificateNameFault::{Form, Wildcard};
        let cases = [
            ("", Form),
            ("agent", Form),
            ("CN=agent", Form),
            ("10.1.0.7", Form),
            ("://contoso.com/a", Form),
            ("spiffe://", Form),
            ("spiffe://contoso.com/a b", Form),
            ("*", Wildcard),
            ("a.*.contoso.com", Wildcard),
            ("*.*.contoso.com", Wildcard),
            ("spiffe://*", Wildcard),
            ("spiffe:///*", Wildcard),
            ("spiffe://contoso.com/fleet*", Wildcard),
            ("spiffe://contoso.com/*/7", Wildcard),
        ];
        for (text, fault) in cases {
            assert_eq!(CertificateName::parse(text), Err(fault), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,60}", dns in "\\PC{0,40}", uri in "\\PC{0,40}") {
            let certificate = names(&[&dns], &[&uri]);
            let _ = certificate.to_string();
            if let Ok(name) = CertificateName::parse(&text) {
                let _ = name.is_among(&certificate);
            }
        }
    }
}
