//! What a client asks of a registry: one operation, and the request target that stands for it.

// long: the two halves of one grammar, in one place.

use std::fmt;
use std::sync::Arc;

use super::azure::{Azure, AzureItem};
use super::digest::Digest;
use super::query::QueryText;
use super::reference::{Reference, Tag};
use super::repository::Repository;

/// The methods that the spec uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// Reads.
    Get,
    /// Reads, without the body.
    Head,
    /// Begins an upload; asks for a token.
    Post,
    /// Sends a part of a blob.
    Patch,
    /// Ends an upload; writes a manifest.
    Put,
    /// Deletes, and cancels an upload.
    Delete,
}

impl Method {
    /// Parses a method as HTTP writes it, in capitals; `None` for any other.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let all = [Self::Get, Self::Head, Self::Post, Self::Patch, Self::Put, Self::Delete];
        all.into_iter().find(|one| one.as_str() == text)
    }

    /// Returns whether it only reads: GET and HEAD.
    #[must_use]
    pub fn reads(self) -> bool {
        matches!(self, Self::Get | Self::Head)
    }

    /// Returns the method as HTTP writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Patch => "PATCH",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }
}

/// What an operation does to a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Changes nothing: GET and HEAD, and asking for a token.
    Read,
    /// Adds content.
    Write,
    /// Takes content away.
    Delete,
}

/// Text of a closed set of characters and a limited length, which holds neither path nor query.
macro_rules! word {
    ($(#[$meta:meta])* $name:ident, $longest:literal, $allowed:literal) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses a text; `None` when it is empty, too long or has another character.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                let allowed = |byte: u8| byte.is_ascii_alphanumeric() || $allowed.contains(&byte);
                let fits = (1..=$longest).contains(&text.len())
                    && text.bytes().all(allowed)
                    && !matches!(text, "." | "..");
                fits.then(|| Self(text.into()))
            }

            /// Returns the text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
    };
}

word! {
    /// The id of an upload session, as the registry chose it.
    UploadId, 128, b"._=-"
}
word! {
    /// The state of an upload that docker-registry and Azure have the client carry (`_state`).
    UploadState, 4096, b"_=-"
}
word! {
    /// A scope of the token spec, such as `repository:team/app:pull`.
    Scope, 512, b":/._,*()-"
}
word! {
    /// A host or account name in a request for a token.
    TokenWord, 256, b"._:/@-"
}

/// A media type, by which referrers are filtered: `type/subtype` of RFC 6838 §4.2.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ArtifactType(Arc<str>);

impl ArtifactType {
    /// Parses a media type; `None` when it breaks the grammar.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let part = |part: &str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
            (1..=127).contains(&part.len())
                && part.bytes().all(allowed)
                && part.starts_with(|first: char| first.is_ascii_alphanumeric())
        };
        let (kind, subtype) = text.split_once('/')?;
        (part(kind) && part(subtype)).then(|| Self(text.into()))
    }

    /// Returns the media type.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Which part of a list is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Page<T> {
    /// At most this many entries.
    pub n: Option<u32>,
    /// Entries behind this one.
    pub last: Option<T>,
}

/// A blob that an upload takes from another repository of the same registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mount {
    /// The blob.
    pub digest: Digest,
    /// The repository that has it; `None` lets the registry look in all of them.
    pub from: Option<Repository>,
}

/// Where a registry issues tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenPath {
    /// `/oauth2/token`.
    Token,
    /// `/oauth2/exchange` of Azure.
    Exchange,
}

/// What a request for a token has in its query.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct TokenQuery {
    /// Which service the token is for.
    pub service: Option<TokenWord>,
    /// What it may do, in the order of the request.
    pub scopes: Vec<Scope>,
    /// Who asks.
    pub account: Option<TokenWord>,
    /// Which program asks.
    pub client_id: Option<TokenWord>,
    /// Whether a refresh token is wanted, too.
    pub offline_token: Option<bool>,
}

/// One operation of the distribution spec, or a request for a token.
#[allow(missing_docs, reason = "the types of the fields say what they are")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `GET /v2/`: does the registry speak the protocol?
    Ping,
    /// Reads a manifest.
    Manifest { repository: Repository, reference: Reference },
    /// Reads a blob.
    Blob { repository: Repository, digest: Digest },
    /// Lists the tags of a repository.
    Tags { repository: Repository, page: Page<Tag> },
    /// Lists the manifests that refer to one.
    Referrers { repository: Repository, digest: Digest, artifact_type: Option<ArtifactType> },
    /// Lists the repositories of a registry.
    Catalog { page: Page<Repository> },
    /// Asks for a token.
    Token { path: TokenPath, query: TokenQuery },
    /// Reads one of Azure's own lists.
    Azure(Azure),
    /// Reads a blob at a data endpoint, by a path that the registry has chosen.
    Stored { target: Arc<str> },
    /// Writes a manifest.
    PutManifest { repository: Repository, reference: Reference },
    /// Deletes a manifest or a tag.
    DeleteManifest { repository: Repository, reference: Reference },
    /// Deletes a blob.
    DeleteBlob { repository: Repository, digest: Digest },
    /// Begins an upload; with a digest, the body is the whole blob.
    UploadStart { repository: Repository, digest: Option<Digest>, mount: Option<Mount> },
    /// Sends a part of a blob.
    UploadChunk { repository: Repository, upload: Upload },
    /// Ends an upload.
    UploadFinish { repository: Repository, upload: Upload, digest: Digest },
    /// Asks how far an upload is.
    UploadStatus { repository: Repository, upload: Upload },
    /// Gives an upload up.
    UploadCancel { repository: Repository, upload: Upload },
}

/// An upload session as its `Location` names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Upload {
    /// Its id.
    pub id: UploadId,
    /// The state that the client carries for the registry.
    pub state: Option<UploadState>,
    /// `_nouploadcache` of Azure.
    pub no_cache: Option<bool>,
}

impl Operation {
    /// Every name that [`Self::name`] returns.
    pub const NAMES: &'static [&'static str] = &[
        "ping",
        "manifest",
        "blob",
        "tags",
        "referrers",
        "catalog",
        "token",
        "acr",
        "stored",
        "put-manifest",
        "delete-manifest",
        "delete-blob",
        "upload-start",
        "upload-chunk",
        "upload-finish",
        "upload-status",
        "upload-cancel",
    ];

    /// Returns its name in audit lines and metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Manifest { .. } => "manifest",
            Self::Blob { .. } => "blob",
            Self::Tags { .. } => "tags",
            Self::Referrers { .. } => "referrers",
            Self::Catalog { .. } => "catalog",
            Self::Token { .. } => "token",
            Self::Azure(_) => "acr",
            Self::Stored { .. } => "stored",
            Self::PutManifest { .. } => "put-manifest",
            Self::DeleteManifest { .. } => "delete-manifest",
            Self::DeleteBlob { .. } => "delete-blob",
            Self::UploadStart { .. } => "upload-start",
            Self::UploadChunk { .. } => "upload-chunk",
            Self::UploadFinish { .. } => "upload-finish",
            Self::UploadStatus { .. } => "upload-status",
            Self::UploadCancel { .. } => "upload-cancel",
        }
    }

    /// Returns what it does to the registry. All of an upload is writing, its status and its
    /// cancellation too.
    #[must_use]
    pub fn action(&self) -> Action {
        match self {
            Self::Ping
            | Self::Manifest { .. }
            | Self::Blob { .. }
            | Self::Tags { .. }
            | Self::Referrers { .. }
            | Self::Catalog { .. }
            | Self::Token { .. }
            | Self::Azure(_)
            | Self::Stored { .. } => Action::Read,
            Self::PutManifest { .. }
            | Self::UploadStart { .. }
            | Self::UploadChunk { .. }
            | Self::UploadFinish { .. }
            | Self::UploadStatus { .. }
            | Self::UploadCancel { .. } => Action::Write,
            Self::DeleteManifest { .. } | Self::DeleteBlob { .. } => Action::Delete,
        }
    }

    /// Returns the repository that it concerns; `None` for those of the registry as a whole.
    #[must_use]
    pub fn repository(&self) -> Option<&Repository> {
        match self {
            Self::Ping | Self::Catalog { .. } | Self::Token { .. } | Self::Stored { .. } => None,
            Self::Azure(azure) => azure.repository(),
            Self::Manifest { repository, .. }
            | Self::Blob { repository, .. }
            | Self::Tags { repository, .. }
            | Self::Referrers { repository, .. }
            | Self::PutManifest { repository, .. }
            | Self::DeleteManifest { repository, .. }
            | Self::DeleteBlob { repository, .. }
            | Self::UploadStart { repository, .. }
            | Self::UploadChunk { repository, .. }
            | Self::UploadFinish { repository, .. }
            | Self::UploadStatus { repository, .. }
            | Self::UploadCancel { repository, .. } => Some(repository),
        }
    }

    /// Returns the tag that it names.
    #[must_use]
    pub fn tag(&self) -> Option<&Tag> {
        match self {
            Self::Manifest { reference: Reference::Tag(tag), .. }
            | Self::PutManifest { reference: Reference::Tag(tag), .. }
            | Self::DeleteManifest { reference: Reference::Tag(tag), .. } => Some(tag),
            Self::Azure(Azure { item: AzureItem::Tag(_, tag), .. }) => Some(tag),
            _ => None,
        }
    }

    /// Returns the digest that it names.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Manifest { reference, .. }
            | Self::PutManifest { reference, .. }
            | Self::DeleteManifest { reference, .. } => reference.digest(),
            Self::Blob { digest, .. }
            | Self::Referrers { digest, .. }
            | Self::DeleteBlob { digest, .. }
            | Self::UploadFinish { digest, .. }
            | Self::Azure(Azure { item: AzureItem::Manifest(_, digest), .. }) => Some(digest),
            Self::UploadStart { digest, mount, .. } => {
                digest.as_ref().or(mount.as_ref().map(|mount| &mount.digest))
            }
            _ => None,
        }
    }

    /// Builds the request target, path and query, that stands for the operation.
    #[must_use]
    pub fn target(&self) -> String {
        let mut query = QueryText::default();
        let mut path = match self {
            Self::Ping => "/v2/".to_owned(),
            Self::Manifest { repository, reference }
            | Self::PutManifest { repository, reference }
            | Self::DeleteManifest { repository, reference } => {
                format!("/v2/{repository}/manifests/{reference}")
            }
            Self::Blob { repository, digest } | Self::DeleteBlob { repository, digest } => {
                format!("/v2/{repository}/blobs/{digest}")
            }
            Self::Tags { repository, page } => {
                page.write(&mut query, Tag::as_str);
                format!("/v2/{repository}/tags/list")
            }
            Self::Referrers { repository, digest, artifact_type } => {
                query.optional("artifactType", artifact_type.as_ref().map(ArtifactType::as_str));
                format!("/v2/{repository}/referrers/{digest}")
            }
            Self::Catalog { page } => {
                page.write(&mut query, Repository::as_str);
                "/v2/_catalog".to_owned()
            }
            Self::Token { path, query: asked } => {
                asked.write(&mut query);
                path.as_str().to_owned()
            }
            Self::Azure(azure) => azure.target(),
            Self::Stored { target } => target.to_string(),
            Self::UploadStart { repository, digest, mount } => {
                query.optional("digest", digest.as_ref().map(Digest::as_str));
                if let Some(Mount { digest, from }) = mount {
                    query.pair("mount", digest.as_str());
                    query.optional("from", from.as_ref().map(Repository::as_str));
                }
                format!("/v2/{repository}/blobs/uploads/")
            }
            Self::UploadFinish { repository, upload, digest } => {
                upload.write(&mut query);
                query.pair("digest", digest.as_str());
                format!("/v2/{repository}/blobs/uploads/{}", upload.id.as_str())
            }
            Self::UploadChunk { repository, upload }
            | Self::UploadStatus { repository, upload }
            | Self::UploadCancel { repository, upload } => {
                upload.write(&mut query);
                format!("/v2/{repository}/blobs/uploads/{}", upload.id.as_str())
            }
        };
        path.push_str(&query.finish());
        path
    }
}

impl<T> Page<T> {
    fn write(&self, query: &mut QueryText, text: impl Fn(&T) -> &str) {
        query.optional("n", self.n.map(|n| n.to_string()).as_deref());
        query.optional("last", self.last.as_ref().map(text));
    }
}

impl TokenPath {
    /// Returns the path.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "/oauth2/token",
            Self::Exchange => "/oauth2/exchange",
        }
    }
}

impl TokenQuery {
    fn write(&self, query: &mut QueryText) {
        query.optional("service", self.service.as_ref().map(TokenWord::as_str));
        for scope in &self.scopes {
            query.pair("scope", scope.as_str());
        }
        query.optional("account", self.account.as_ref().map(TokenWord::as_str));
        query.optional("client_id", self.client_id.as_ref().map(TokenWord::as_str));
        query.optional("offline_token", self.offline_token.map(word));
    }
}

impl Upload {
    fn write(&self, query: &mut QueryText) {
        query.optional("_nouploadcache", self.no_cache.map(word));
        query.optional("_state", self.state.as_ref().map(UploadState::as_str));
    }
}

fn word(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

impl fmt::Display for Method {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}
