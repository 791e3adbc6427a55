//! The proxy that clients are configured with.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The proxy of clients: `http://[user:password@]host:port`.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// The authority, without credentials.
    pub(super) at: String,
    /// The credentials after `Basic`, secret.
    pub(super) credentials: Option<String>,
}

/// Why a text is not a valid [`Proxy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoProxy {
    /// A proxy with TLS.
    #[error("a proxy with https:// cannot be tested: name a listener without tls")]
    Tls,
    /// Neither a URL nor `host:port`.
    #[error("must be http://HOST:PORT")]
    Form,
}

impl std::str::FromStr for Proxy {
    type Err = NoProxy;

    fn from_str(text: &str) -> Result<Self, NoProxy> {
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => return Err(NoProxy::Tls),
            Some(_) => return Err(NoProxy::Form),
            None => text,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user, at) = match rest.rsplit_once('@') {
            Some((user, at)) => (Some(user), at),
            None => (None, rest),
        };
        let port = at.rsplit_once(':').and_then(|(host, port)| {
            (!host.is_empty()).then(|| crate::policy::parse_port(port)).flatten()
        });
        if port.is_none() || at.contains(['/', '?', '#', ' ']) {
            return Err(NoProxy::Form);
        }
        let credentials = user.map(|user| STANDARD.encode(user));
        Ok(Self { at: at.to_owned(), credentials })
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "http://{}", self.at)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Proxy({self})")
    }
}
