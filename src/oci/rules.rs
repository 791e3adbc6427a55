//! Which operations a registry's file allows.

use super::globs::{RepositoryGlobs, TagGlobs};
use super::operation::{Action, Method, Mount, Operation};
use super::parse::Request;
use super::repository::Repository;

/// The rules of one registry, for its mirror or for its inspected tunnels.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestRules {
    /// Repositories that may be pulled; `None`: all.
    pub pull: Option<RepositoryGlobs>,
    /// Repositories that may be pushed to; empty: none.
    pub push: RepositoryGlobs,
    /// Tags that may be named; `None`: all. A digest always may.
    pub tags: Option<TagGlobs>,
    /// Whether tags and repositories may be listed.
    pub listing: Listing,
    /// Whether Azure's own paths may be read.
    pub azure: AzureApi,
}

/// Whether the paths below `/acr/v1/` may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AzureApi {
    /// They may not.
    #[default]
    Refused,
    /// They may.
    ReadOnly,
}

/// Whether tags and repositories may be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Listing {
    /// They may not.
    #[default]
    Refused,
    /// They may.
    Allowed,
}

/// Why the rules do not allow an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RuleFault {
    /// No rule can allow it: a deletion, or a push where nobody may push.
    Operation,
    /// The repository is not among those of the rules.
    Repository,
    /// The tag is not among those of the rules.
    Tag,
    /// Listing is not allowed.
    Listing,
}

impl RequestRules {
    /// Judges a request.
    ///
    /// # Errors
    /// Why it is not allowed.
    pub fn judge(&self, request: &Request) -> Result<(), RuleFault> {
        let operation = &request.operation;
        match operation.action() {
            Action::Delete => return Err(RuleFault::Operation),
            Action::Write if self.push.is_empty() => return Err(RuleFault::Operation),
            Action::Write => {
                self.judge_push(operation)?;
            }
            Action::Read => {
                if matches!(operation, Operation::Azure(_)) && self.azure == AzureApi::Refused {
                    return Err(RuleFault::Operation);
                }
                let may_read = |name| self.may_pull(name) || self.may_look(request, name);
                if operation.repository().is_some_and(|name| !may_read(name)) {
                    return Err(RuleFault::Repository);
                }
            }
        }
        let lists = match operation {
            Operation::Tags { .. } | Operation::Catalog { .. } => true,
            Operation::Azure(azure) => azure.is_list(),
            _ => false,
        };
        if lists && self.listing == Listing::Refused {
            return Err(RuleFault::Listing);
        }
        match (operation.tag(), &self.tags) {
            (Some(tag), Some(tags)) if !tags.includes(tag) => Err(RuleFault::Tag),
            _ => Ok(()),
        }
    }

    /// A blob may be mounted only from where it may be pulled. Without `from` the registry looks in
    /// every repository, so that this is allowed only where all may be pulled.
    fn judge_push(&self, operation: &Operation) -> Result<(), RuleFault> {
        let within = operation.repository().is_some_and(|name| self.push.includes(name));
        let mount = match operation {
            Operation::UploadStart { mount: Some(Mount { from, .. }), .. } => match from {
                Some(from) => self.may_pull(from),
                None => self.pull.is_none(),
            },
            _ => true,
        };
        if within && mount { Ok(()) } else { Err(RuleFault::Repository) }
    }

    /// Clients look for what is there before they push it.
    fn may_look(&self, request: &Request, repository: &Repository) -> bool {
        let looked_for =
            matches!(request.operation, Operation::Blob { .. } | Operation::Manifest { .. });
        looked_for && request.method == Method::Head && self.push.includes(repository)
    }

    fn may_pull(&self, repository: &Repository) -> bool {
        self.pull.as_ref().is_none_or(|globs| globs.includes(repository))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Naming;

    fn rules(pull: Option<&[&str]>, push: &[&str], tags: Option<&[&str]>) -> RequestRules {
        let globs = |patterns: &[&str]| {
            let mut globs = RepositoryGlobs::default();
            patterns.iter().for_each(|pattern| globs.add(pattern).unwrap());
            globs
        };
        let tags = tags.map(|patterns| {
            let mut globs = TagGlobs::default();
            patterns.iter().for_each(|pattern| globs.add(pattern).unwrap());
            globs
        });
        RequestRules { pull: pull.map(globs), push: globs(push), tags, ..RequestRules::default() }
    }

    #[test]
    fn operations_are_judged() {
        use RuleFault::{Listing as List, Operation as Op, Repository as Repo, Tag};
        let digest = format!("sha256:{}", "0".repeat(64));
        let pull = rules(Some(&["team/**", "base/alpine"]), &[], Some(&["v*"]));
        let push = rules(Some(&["team/**"]), &["team/app"], None);
        let open = RequestRules::default();
        let push_all = rules(None, &["**"], Some(&[]));
        let push_only = rules(Some(&["base/**"]), &["team/app"], Some(&["v*"]));
        let azure = RequestRules { azure: AzureApi::ReadOnly, ..pull.clone() };
        let listing = RequestRules { listing: Listing::Allowed, ..pull.clone() };
        for (rules, method, target, expected) in [
            (&pull, "GET", "/v2/", Ok(())),
            (&pull, "GET", "/v2/team/app/manifests/v1", Ok(())),
            (&pull, "HEAD", "/v2/base/alpine/manifests/v1", Ok(())),
            (&pull, "GET", "/v2/base/alpine/manifests/latest", Err(Tag)),
            (&pull, "GET", "/v2/base/alpine/manifests/DIGEST", Ok(())),
            (&pull, "GET", "/v2/base/debian/manifests/v1", Err(Repo)),
            (&pull, "GET", "/v2/base/debian/blobs/DIGEST", Err(Repo)),
            (&pull, "GET", "/v2/team/app/blobs/DIGEST", Ok(())),
            (&pull, "GET", "/v2/team/app/tags/list", Err(List)),
            (&pull, "GET", "/v2/base/debian/tags/list", Err(Repo)),
            (&pull, "GET", "/v2/team/app/referrers/DIGEST", Ok(())),
            (&pull, "GET", "/v2/other/app/referrers/DIGEST", Err(Repo)),
            (&pull, "GET", "/v2/_catalog", Err(List)),
            (&pull, "GET", "/oauth2/token", Ok(())),
            (&pull, "GET", "/acr/v1/team/app", Err(Op)),
            (&azure, "GET", "/acr/v1/team/app", Ok(())),
            (&azure, "GET", "/acr/v1/other", Err(Repo)),
            (&azure, "GET", "/acr/v1/team/app/_tags/latest", Err(Tag)),
            (&azure, "GET", "/acr/v1/team/app/_tags", Err(List)),
            (&azure, "GET", "/acr/v1/_catalog", Err(List)),
            (&pull, "PUT", "/v2/team/app/manifests/v1", Err(Op)),
            (&pull, "POST", "/v2/team/app/blobs/uploads/", Err(Op)),
            (&pull, "DELETE", "/v2/team/app/manifests/v1", Err(Op)),
            (&listing, "GET", "/v2/_catalog", Ok(())),
            (&listing, "GET", "/v2/team/app/tags/list", Ok(())),
            (&listing, "GET", "/v2/base/debian/tags/list", Err(Repo)),
            (&open, "GET", "/v2/any/manifests/latest", Ok(())),
            (&open, "PUT", "/v2/any/manifests/latest", Err(Op)),
            (&open, "GET", "/v2/any/tags/list", Err(List)),
            (&push, "PUT", "/v2/team/app/manifests/latest", Ok(())),
            (&push, "PUT", "/v2/team/other/manifests/latest", Err(Repo)),
            (&push, "POST", "/v2/team/app/blobs/uploads/", Ok(())),
            (&push, "PATCH", "/v2/team/app/blobs/uploads/1", Ok(())),
            (&push, "PATCH", "/v2/team/b/blobs/uploads/1", Err(Repo)),
            (&push, "DELETE", "/v2/team/app/blobs/uploads/1", Ok(())),
            (&push, "DELETE", "/v2/team/app/blobs/DIGEST", Err(Op)),
            (&push, "POST", "/v2/team/app/blobs/uploads/?mount=DIGEST&from=team/b", Ok(())),
            (&push, "POST", "/v2/team/app/blobs/uploads/?mount=DIGEST&from=x/b", Err(Repo)),
            (&push, "POST", "/v2/team/app/blobs/uploads/?mount=DIGEST", Err(Repo)),
            (&push_only, "HEAD", "/v2/team/app/blobs/DIGEST", Ok(())),
            (&push_only, "HEAD", "/v2/team/app/manifests/v1", Ok(())),
            (&push_only, "HEAD", "/v2/team/app/manifests/latest", Err(Tag)),
            (&push_only, "GET", "/v2/team/app/blobs/DIGEST", Err(Repo)),
            (&push_only, "GET", "/v2/team/app/manifests/v1", Err(Repo)),
            (&push_only, "HEAD", "/v2/team/b/blobs/DIGEST", Err(Repo)),
            (&push_all, "POST", "/v2/team/app/blobs/uploads/?mount=DIGEST", Ok(())),
            (&push_all, "PUT", "/v2/a/manifests/latest", Err(Tag)),
            (&push_all, "PUT", "/v2/a/manifests/DIGEST", Ok(())),
        ] {
            let target = target.replace("DIGEST", &digest);
            let request = Request::parse(method, &target, Naming::Connection).unwrap();
            assert_eq!(rules.judge(&request), expected, "{method} {target}");
        }
    }
}
