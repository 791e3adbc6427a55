//! What names a manifest within a repository: a tag or a digest.

use std::fmt;
use std::sync::Arc;

use super::digest::{Digest, DigestFault};

/// The longest tag, in bytes.
pub const LONGEST_TAG: usize = 128;

/// A tag by the grammar of the OCI distribution spec: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

impl Tag {
    /// Parses a tag; `None` when it breaks the grammar.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (first, rest) = text.as_bytes().split_first()?;
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let fits = text.len() <= LONGEST_TAG
            && is_word(first)
            && rest.iter().all(|byte| is_word(byte) || b".-".contains(byte));
        fits.then(|| Self(text.into()))
    }

    /// Returns the tag.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the tag, without a copy.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, out)
    }
}

/// What names a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reference {
    /// A tag, which the registry may move.
    Tag(Tag),
    /// The digest of its bytes.
    Digest(Digest),
}

impl Reference {
    /// Parses a reference. A tag has no colon and a digest has one, so there is one reading.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str) -> Result<Self, Option<DigestFault>> {
        if text.contains(':') {
            return Digest::parse(text).map(Self::Digest).map_err(Some);
        }
        Tag::parse(text).map(Self::Tag).ok_or(None)
    }

    /// Returns the digest; `None` for a tag.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Digest(digest) => Some(digest),
            Self::Tag(_) => None,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(out),
            Self::Digest(digest) => digest.fmt(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_follow_the_grammar() {
        for text in ["latest", "_", "1.0", "V1.2-rc.3_x", "a..b", "0-", "A__b"] {
            assert!(Tag::parse(text).is_some(), "{text}");
        }
        for text in ["", ".a", "-a", "a b", "a/b", "a:b", "a%41", "ä", "a+b", "a~", "..", "."] {
            assert!(Tag::parse(text).is_none(), "{text}");
        }
        assert!(Tag::parse(&"a".repeat(LONGEST_TAG)).is_some());
        assert!(Tag::parse(&"a".repeat(LONGEST_TAG + 1)).is_none());
    }
}
