//! Text from clients, prepared for an audit line: short, printable, without secrets.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::policy::{Name, Target};

/// Maximum length in characters, with escapes.
pub(super) const LONGEST: usize = 255;

/// Replaces a part that was cut off, or removed because it may be secret.
const CUT: &str = "...";
const SECRET: &str = "***";

/// The characters that start a path, query or fragment.
const MARKS: [char; 4] = ['/', '?', '#', '\\'];

/// Printable ASCII of at most 255 characters. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AuditText(Arc<str>);

impl AuditText {
    /// Escapes what is not printable ASCII, and truncates long text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        if is_fit(text) {
            return Self(text.into());
        }
        let mut escaped = String::with_capacity(LONGEST);
        for letter in text.chars() {
            let before = escaped.len();
            match u8::try_from(letter) {
                Ok(byte) if is_printable(byte) => escaped.push(letter),
                // Writing to a string cannot fail.
                _ => drop(write!(escaped, "{}", letter.escape_unicode())),
            }
            if escaped.len() > LONGEST - CUT.len() {
                escaped.truncate(before);
                escaped.push_str(CUT);
                break;
            }
        }
        Self(escaped.into())
    }

    /// A request target without user information, path and query, which may hold credentials.
    #[must_use]
    pub fn of_request(target: &str) -> Self {
        let (scheme, rest) = match target.split_once("://") {
            Some((scheme, rest)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                (Some(scheme), rest)
            }
            _ => (None, target),
        };
        // After an escape, path or query, an @ does not end user information.
        let host = match rest.rsplit_once('@') {
            _ if rest.contains('%') => SECRET.to_owned(),
            Some((before, _)) if before.contains(MARKS) => SECRET.to_owned(),
            Some((_, after)) => format!("{SECRET}@{}", front(after)),
            None => front(rest),
        };
        match scheme {
            Some(scheme) => Self::new(&format!("{scheme}://{host}")),
            None => Self::new(&host),
        }
    }

    /// A valid target. Nothing must be removed.
    #[must_use]
    pub fn of_target(target: &Target) -> Self {
        let mut text = String::with_capacity(target.name.as_str().len() + ":65535".len());
        // Writing to a string cannot fail.
        let _ = write!(text, "{target}");
        Self::new(&text)
    }

    /// A name, without a copy.
    #[must_use]
    pub fn of_name(name: &Name) -> Self {
        Self(name.shared())
    }

    /// The same as [`Self::new`], without a copy where nothing must be changed.
    #[must_use]
    pub fn of_shared(text: Arc<str>) -> Self {
        if is_fit(&text) { Self(text) } else { Self::new(&text) }
    }

    /// Returns the text for an audit line.
    pub(super) fn to_cow(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.0)
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Serialize for AuditText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

fn is_printable(byte: u8) -> bool {
    byte == b' ' || byte.is_ascii_graphic()
}

/// Whether a text needs no change.
fn is_fit(text: &str) -> bool {
    text.len() <= LONGEST && text.bytes().all(is_printable)
}

/// Returns the part before a path or query, with a slash for what was removed.
fn front(text: &str) -> String {
    match text.split_once(MARKS) {
        Some((front, _)) => format!("{front}/"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_without_their_secrets() {
        let cases = [
            ("contoso.azurecr.io:443", "contoso.azurecr.io:443"),
            ("", ""),
            ("/", "/"),
            ("/v2/?sig=SECRET", "/"),
            ("https://contoso.azurecr.io/v2/SECRET?SECRET", "https://contoso.azurecr.io/"),
            ("user:SECRET@contoso.azurecr.io:443", "***@contoso.azurecr.io:443"),
            ("https://user:SECRET@contoso.azurecr.io/SECRET", "https://***@contoso.azurecr.io/"),
            ("SECRET:SEC/RET@contoso.azurecr.io:443", "***"),
            ("contoso.azurecr.io:443/a@SECRET", "***"),
            ("contoso.azurecr.io:443?a=b@SECRET", "***"),
            ("contoso.azurecr.io:443#SECRET", "contoso.azurecr.io:443/"),
            ("SECRET%40contoso.azurecr.io:443", "***"),
            ("contoso\\SECRET", "contoso/"),
            ("a\0b\r\n\u{202e}", "a\\u{0}b\\u{d}\\u{a}\\u{202e}"),
        ];
        for (asked, shown) in cases {
            assert_eq!(AuditText::of_request(asked).as_str(), shown, "{asked:?}");
        }
    }

    proptest! {
        #[test]
        fn texts_are_short_and_printable(text in "\\PC{0,400}|[\\x00-\\x7f]{0,400}") {
            prop_assert_eq!(AuditText::of_shared(text.as_str().into()), AuditText::new(&text));
            for made in [AuditText::new(&text), AuditText::of_request(&text)] {
                prop_assert!(made.as_str().len() <= LONGEST);
                prop_assert!(made.as_str().bytes().all(|byte| (0x20..0x7f).contains(&byte)));
            }
        }
    }
}
