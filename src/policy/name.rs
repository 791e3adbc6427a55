//! Host names in the canonical form that the configuration, CONNECT and SNI share.
//!
//! A [`Name`] consists of labels of 1 to 63 lower-case letters, digits and dashes, at most 253
//! octets, and has no trailing dot (RFC 1123 §2.1, RFC 6066 §3). Two names are equal exactly if
//! their strings are, so all code compares names by the same rules. A name of one label is only
//! accepted where a registry can name it, and then only in full: no search list completes it.

use std::fmt;
use std::sync::Arc;

/// Maximum length of a host name without its trailing dot (RFC 1035 §2.3.4).
pub const LONGEST_NAME: usize = 253;

/// A valid and canonical host name. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

/// Why bytes are not a [`Name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name is empty.
    #[error("is empty")]
    Empty,
    /// It has more than [`LONGEST_NAME`] octets.
    #[error("is longer than 253 characters")]
    TooLong,
    /// It is an IP address in some spelling (`127.1`, `0x7f000001`, `::1`, `[::1]`).
    #[error("is an IP address, not a host name")]
    IpLiteral,
    /// It ends with a dot. DNS ignores the dot, TLS does not.
    #[error("ends in a dot")]
    TrailingDot,
    /// A label is empty or has more than 63 characters.
    #[error("has an empty label or one of more than 63 characters")]
    LabelLength,
    /// A label starts or ends with a dash.
    #[error("has a label that begins or ends with a dash")]
    LabelDash,
    /// It contains a wildcard, which policies do not support.
    #[error("is a wildcard")]
    Wildcard,
    /// It contains a character other than ASCII letters, digits, dashes and dots.
    #[error("has a character other than letters, digits, dashes and dots")]
    Character,
    /// It has only one label, which a search list would complete.
    #[error("has one label only")]
    SingleLabel,
}

impl Name {
    /// Parses a name of at least two labels. Only ASCII case is folded.
    ///
    /// # Errors
    /// The [`NameError`]. Addresses are checked first, because they have a separate reason.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let name = Self::parse_or_label(text)?;
        if name.is_single_label() { Err(NameError::SingleLabel) } else { Ok(name) }
    }

    /// Parses a name of any number of labels, for the policy to judge.
    ///
    /// # Errors
    /// As [`Self::parse`], but never [`NameError::SingleLabel`].
    pub fn parse_or_label(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if is_ip_literal(text) {
            return Err(NameError::IpLiteral);
        }
        if text.contains('*') {
            return Err(NameError::Wildcard);
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        if !text.bytes().all(allowed) {
            return Err(NameError::Character);
        }
        if text.len() > LONGEST_NAME {
            return Err(NameError::TooLong);
        }
        if text.ends_with('.') {
            return Err(NameError::TrailingDot);
        }
        for label in text.split('.') {
            if label.is_empty() || label.len() > 63 {
                return Err(NameError::LabelLength);
            }
            if label.starts_with('-') || label.ends_with('-') {
                return Err(NameError::LabelDash);
            }
        }
        let is_folded = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        Ok(Self(if is_folded { text.into() } else { text.to_ascii_lowercase().into() }))
    }

    /// Returns the name in lower case, without a trailing dot.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name as a shared string.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }

    /// Returns whether it has one label only.
    #[must_use]
    pub fn is_single_label(&self) -> bool {
        !self.0.contains('.')
    }

    /// Returns the labels from left to right.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}", &*self.0)
    }
}

/// Returns whether a resolver or libc would treat the text as an address.
///
/// The IPv4 rule is that of the WHATWG URL standard ("ends in a number"), which covers what
/// `inet_aton` accepts: the last label is decimal, or hexadecimal after `0x`.
fn is_ip_literal(text: &str) -> bool {
    if text.starts_with('[') || text.contains(':') {
        return true;
    }
    let Some(last) = text.strip_suffix('.').unwrap_or(text).rsplit('.').next() else {
        return false;
    };
    let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    match hexadecimal {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_and_what_is_wrong_with_them() {
        use NameError::*;
        let long_label = format!("{}.io", "a".repeat(64));
        let long_name = format!("{}io", "a.".repeat(127));
        let cases: &[(&str, Result<&str, NameError>)] = &[
            ("contoso.azurecr.io", Ok("contoso.azurecr.io")),
            ("CONTOSO.AzureCR.io", Ok("contoso.azurecr.io")),
            ("a-b.azurecr.sovcloud-azure.de", Ok("a-b.azurecr.sovcloud-azure.de")),
            ("xn--bcher-kva.example", Ok("xn--bcher-kva.example")),
            ("1.example", Ok("1.example")),
            ("", Err(Empty)),
            ("127.0.0.1", Err(IpLiteral)),
            ("127.1", Err(IpLiteral)),
            ("2130706433", Err(IpLiteral)),
            ("0x7f.1", Err(IpLiteral)),
            ("0x7f000001", Err(IpLiteral)),
            ("0177.0.0.01", Err(IpLiteral)),
            ("1.2.3.4.", Err(IpLiteral)),
            ("contoso.0x", Err(IpLiteral)),
            ("::1", Err(IpLiteral)),
            ("[::1]", Err(IpLiteral)),
            ("::ffff:10.0.0.1", Err(IpLiteral)),
            ("fe80::1%eth0", Err(IpLiteral)),
            ("*.azurecr.io", Err(Wildcard)),
            ("contoso.azurecr.io.", Err(TrailingDot)),
            (".", Err(TrailingDot)),
            ("contoso..io", Err(LabelLength)),
            (".contoso.io", Err(LabelLength)),
            (&long_label, Err(LabelLength)),
            (&long_name, Err(TooLong)),
            ("-a.io", Err(LabelDash)),
            ("a-.io", Err(LabelDash)),
            ("localhost", Err(SingleLabel)),
            ("con_toso.io", Err(Character)),
            ("contoso.azurecr.io\0.evil.com", Err(Character)),
            ("contoso.azurecr.io%00", Err(Character)),
            ("c\u{f6}ntoso.io", Err(Character)),
            ("contoso azurecr.io", Err(Character)),
        ];
        for (text, expected) in cases {
            let found = Name::parse(text);
            assert_eq!(
                found.as_ref().map(Name::as_str),
                expected.as_ref().map(|name| *name),
                "{text:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn parsing_is_idempotent_and_blind_to_case(text in "[a-zA-Z0-9.-]{1,40}") {
            if let Ok(name) = Name::parse(&text) {
                prop_assert_eq!(&Name::parse(name.as_str()).unwrap(), &name);
                prop_assert_eq!(&Name::parse(&text.to_ascii_uppercase()).unwrap(), &name);
            }
        }

        #[test]
        fn the_parsers_differ_in_single_labels_only(text in "[a-zA-Z0-9.*-]{0,12}") {
            match (Name::parse(&text), Name::parse_or_label(&text)) {
                (Err(NameError::SingleLabel), Ok(name)) => {
                    prop_assert!(name.is_single_label());
                    prop_assert_eq!(name.labels().count(), 1);
                }
                (strict, lenient) => prop_assert_eq!(strict, lenient),
            }
        }

        #[test]
        fn nothing_panics_and_no_address_passes(text in "\\PC{0,40}") {
            if Name::parse(&text).is_ok() {
                prop_assert!(text.parse::<std::net::IpAddr>().is_err());
            }
        }
    }
}
