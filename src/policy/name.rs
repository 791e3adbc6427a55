//! Host names in the one canonical form that config, CONNECT and SNI share.
//!
//! A [`Name`] is lower-case letters, digits and dashes in labels of 1 to 63 octets, 253 octets in
//! all, at least two labels, no trailing dot (RFC 1123 §2.1, RFC 6066 §3). What has the type is
//! right: equality of two names is equality of two strings, so that no path can be made to compare
//! by other rules than another.

use std::fmt;
use std::sync::Arc;

/// The longest host name that DNS can carry, without its trailing dot (RFC 1035 §2.3.4).
pub const LONGEST_NAME: usize = 253;

/// A host name, valid and canonical by construction. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

/// Why some bytes are not a [`Name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing at all.
    #[error("is empty")]
    Empty,
    /// More than [`LONGEST_NAME`] octets.
    #[error("is longer than 253 characters")]
    TooLong,
    /// An address, in whatever spelling (`127.1`, `0x7f000001`, `::1`, `[::1]`).
    #[error("is an IP address, not a host name")]
    IpLiteral,
    /// It ends in a dot. DNS takes it for the same name; TLS does not.
    #[error("ends in a dot")]
    TrailingDot,
    /// A label with no character, or one of more than 63.
    #[error("has an empty label or one of more than 63 characters")]
    LabelLength,
    /// A label that begins or ends with a dash.
    #[error("has a label that begins or ends with a dash")]
    LabelDash,
    /// A star, which no policy takes.
    #[error("is a wildcard")]
    Wildcard,
    /// Anything but ASCII letters, digits, dashes and dots.
    #[error("has a character other than letters, digits, dashes and dots")]
    Character,
    /// One label only, which a search list would complete.
    #[error("has one label only")]
    SingleLabel,
}

impl Name {
    /// Reads a name, folding ASCII case and nothing else.
    ///
    /// # Errors
    /// One [`NameError`] a fault. Addresses are told first, since they have a reason of their own.
    pub fn parse(text: &str) -> Result<Self, NameError> {
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
        if !text.contains('.') {
            return Err(NameError::SingleLabel);
        }
        let is_folded = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        Ok(Self(if is_folded { text.into() } else { text.to_ascii_lowercase().into() }))
    }

    /// The name, lower case, without a trailing dot.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same as a text that others can hold without a copy.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }

    /// The labels, from the left.
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

/// Whether some resolver or libc would take the text for an address instead of looking it up.
///
/// The rule for IPv4 is that of the WHATWG URL standard ("ends in a number"), which covers what
/// `inet_aton` takes: a last label of digits, or of hexadecimal digits behind `0x`.
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
        fn nothing_panics_and_no_address_passes(text in "\\PC{0,40}") {
            if Name::parse(&text).is_ok() {
                prop_assert!(text.parse::<std::net::IpAddr>().is_err());
            }
        }
    }
}
