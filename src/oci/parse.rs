//! Reads a method and a request target into one operation, or says what is wrong.
//!
//! The target is taken as it was received: nothing is decoded in a path and nothing is normalised,
//! so there is one spelling of each operation, and a registry cannot read another one in it.

use super::azure::{self, Azure};
use super::digest::Digest;
use super::fault::{LONGEST_TARGET, RequestFault};
use super::location::{UriReference, UriReferenceFault};
use super::operation::{
    ArtifactType, Method, Mount, Operation, Page, Scope, TokenPath, TokenQuery, TokenWord, Upload,
    UploadId, UploadState,
};
use super::query::{MOST_PAIRS, Query};
use super::reference::{Reference, Tag};
use super::repository::{LONGEST_REPOSITORY, RegistryName, Repository, is_component};

/// Whether a client may name the registry in the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// As to a mirror: by `?ns=`, by the first component of the path, or not at all.
    Mirror,
    /// Never: the connection has said which registry it is.
    Connection,
}

/// A request that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The method; only this field distinguishes GET from HEAD.
    pub method: Method,
    /// What the client calls the registry; `None` where it did not say.
    pub registry: Option<RegistryName>,
    /// What it asks for.
    pub operation: Operation,
}

impl Request {
    /// Parses a method and a request target as they were received.
    ///
    /// # Errors
    /// The first fault.
    pub fn parse(method: &str, target: &str, naming: Naming) -> Result<Self, RequestFault> {
        let (path, query) = split(target)?;
        let mut query = Query::parse(query)?;
        let ns = match naming {
            Naming::Mirror => query.take("ns")?,
            Naming::Connection => None,
        };
        let named = ns.as_deref().map(registry).transpose()?;
        let method = Method::parse(method).ok_or(RequestFault::Method)?;
        if let Some(path) = token_path(path) {
            let operation = Operation::Token { path, query: token_query(&mut query)? };
            query.finish()?;
            let fits =
                matches!((method, path), (Method::Post, _) | (Method::Get, TokenPath::Token));
            let request = Self { method, registry: named, operation };
            return if fits { Ok(request) } else { Err(RequestFault::Method) };
        }
        if let (Naming::Connection, Some(rest)) = (naming, path.strip_prefix(azure::PREFIX)) {
            let operation = Operation::Azure(Azure::parse(rest, &mut query)?);
            query.finish()?;
            let request = Self { method, registry: None, operation };
            return if method.reads() { Ok(request) } else { Err(RequestFault::Method) };
        }
        let rest = path.strip_prefix("/v2/").ok_or(RequestFault::UnknownPath)?;
        let (registry, rest) = match naming {
            Naming::Mirror => without_registry(rest, named)?,
            Naming::Connection => (None, rest),
        };
        let operation = operation(method, rest, &mut query)?;
        query.finish()?;
        Ok(Self { method, registry, operation })
    }
}

impl Request {
    /// Parses a request to a data endpoint. Its path is the registry's choice, with a signature of
    /// its own: nothing is judged but that it reads there.
    ///
    /// # Errors
    /// The first fault.
    pub fn stored(method: &str, target: &str) -> Result<Self, RequestFault> {
        let method = Method::parse(method).filter(|method| method.reads());
        let method = method.ok_or(RequestFault::Method)?;
        match UriReference::parse(target) {
            Ok(UriReference::Relative(target)) => {
                let operation = Operation::Stored { target: target.into() };
                Ok(Self { method, registry: None, operation })
            }
            Ok(UriReference::Absolute { .. }) => Err(RequestFault::Form),
            Err(UriReferenceFault::TooLong) => Err(RequestFault::TooLong),
            Err(UriReferenceFault::Fragment) => Err(RequestFault::Fragment),
            Err(UriReferenceFault::Character) => Err(RequestFault::Character),
            Err(_) => Err(RequestFault::Form),
        }
    }
}

/// Splits a target into path and query, and refuses whatever no path of the spec has.
fn split(target: &str) -> Result<(&str, Option<&str>), RequestFault> {
    if target.len() > LONGEST_TARGET {
        return Err(RequestFault::TooLong);
    }
    if target.contains('#') {
        return Err(RequestFault::Fragment);
    }
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let segments = path.strip_prefix('/').ok_or(RequestFault::Form)?;
    if path.contains('%') {
        return Err(RequestFault::PercentEncoding);
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/._:=-".contains(&byte);
    if !path.bytes().all(allowed) {
        return Err(RequestFault::Character);
    }
    // A last slash is part of two operations, which look for it themselves.
    let inner = segments.strip_suffix('/').unwrap_or(segments);
    for segment in inner.split('/') {
        match segment {
            "" if !segments.is_empty() => return Err(RequestFault::EmptySegment),
            "." | ".." => return Err(RequestFault::DotSegment),
            _ => {}
        }
    }
    Ok((path, query))
}

fn token_path(path: &str) -> Option<TokenPath> {
    [TokenPath::Token, TokenPath::Exchange].into_iter().find(|one| one.as_str() == path)
}

/// Takes the registry off the front of what stands behind `/v2/`. Where `ns` names it, the first
/// component is a registry only if it is the same: BuildKit sends both.
fn without_registry(
    rest: &str,
    named: Option<RegistryName>,
) -> Result<(Option<RegistryName>, &str), RequestFault> {
    match (rest.split_once('/'), named) {
        (Some((first, behind)), None) if RegistryName::is_meant_by(first) => {
            Ok((Some(registry(first)?), behind))
        }
        (Some((first, behind)), Some(name))
            if RegistryName::parse(first).as_ref() == Some(&name) =>
        {
            Ok((Some(name), behind))
        }
        (_, named) => Ok((named, rest)),
    }
}

fn registry(text: &str) -> Result<RegistryName, RequestFault> {
    RegistryName::parse(text).ok_or(RequestFault::Registry)
}

/// Reads what stands behind `/v2/` and the registry, from its end: the last two segments tell what
/// it is, whatever words the repository is made of.
fn operation(method: Method, rest: &str, query: &mut Query<'_>) -> Result<Operation, RequestFault> {
    let reads = method.reads();
    let only = |fits: bool| if fits { Ok(()) } else { Err(RequestFault::Method) };
    match rest {
        "" => return only(reads).map(|()| Operation::Ping),
        "_catalog" => {
            only(reads)?;
            let last = |text: &str| Repository::parse(text).ok_or(RequestFault::Value);
            return Ok(Operation::Catalog { page: page(query, last)? });
        }
        _ => {}
    }
    if let Some(name) = rest.strip_suffix("/blobs/uploads/") {
        only(method == Method::Post)?;
        return upload_start(repository(name)?, query);
    }
    let (front, last) = rest.rsplit_once('/').ok_or(RequestFault::UnknownPath)?;
    if last.is_empty() {
        return Err(RequestFault::EmptySegment);
    }
    let (name, kind) = front.rsplit_once('/').ok_or(RequestFault::UnknownPath)?;
    match kind {
        "manifests" => manifest(method, repository(name)?, last),
        "blobs" => {
            let (repository, digest) = (repository(name)?, Digest::parse(last)?);
            match method {
                Method::Get | Method::Head => Ok(Operation::Blob { repository, digest }),
                Method::Delete => Ok(Operation::DeleteBlob { repository, digest }),
                _ => Err(RequestFault::Method),
            }
        }
        "tags" if last == "list" => {
            let repository = repository(name)?;
            only(reads)?;
            let last = |text: &str| Tag::parse(text).ok_or(RequestFault::Value);
            Ok(Operation::Tags { repository, page: page(query, last)? })
        }
        "referrers" => {
            let (repository, digest) = (repository(name)?, Digest::parse(last)?);
            only(reads)?;
            let artifact_type = query.take("artifactType")?;
            let artifact_type = artifact_type
                .map(|text| ArtifactType::parse(&text).ok_or(RequestFault::Value))
                .transpose()?;
            Ok(Operation::Referrers { repository, digest, artifact_type })
        }
        "uploads" => match name.strip_suffix("/blobs") {
            Some(name) => upload(method, repository(name)?, last, query),
            None => Err(RequestFault::UnknownPath),
        },
        _ => Err(RequestFault::UnknownPath),
    }
}

fn repository(text: &str) -> Result<Repository, RequestFault> {
    Repository::parse(text).ok_or_else(|| match text.split('/').all(is_component) {
        true if text.len() > LONGEST_REPOSITORY => RequestFault::RepositoryTooLong,
        _ => RequestFault::Repository,
    })
}

fn manifest(
    method: Method,
    repository: Repository,
    reference: &str,
) -> Result<Operation, RequestFault> {
    let reference = Reference::parse(reference)
        .map_err(|fault| fault.map_or(RequestFault::Tag, RequestFault::Digest))?;
    match method {
        Method::Get | Method::Head => Ok(Operation::Manifest { repository, reference }),
        Method::Put => Ok(Operation::PutManifest { repository, reference }),
        Method::Delete => Ok(Operation::DeleteManifest { repository, reference }),
        Method::Post | Method::Patch => Err(RequestFault::Method),
    }
}

/// `n` and `last`. Zero entries are a way to ask whether a list exists, which docker-registry has.
fn page<T>(
    query: &mut Query<'_>,
    read_last: impl Fn(&str) -> Result<T, RequestFault>,
) -> Result<Page<T>, RequestFault> {
    let n = query.take("n")?.map(|text| number(&text)).transpose()?;
    let last = query.take("last")?.map(|text| read_last(&text)).transpose()?;
    Ok(Page { n, last })
}

/// A number as decimal digits without a sign or leading zeros.
fn number(text: &str) -> Result<u32, RequestFault> {
    let plain =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let value = text.parse().ok().filter(|_| plain);
    value.ok_or(RequestFault::Value)
}

fn upload_start(repository: Repository, query: &mut Query<'_>) -> Result<Operation, RequestFault> {
    let digest = query.take("digest")?.map(|text| Digest::parse(&text)).transpose()?;
    let mount = query.take("mount")?.map(|text| Digest::parse(&text)).transpose()?;
    let from = query.take("from")?.map(|text| self::repository(&text)).transpose()?;
    let mount = match (mount, from) {
        (Some(digest), from) => Some(Mount { digest, from }),
        (None, None) => None,
        (None, Some(_)) => return Err(RequestFault::Value),
    };
    if digest.is_some() && mount.is_some() {
        return Err(RequestFault::Value);
    }
    Ok(Operation::UploadStart { repository, digest, mount })
}

fn upload(
    method: Method,
    repository: Repository,
    id: &str,
    query: &mut Query<'_>,
) -> Result<Operation, RequestFault> {
    let id = UploadId::parse(id).ok_or(RequestFault::Upload)?;
    let state = query.take("_state")?;
    let state =
        state.map(|text| UploadState::parse(&text).ok_or(RequestFault::Value)).transpose()?;
    let no_cache = query.take("_nouploadcache")?.map(|text| boolean(&text)).transpose()?;
    let upload = Upload { id, state, no_cache };
    match method {
        Method::Patch => Ok(Operation::UploadChunk { repository, upload }),
        Method::Put => {
            let digest = query.take("digest")?.ok_or(RequestFault::Value)?;
            let digest = Digest::parse(&digest)?;
            Ok(Operation::UploadFinish { repository, upload, digest })
        }
        Method::Get => Ok(Operation::UploadStatus { repository, upload }),
        Method::Delete => Ok(Operation::UploadCancel { repository, upload }),
        Method::Head | Method::Post => Err(RequestFault::Method),
    }
}

fn token_query(query: &mut Query<'_>) -> Result<TokenQuery, RequestFault> {
    let mut scopes = Vec::new();
    for value in query.take_all("scope") {
        for scope in value.split(' ') {
            scopes.push(Scope::parse(scope).ok_or(RequestFault::Value)?);
        }
    }
    let mut word = |key: &str| -> Result<Option<TokenWord>, RequestFault> {
        let value = query.take(key)?;
        value.map(|text| TokenWord::parse(&text).ok_or(RequestFault::Value)).transpose()
    };
    let (service, account, client_id) = (word("service")?, word("account")?, word("client_id")?);
    let offline_token = query.take("offline_token")?.map(|text| boolean(&text)).transpose()?;
    // Each scope goes on as a pair of its own, and what is built anew has no more pairs than what is
    // read.
    let others = [&service, &account, &client_id].into_iter().flatten().count();
    if scopes.len() + others + usize::from(offline_token.is_some()) > MOST_PAIRS {
        return Err(RequestFault::QueryForm);
    }
    Ok(TokenQuery { service, scopes, account, client_id, offline_token })
}

fn boolean(text: &str) -> Result<bool, RequestFault> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(RequestFault::Value),
    }
}

#[cfg(test)]
mod tests;
