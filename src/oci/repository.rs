//! Names of repositories, and the names by which clients call a registry.

use std::fmt;
use std::sync::Arc;

/// The longest repository name, in bytes. The spec lets clients limit registry and repository
/// together to 255; a repository alone is never longer.
pub const LONGEST_REPOSITORY: usize = 255;

/// The longest registry name: a DNS name of 253 bytes, a colon and a port.
const LONGEST_REGISTRY: usize = 253 + 6;

/// A repository name by the grammar of the OCI distribution spec:
/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository(Arc<str>);

impl Repository {
    /// Parses a name; `None` when it breaks the grammar or is too long.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = text.len() <= LONGEST_REPOSITORY && text.split('/').all(is_component);
        fits.then(|| Self(text.into()))
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name, without a copy.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, out)
    }
}

/// Whether a path component is one of a repository name. A separator is `.`, `_`, `__` or any number
/// of `-`, and stands between two alphanumeric characters.
pub(super) fn is_component(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if !bytes.first().is_some_and(is_word) || !bytes.last().is_some_and(is_word) {
        return false;
    }
    bytes.split(is_word).all(|separator| match separator {
        [] | [b'.'] | [b'_'] | [b'_', b'_'] => true,
        dashes => dashes.iter().all(|byte| *byte == b'-'),
    })
}

/// The name by which a client calls a registry: a host in lower case, and a port where it wrote
/// one. It is looked up in the policy and is never dialled.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegistryName(Arc<str>);

impl RegistryName {
    /// Parses a name, folding ASCII case; `None` when it is not `host` or `host:port`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        let is_label = |label: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            (1..=63).contains(&label.len())
                && label.bytes().all(plain)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let is_port = |port: &str| {
            (1..=5).contains(&port.len())
                && port.bytes().all(|byte| byte.is_ascii_digit())
                && !port.starts_with('0')
        };
        let fits = text.len() <= LONGEST_REGISTRY
            && host.split('.').all(is_label)
            && port.is_none_or(is_port);
        fits.then(|| Self(text.to_ascii_lowercase().into()))
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether clients take a first path component for a registry: it has a dot or a port, or is
    /// `localhost`. Docker, containerd and podman decide alike.
    pub(super) fn is_meant_by(component: &str) -> bool {
        component.contains(['.', ':']) || component == "localhost"
    }
}

impl fmt::Display for RegistryName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Debug for RegistryName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn repositories_follow_the_grammar() {
        let right = [
            "a",
            "0",
            "library/alpine",
            "a.b",
            "a_b",
            "a__b",
            "a-b",
            "a---b",
            "a/b/c/d/e",
            "team/app.v1_x__y--z",
            "tags",
            "manifests/blobs/uploads",
            "127.0.0.1/a",
        ];
        for text in right {
            assert!(Repository::parse(text).is_some(), "{text}");
        }
        let wrong = [
            "", "/", "a/", "/a", "a//b", "A", "a/B", ".a", "a.", "a..b", "a___b", "_a", "a_", "-a",
            "a-", "a._b", "a.-b", "a-.b", "a_-b", "..", ".", "a/../b", "a/./b", "a b", "a%2fb",
            "a\\b", "a:b", "a@b", "a?b", "a#b", "ä", "a\0", "a\n", "_catalog",
        ];
        for text in wrong {
            assert!(Repository::parse(text).is_none(), "{text}");
        }
        assert!(Repository::parse(&"a".repeat(LONGEST_REPOSITORY)).is_some());
        assert!(Repository::parse(&"a".repeat(LONGEST_REPOSITORY + 1)).is_none());
    }

    #[test]
    fn registries_are_hosts() {
        for (text, expected) in [
            ("contoso.azurecr.io", Some("contoso.azurecr.io")),
            ("Contoso.AzureCR.io", Some("contoso.azurecr.io")),
            ("reg.example.com:8443", Some("reg.example.com:8443")),
            ("localhost:5000", Some("localhost:5000")),
            ("docker.io", Some("docker.io")),
            ("", None),
            (":443", None),
            ("a.b:", None),
            ("a.b:0443", None),
            ("a.b:443:1", None),
            ("a.b:443000", None),
            ("a..b", None),
            ("a.b.", None),
            ("-a.b", None),
            ("a_b.c", None),
            ("user@a.b", None),
            ("a.b/c", None),
            ("[::1]:443", None),
        ] {
            let parsed = RegistryName::parse(text);
            assert_eq!(parsed.as_ref().map(RegistryName::as_str), expected, "{text}");
        }
    }

    /// The grammar as a state machine, one character at a time.
    fn naive(text: &str) -> bool {
        let mut separator = String::new();
        let mut word = false;
        for letter in text.chars() {
            match letter {
                'a'..='z' | '0'..='9' => {
                    let fine = separator.is_empty()
                        || (word && ["/", ".", "_", "__"].contains(&separator.as_str()))
                        || (word && separator.chars().all(|one| one == '-'));
                    if !fine {
                        return false;
                    }
                    separator.clear();
                    word = true;
                }
                other => separator.push(other),
            }
        }
        word && separator.is_empty() && text.len() <= 255
    }

    proptest! {
        #[test]
        fn the_twin_agrees(text in "[ab./_-]{0,12}|[a-z0-9/._A-]{0,300}") {
            prop_assert_eq!(Repository::parse(&text).is_some(), naive(&text));
        }
    }
}
