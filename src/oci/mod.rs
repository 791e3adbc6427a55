//! Requests and responses of the OCI distribution spec, as far as the gate judges them.
//!
//! Pure, and on the ground floor: it depends on no other module of the crate. [`Request::parse`]
//! reads a method and a request target into one [`Operation`], or refuses it. What goes upstream is
//! built anew from that operation ([`Operation::target`]), so a registry never sees bytes that the
//! gate did not understand. [`RequestRules`] says whether an operation is allowed.
//!
//! Grammar: <https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md>.

mod azure;
mod challenge;
mod digest;
mod errors;
mod fault;
mod form;
mod globs;
mod image_name;
mod location;
mod operation;
mod parse;
mod query;
mod reference;
mod repository;
mod rules;

pub use azure::{Azure, AzureItem};
pub use challenge::{Bearer, Challenges, LONGEST_CHALLENGE};
pub use digest::{Algorithm, Digest, DigestFault, DigestVerifier};
pub use errors::{ErrorCode, error_body};
pub use fault::{LONGEST_TARGET, RequestFault};
pub use form::TokenForm;
pub use globs::{GlobFault, RepositoryGlobs, TagGlobs};
pub use image_name::{ImageName, pasted};
pub use location::{LONGEST_LOCATION, UriReference, UriReferenceFault};
pub use operation::{
    Action, ArtifactType, Method, Mount, Operation, Page, Scope, TokenPath, TokenQuery, TokenWord,
    Upload, UploadId, UploadState,
};
pub use parse::{Naming, Request};
pub use query::encoded;
pub use reference::{LONGEST_TAG, Reference, Tag};
pub use repository::{LONGEST_REPOSITORY, RegistryName, Repository};
pub use rules::{AzureApi, Listing, RequestRules, RuleFault};
