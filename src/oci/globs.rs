//! Patterns for repositories and tags. A star stands for characters within one path component, two
//! stars for any number of whole components, none included.

use std::fmt;

use super::reference::{LONGEST_TAG, Tag};
use super::repository::{LONGEST_REPOSITORY, Repository};

/// Why a pattern cannot be used. The text is what an operator reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GlobFault {
    /// Nothing, or an empty component.
    #[error("is empty or has an empty path component")]
    Empty,
    /// Longer than any name that it could fit.
    #[error("is longer than any name")]
    TooLong,
    /// A character that no name has.
    #[error("has an invalid character")]
    Character,
    /// `**` beside other characters.
    #[error("has ** beside other characters; ** must be a whole path component")]
    DoubleStar,
}

/// Patterns for repositories.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RepositoryGlobs(Vec<RepositoryGlob>);

impl RepositoryGlobs {
    /// Adds a pattern, such as `team/**` or `base/alpine-*`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn add(&mut self, pattern: &str) -> Result<(), GlobFault> {
        self.0.push(RepositoryGlob::parse(pattern)?);
        Ok(())
    }

    /// Whether a pattern fits the whole name.
    #[must_use]
    pub fn includes(&self, repository: &Repository) -> bool {
        let components: Vec<&str> = repository.as_str().split('/').collect();
        self.0.iter().any(|glob| glob.includes(&components))
    }

    /// Returns whether it has no patterns.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for RepositoryGlobs {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        out.write_str(&texts.join(", "))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct RepositoryGlob(Vec<Component>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Component {
    /// `**`.
    Any,
    /// Characters, and stars for any number of them.
    One(String),
}

impl RepositoryGlob {
    fn parse(pattern: &str) -> Result<Self, GlobFault> {
        if pattern.len() > LONGEST_REPOSITORY {
            return Err(GlobFault::TooLong);
        }
        let allowed = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-*".contains(&byte)
        };
        let component = |text: &str| match text {
            "" => Err(GlobFault::Empty),
            "**" => Ok(Component::Any),
            _ if text.contains("**") => Err(GlobFault::DoubleStar),
            _ if !text.bytes().all(allowed) => Err(GlobFault::Character),
            _ => Ok(Component::One(text.to_owned())),
        };
        pattern.split('/').map(component).collect::<Result<_, _>>().map(Self)
    }

    fn includes(&self, components: &[&str]) -> bool {
        let fits = |pattern: &Component, component: &&str| match pattern {
            Component::Any => true,
            Component::One(pattern) => is_fit(pattern.as_bytes(), component.as_bytes()),
        };
        wildcard(&self.0, components, |pattern| *pattern == Component::Any, fits)
    }
}

impl fmt::Display for RepositoryGlob {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts = self.0.iter().map(|component| match component {
            Component::Any => "**",
            Component::One(text) => text,
        });
        out.write_str(&texts.collect::<Vec<_>>().join("/"))
    }
}

/// Patterns for tags.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TagGlobs(Vec<String>);

impl TagGlobs {
    /// Adds a pattern, such as `v*`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn add(&mut self, pattern: &str) -> Result<(), GlobFault> {
        if pattern.is_empty() {
            return Err(GlobFault::Empty);
        }
        if pattern.len() > LONGEST_TAG {
            return Err(GlobFault::TooLong);
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-*".contains(&byte);
        if !pattern.bytes().all(allowed) {
            return Err(GlobFault::Character);
        }
        self.0.push(pattern.to_owned());
        Ok(())
    }

    /// Whether a pattern fits the whole tag.
    #[must_use]
    pub fn includes(&self, tag: &Tag) -> bool {
        self.0.iter().any(|glob| is_fit(glob.as_bytes(), tag.as_str().as_bytes()))
    }
}

impl fmt::Display for TagGlobs {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return out.write_str("none: only digests");
        }
        out.write_str(&self.0.join(", "))
    }
}

fn is_fit(pattern: &[u8], text: &[u8]) -> bool {
    wildcard(pattern, text, |byte| *byte == b'*', |pattern, byte| pattern == byte)
}

/// Matches a pattern with wildcards against a whole text, in time of at most their lengths'
/// product: only the last wildcard is ever gone back to.
fn wildcard<P, T>(
    pattern: &[P],
    text: &[T],
    is_wildcard: impl Fn(&P) -> bool,
    fits: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut at, mut from) = (0, 0);
    // Where to go on behind the last wildcard, and how much of the text it has taken.
    let mut last: Option<(usize, usize)> = None;
    while let Some(item) = text.get(from) {
        match pattern.get(at) {
            Some(part) if is_wildcard(part) => {
                at += 1;
                last = Some((at, from));
            }
            Some(part) if fits(part, item) => {
                at += 1;
                from += 1;
            }
            _ => {
                let Some((behind, taken)) = last else { return false };
                at = behind;
                from = taken + 1;
                last = Some((behind, from));
            }
        }
    }
    pattern.iter().skip(at).all(is_wildcard)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn includes(pattern: &str, repository: &str) -> bool {
        let mut globs = RepositoryGlobs::default();
        globs.add(pattern).unwrap();
        globs.includes(&Repository::parse(repository).unwrap())
    }

    #[test]
    fn patterns_of_repositories() {
        for (pattern, repository, expected) in [
            ("team/app", "team/app", true),
            ("team/app", "team/app/x", false),
            ("team/app", "team/app2", false),
            ("team/app", "xteam/app", false),
            ("team/*", "team/app", true),
            ("team/*", "team", false),
            ("team/*", "team/a/b", false),
            ("team/**", "team/a/b", true),
            ("team/**", "team/a", true),
            ("team/**", "team", true),
            ("team/**", "teams/a", false),
            ("**", "a", true),
            ("**", "a/b/c", true),
            ("*", "a", true),
            ("*", "a/b", false),
            ("**/app", "app", true),
            ("**/app", "a/b/app", true),
            ("**/app", "a/b/app/c", false),
            ("a/**/z", "a/z", true),
            ("a/**/z", "a/b/c/z", true),
            ("a/**/b/**/z", "a/x/b/y/b/z", true),
            ("base/alpine-*", "base/alpine-3", true),
            ("base/alpine-*", "base/alpine", false),
            ("*-x/*.y", "a-x/b.y", true),
            ("*-x/*.y", "a-x/b.z", false),
        ] {
            assert_eq!(includes(pattern, repository), expected, "{pattern} {repository}");
        }
    }

    #[test]
    fn patterns_that_cannot_be_used() {
        let mut globs = RepositoryGlobs::default();
        for (pattern, fault) in [
            ("", GlobFault::Empty),
            ("/a", GlobFault::Empty),
            ("a/", GlobFault::Empty),
            ("a//b", GlobFault::Empty),
            ("A", GlobFault::Character),
            ("a:b", GlobFault::Character),
            ("a?", GlobFault::Character),
            ("[ab]", GlobFault::Character),
            ("a**", GlobFault::DoubleStar),
            ("***", GlobFault::DoubleStar),
        ] {
            assert_eq!(globs.add(pattern), Err(fault), "{pattern}");
        }
        let mut tags = TagGlobs::default();
        for (pattern, fault) in
            [("", GlobFault::Empty), ("a/b", GlobFault::Character), ("v?", GlobFault::Character)]
        {
            assert_eq!(tags.add(pattern), Err(fault), "{pattern}");
        }
        assert!(globs.is_empty() && !tags.includes(&Tag::parse("a").unwrap()));
    }

    /// Tries every way to read the pattern.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|taken| naive(rest, &text[taken..])),
            Some((byte, rest)) => text.first() == Some(byte) && naive(rest, &text[1..]),
        }
    }

    fn naive_path(pattern: &[&str], text: &[&str]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((&"**", rest)) => (0..=text.len()).any(|taken| naive_path(rest, &text[taken..])),
            Some((one, rest)) => text.split_first().is_some_and(|(first, behind)| {
                naive(one.as_bytes(), first.as_bytes()) && naive_path(rest, behind)
            }),
        }
    }

    proptest! {
        #[test]
        fn the_twin_agrees(pattern in "[ab*]{1,8}", text in "[ab]{1,12}") {
            let mut tags = TagGlobs::default();
            tags.add(&pattern).unwrap();
            let tag = Tag::parse(&text).unwrap();
            prop_assert_eq!(tags.includes(&tag), naive(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn the_twin_of_paths_agrees(
            pattern in proptest::collection::vec("a|b|\\*|\\*\\*|a\\*", 1..6),
            text in proptest::collection::vec("a|b|ab", 1..7),
        ) {
            let (pattern, text) = (pattern.join("/"), text.join("/"));
            let (parts, names): (Vec<&str>, Vec<&str>) =
                (pattern.split('/').collect(), text.split('/').collect());
            prop_assert_eq!(includes(&pattern, &text), naive_path(&parts, &names));
        }
    }
}
