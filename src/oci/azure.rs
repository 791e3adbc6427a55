//! Azure's own lists, below `/acr/v1/`: as far as they only read.

use std::sync::Arc;

use super::digest::Digest;
use super::fault::RequestFault;
use super::query::{Query, QueryText};
use super::reference::Tag;
use super::repository::Repository;

/// The start of every path.
pub(super) const PREFIX: &str = "/acr/v1/";

/// The longest value of a query, in bytes.
const LONGEST_VALUE: usize = 256;

/// What is read.
#[allow(missing_docs, reason = "the types of the fields say what they are")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AzureItem {
    /// The repositories of the registry.
    Catalog,
    /// The attributes of a repository.
    Repository(Repository),
    /// The tags of a repository.
    Tags(Repository),
    /// The attributes of a tag.
    Tag(Repository, Tag),
    /// The manifests of a repository.
    Manifests(Repository),
    /// The attributes of a manifest.
    Manifest(Repository, Digest),
}

/// A request below `/acr/v1/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Azure {
    /// What is read.
    pub item: AzureItem,
    /// At most this many entries.
    pub n: Option<u32>,
    /// Entries behind this one.
    pub last: Option<Arc<str>>,
    /// Their order.
    pub order: Option<Arc<str>>,
    /// Only tags of this manifest.
    pub digest: Option<Digest>,
}

impl Azure {
    /// Parses what stands behind the prefix.
    pub(super) fn parse(rest: &str, query: &mut Query<'_>) -> Result<Self, RequestFault> {
        let repository = |text: &str| Repository::parse(text).ok_or(RequestFault::Repository);
        let item = match (rest.strip_suffix("/_tags"), rest.strip_suffix("/_manifests")) {
            _ if rest == "_catalog" => AzureItem::Catalog,
            (Some(name), _) => AzureItem::Tags(repository(name)?),
            (_, Some(name)) => AzureItem::Manifests(repository(name)?),
            (None, None) => match (rest.split_once("/_tags/"), rest.split_once("/_manifests/")) {
                (Some((name, tag)), _) => {
                    AzureItem::Tag(repository(name)?, Tag::parse(tag).ok_or(RequestFault::Tag)?)
                }
                (_, Some((name, digest))) => {
                    AzureItem::Manifest(repository(name)?, Digest::parse(digest)?)
                }
                (None, None) => AzureItem::Repository(repository(rest)?),
            },
        };
        let n = query.take("n")?.map(|text| text.parse().map_err(|_| RequestFault::Value));
        let digest = query.take("digest")?.map(|text| Digest::parse(&text)).transpose()?;
        let mut word = |key: &str| query.take(key)?.map(|text| word(&text)).transpose();
        let (last, order) = (word("last")?, word("orderby")?);
        Ok(Self { item, n: n.transpose()?, last, order, digest })
    }

    /// Returns the repository that it concerns.
    #[must_use]
    pub fn repository(&self) -> Option<&Repository> {
        match &self.item {
            AzureItem::Catalog => None,
            AzureItem::Repository(repository)
            | AzureItem::Tags(repository)
            | AzureItem::Tag(repository, _)
            | AzureItem::Manifests(repository)
            | AzureItem::Manifest(repository, _) => Some(repository),
        }
    }

    /// Returns whether it lists what a client may not know.
    #[must_use]
    pub fn is_list(&self) -> bool {
        matches!(self.item, AzureItem::Catalog | AzureItem::Tags(_) | AzureItem::Manifests(_))
    }

    /// Builds path and query anew.
    pub(super) fn target(&self) -> String {
        let mut path = match &self.item {
            AzureItem::Catalog => format!("{PREFIX}_catalog"),
            AzureItem::Repository(repository) => format!("{PREFIX}{repository}"),
            AzureItem::Tags(repository) => format!("{PREFIX}{repository}/_tags"),
            AzureItem::Tag(repository, tag) => format!("{PREFIX}{repository}/_tags/{tag}"),
            AzureItem::Manifests(repository) => format!("{PREFIX}{repository}/_manifests"),
            AzureItem::Manifest(repository, digest) => {
                format!("{PREFIX}{repository}/_manifests/{digest}")
            }
        };
        let mut query = QueryText::default();
        query.optional("n", self.n.map(|n| n.to_string()).as_deref());
        query.optional("last", self.last.as_deref());
        query.optional("orderby", self.order.as_deref());
        query.optional("digest", self.digest.as_ref().map(Digest::as_str));
        path.push_str(&query.finish());
        path
    }
}

fn word(text: &str) -> Result<Arc<str>, RequestFault> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte);
    match text.len() <= LONGEST_VALUE && text.bytes().all(allowed) {
        true => Ok(text.into()),
        false => Err(RequestFault::Value),
    }
}

#[cfg(test)]
mod tests {
    use crate::oci::{Naming, Request, RequestFault};

    #[test]
    fn lists_are_read_and_built_anew() {
        for (method, target, expected) in [
            ("GET", "/acr/v1/_catalog?n=9", Ok("/acr/v1/_catalog?n=9")),
            ("GET", "/acr/v1/team/app", Ok("/acr/v1/team/app")),
            (
                "GET",
                "/acr/v1/team/app/_tags?orderby=timedesc&n=1&last=v1",
                Ok("/acr/v1/team/app/_tags?n=1&last=v1&orderby=timedesc"),
            ),
            ("GET", "/acr/v1/team/app/_tags/v1", Ok("/acr/v1/team/app/_tags/v1")),
            ("GET", "/acr/v1/team/app/_manifests", Ok("/acr/v1/team/app/_manifests")),
            ("DELETE", "/acr/v1/team/app", Err(RequestFault::Method)),
            ("PATCH", "/acr/v1/team/app/_tags/v1", Err(RequestFault::Method)),
            ("GET", "/acr/v1/team/app/_tags/a/b", Err(RequestFault::Tag)),
            ("GET", "/acr/v1/", Err(RequestFault::Repository)),
            ("GET", "/acr/v1/team/_other", Err(RequestFault::Repository)),
            ("GET", "/acr/v1/team/app?api=1", Err(RequestFault::UnknownKey)),
            ("GET", "/acr/v2/team/app", Err(RequestFault::UnknownPath)),
        ] {
            let request = Request::parse(method, target, Naming::Connection);
            let built = request.map(|request| request.operation.target());
            assert_eq!(built.as_deref().map_err(|fault| *fault), expected, "{method} {target}");
        }
        let mirror = Request::parse("GET", "/acr/v1/_catalog", Naming::Mirror);
        assert_eq!(mirror, Err(RequestFault::UnknownPath));
    }
}
