//! Parses `Proxy-Authorization`: Basic credentials (RFC 7617). Pure. Never prints them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::limits::ClientCredentials;

/// Maximum length of a password, in bytes.
const LONGEST_PASSWORD: usize = 1_024;

/// The value of `Proxy-Authorization`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authorization {
    /// User name and password.
    Basic(ClientCredentials),
    /// Malformed Basic credentials.
    Broken,
    /// Another scheme, for example Negotiate, which the gate ignores.
    Other,
}

impl Authorization {
    /// Parses the field value.
    #[must_use]
    pub fn parse(value: &str) -> Self {
        let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
        if !scheme.eq_ignore_ascii_case("basic") {
            return Self::Other;
        }
        let decoded = STANDARD.decode(rest.trim_matches(' ')).ok();
        let credentials = decoded.and_then(|bytes| {
            let colon = bytes.iter().position(|byte| *byte == b':')?;
            let (user, password) = (bytes.get(..colon)?, bytes.get(colon + 1..)?);
            let user = std::str::from_utf8(user).ok().filter(|user| !user.is_empty())?;
            let fits = password.len() <= LONGEST_PASSWORD && !password.contains(&0);
            fits.then(|| ClientCredentials::new(user, password))
        });
        credentials.map_or(Self::Broken, Self::Basic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn basic(text: &str) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    #[test]
    fn basic_credentials_and_what_is_none() {
        let cases = [
            (basic("ci:secret"), Some(("ci", "secret"))),
            (basic("ci:se:cr et"), Some(("ci", "se:cr et"))),
            (basic("ci:"), Some(("ci", ""))),
            (basic("\u{fc}:\u{e9}"), Some(("\u{fc}", "\u{e9}"))),
            (basic("ci:secret").replace("Basic ", "bAsIc   "), Some(("ci", "secret"))),
            (basic("ci"), None),
            (basic(":secret"), None),
            (basic("ci:a\0b"), None),
            (basic(&format!("ci:{}", "p".repeat(1_025))), None),
            ("Basic".to_owned(), None),
            ("Basic Y2k6".to_owned() + "!", None),
        ];
        for (value, expected) in cases {
            let found = match Authorization::parse(&value) {
                Authorization::Basic(found) => Some(found),
                Authorization::Broken => None,
                Authorization::Other => panic!("{value}"),
            };
            let found = found
                .as_ref()
                .map(|found| (found.user(), std::str::from_utf8(found.expose_password()).unwrap()));
            assert_eq!(found, expected, "{value}");
        }
        for other in ["Negotiate YII=", "Bearer token", "", "Digest a=b", "Basicc Y2k6"] {
            assert_eq!(Authorization::parse(other), Authorization::Other);
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_and_nothing_is_printed(value in "\\PC{0,60}", secret in "[a-z]{8,20}") {
            let _ = Authorization::parse(&value);
            let parsed = Authorization::parse(&basic(&format!("{secret}:{secret}")));
            let printed = format!("{parsed:?}");
            prop_assert!(!printed.contains(&secret));
        }
    }
}
