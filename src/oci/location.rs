//! `Location` headers and token realms: absolute `https` URLs on port 443, or a path.

use std::fmt;

/// The longest location that is read, in bytes. Signed URLs have 1 to 4 KiB.
pub const LONGEST_LOCATION: usize = 16 * 1024;

/// Why a location is not followed and not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UriReferenceFault {
    /// Longer than [`LONGEST_LOCATION`].
    #[error("is longer than 16 KiB")]
    TooLong,
    /// Spaces, controls, backslashes, anything that is not printable ASCII.
    #[error("has a character that no URL has")]
    Character,
    /// Another scheme than `https`, or a form that is neither a URL nor an absolute path.
    #[error("is not an https URL")]
    Scheme,
    /// `user:password@`.
    #[error("has user information")]
    UserInfo,
    /// A host that is no DNS name.
    #[error("has no host name")]
    Host,
    /// Another port than 443.
    #[error("has a port other than 443")]
    Port,
    /// A fragment.
    #[error("has a fragment")]
    Fragment,
}

/// Where a response leads.
#[derive(Clone, PartialEq, Eq)]
pub enum UriReference {
    /// To a host, on port 443.
    Absolute {
        /// The host in lower case; letters, digits, dots and dashes only.
        host: String,
        /// Path and query; begins with a slash.
        target: String,
    },
    /// Elsewhere on the host that answered: path and query; begins with a slash.
    Relative(String),
}

impl UriReference {
    /// Parses a header's value.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, UriReferenceFault> {
        if text.len() > LONGEST_LOCATION {
            return Err(UriReferenceFault::TooLong);
        }
        let allowed = |byte: u8| byte.is_ascii_graphic() && !b"\\\"<>^`{|}".contains(&byte);
        if !text.bytes().all(allowed) {
            return Err(UriReferenceFault::Character);
        }
        if text.contains('#') {
            return Err(UriReferenceFault::Fragment);
        }
        if text.starts_with('/') && !text.starts_with("//") {
            return Ok(Self::Relative(text.to_owned()));
        }
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => rest,
            _ => return Err(UriReferenceFault::Scheme),
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at_checked(end).ok_or(UriReferenceFault::Host)?;
        if authority.contains('@') {
            return Err(UriReferenceFault::UserInfo);
        }
        let host = match authority.split_once(':') {
            Some((host, "443")) => host,
            Some(_) if authority.starts_with('[') => return Err(UriReferenceFault::Host),
            Some(_) => return Err(UriReferenceFault::Port),
            None => authority,
        };
        let is_label = |label: &str| {
            !label.is_empty()
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if host.len() > 253 || !host.split('.').all(is_label) {
            return Err(UriReferenceFault::Host);
        }
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        Ok(Self::Absolute { host: host.to_ascii_lowercase(), target })
    }
}

impl fmt::Debug for UriReference {
    /// Leaves path and query out: a signature there gives its readers access to a blob.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absolute { host, .. } => write!(out, "UriReference(https://{host}/…)"),
            Self::Relative(_) => write!(out, "UriReference(/…)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_lead_to_a_host_on_443() {
        use UriReferenceFault::{Character, Fragment, Host, Port, Scheme, UserInfo};
        let to = |host: &str, target: &str| {
            Ok(UriReference::Absolute { host: host.to_owned(), target: target.to_owned() })
        };
        let here = |target: &str| Ok(UriReference::Relative(target.to_owned()));
        for (text, expected) in [
            ("https://a.example.com/x?sig=1%2B", to("a.example.com", "/x?sig=1%2B")),
            ("HTTPS://A.Example.COM:443/x", to("a.example.com", "/x")),
            ("https://a.example.com", to("a.example.com", "/")),
            ("https://a.example.com?x=1", to("a.example.com", "/?x=1")),
            ("https://a.example.com/@x", to("a.example.com", "/@x")),
            ("https://a.example.com/?u=https://b@c", to("a.example.com", "/?u=https://b@c")),
            ("/v2/x/blobs/uploads/1?_state=a", here("/v2/x/blobs/uploads/1?_state=a")),
            ("/", here("/")),
            ("", Err(Scheme)),
            ("//a.example.com/x", Err(Scheme)),
            ("http://a.example.com/x", Err(Scheme)),
            ("ftp://a.example.com/x", Err(Scheme)),
            ("a.example.com/x", Err(Scheme)),
            ("x", Err(Scheme)),
            ("?x=1", Err(Scheme)),
            ("https:/a.example.com", Err(Scheme)),
            ("https:a.example.com", Err(Scheme)),
            ("https://user@a.example.com/", Err(UserInfo)),
            ("https://a.example.com:443@evil.com/", Err(UserInfo)),
            ("https://user:p@a.example.com/", Err(UserInfo)),
            ("https://a.example.com:8443/", Err(Port)),
            ("https://a.example.com:/", Err(Port)),
            ("https://a.example.com:0443/", Err(Port)),
            ("https://a.example.com:443:443/", Err(Port)),
            ("https://[::1]/", Err(Host)),
            ("https://[::1]:443/", Err(Host)),
            ("https:///x", Err(Host)),
            ("https://a..b/x", Err(Host)),
            ("https://a.b./x", Err(Host)),
            ("https://a_b.c/x", Err(Host)),
            ("https://a%2eb/x", Err(Host)),
            ("https://a.example.com\\@evil.com/", Err(Character)),
            ("https://a.example.com/ x", Err(Character)),
            ("https://a.example.com/\r\nX: y", Err(Character)),
            ("https://ä.example.com/", Err(Character)),
            ("https://a.example.com/#x", Err(Fragment)),
        ] {
            assert_eq!(UriReference::parse(text), expected, "{text}");
        }
        let long = format!("/{}", "a".repeat(LONGEST_LOCATION));
        assert_eq!(UriReference::parse(&long), Err(UriReferenceFault::TooLong));
    }

    #[test]
    fn a_signature_is_not_printed() {
        let location = UriReference::parse("https://a.example.com/x?sig=SECRET").unwrap();
        assert!(!format!("{location:?}").contains("SECRET"));
    }
}
