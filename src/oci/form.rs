//! The form that asks for a token by POST: OAuth 2 as the token spec and Azure have it.

use std::fmt;

use super::fault::RequestFault;
use super::query::{Query, encoded};

/// The fields that a form may have. Only a scope may stand several times.
const FIELDS: [&str; 9] = [
    "grant_type",
    "service",
    "client_id",
    "access_type",
    "username",
    "password",
    "refresh_token",
    "access_token",
    "tenant",
];

/// A form that asks for a token. It holds secrets, and is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenForm(Vec<(&'static str, String)>);

impl fmt::Debug for TokenForm {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("TokenForm(***)")
    }
}

impl TokenForm {
    /// Parses a body.
    ///
    /// # Errors
    /// A field that is unknown, stands twice, or has no printable value.
    pub fn parse(text: &str) -> Result<Self, RequestFault> {
        let mut query = Query::parse(Some(text))?;
        let mut pairs = Vec::new();
        for field in FIELDS {
            pairs.extend(query.take(field)?.map(|value| (field, value)));
        }
        pairs.extend(query.take_all("scope").into_iter().map(|value| ("scope", value)));
        query.finish()?;
        Ok(Self(pairs))
    }

    /// Returns which service the token is for.
    #[must_use]
    pub fn service(&self) -> Option<&str> {
        self.0.iter().find(|(key, _)| *key == "service").map(|(_, value)| value.as_str())
    }

    /// Builds the body anew.
    #[must_use]
    pub fn encoded(&self) -> String {
        let pairs: Vec<_> = self.0.iter().map(|(key, value)| (*key, value.as_str())).collect();
        encoded(&pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_built_anew() {
        for (text, expected) in [
            (
                "grant_type=refresh_token&service=a&scope=repository%3Ax%3Apull&refresh_token=t.t",
                Some(
                    "grant_type=refresh_token&service=a&refresh_token=t.t&scope=repository%3Ax%3Apull",
                ),
            ),
            (
                "scope=a+b&scope=c&username=u&password=%26x",
                Some("username=u&password=%26x&scope=a%20b&scope=c"),
            ),
            ("grant_type=a&grant_type=b", None),
            ("grant_type=a&other=b", None),
            ("grant_type=%00", None),
            ("grant_type", None),
            ("", None),
        ] {
            let found = TokenForm::parse(text).ok().map(|form| form.encoded());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
        let form = TokenForm::parse("password=secret").unwrap();
        assert!(!format!("{form:?}").contains("secret"));
    }
}
