//! Sends a judged registry request upstream, and checks the answer.
//!
//! Nothing is sent that was not built from an [`Operation`], and nowhere but to hosts that an
//! [`AllowedRequest`] grants. All that registries, token servers and blob stores answer is
//! untrusted: it is bounded in bytes and in time, and what the client gets is built anew from it.

mod blob;
mod body;
mod exchange;
mod filled;
mod headers;
#[cfg(feature = "inspect")]
mod pass;
mod pool;
mod token;
mod trouble;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{self, HeaderMap};

pub use blob::BlobBody;
pub use body::RequestBody;
pub use exchange::{Asked, FirstConnection};
pub use trouble::Trouble;

use crate::dial::{Dialler, TlsClients};
use crate::oci::{Algorithm, Digest, DigestVerifier, Method, Operation, UriReference};
use crate::policy::{Allowed, Blobs, Cause, Denial, Name, Reason};
use exchange::{Answered, Exchanger, Headers, Outgoing, whole};
use token::Tokens;

/// The largest manifest or list, in bytes.
pub const LARGEST_DOCUMENT: usize = 4 * 1024 * 1024;

/// The largest error body that is passed on, in bytes.
const LARGEST_ERROR: usize = 64 * 1024;

/// Redirects that are followed one after another.
const MOST_HOPS: usize = 2;

/// What every request shares.
#[derive(Debug)]
pub struct Forward {
    exchanger: Exchanger,
    tokens: Tokens,
}

/// What the client is to be answered with.
#[derive(Debug)]
pub struct RegistryAnswer {
    /// The registry's status.
    pub status: StatusCode,
    /// Headers that may be passed on.
    pub headers: HeaderMap,
    /// The body.
    pub body: AnswerBody,
    /// The next part of a list.
    pub next: Option<Operation>,
    /// The digest of a manifest, as the registry names it.
    pub named: Option<Digest>,
    /// Who answered last.
    pub upstream: Option<SocketAddr>,
    /// What would have denied it, were the policy enforced.
    pub would_deny: Option<Reason>,
}

impl RegistryAnswer {
    fn new(
        status: StatusCode,
        headers: HeaderMap,
        body: AnswerBody,
        upstream: Option<SocketAddr>,
    ) -> Self {
        Self { status, headers, body, next: None, named: None, upstream, would_deny: None }
    }
}

/// A body.
#[derive(Debug)]
pub enum AnswerBody {
    /// It is here.
    Whole(Bytes),
    /// It is still to come.
    Streamed(Box<BlobBody>),
}

impl Forward {
    /// Makes a client with the system's roots.
    #[must_use]
    pub fn new(dialler: Arc<Dialler>, tls: Arc<TlsClients>) -> Self {
        Self { exchanger: Exchanger::new(dialler, tls), tokens: Tokens::default() }
    }

    /// Sends a request to the registry's login server, with a token where it wants one, and follows
    /// the redirects of a blob as far as the registry's file allows.
    ///
    /// # Errors
    /// What denied it or failed.
    pub async fn send(&self, asked: Asked<'_>) -> Result<RegistryAnswer, Trouble> {
        let login = asked.allowed.server();
        let method = match asked.request.method {
            Method::Head => hyper::Method::HEAD,
            _ => hyper::Method::GET,
        };
        let outgoing = Outgoing {
            method: method.clone(),
            target: &asked.request.operation.target(),
            headers: Headers::Kept(headers::for_registry, asked.headers),
            authorization: self.tokens.known(asked),
        };
        let answered = self.with_token(asked, &login, outgoing).await?;
        let status = answered.response.status();
        if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
            return self.redirected(asked, login.target().name.clone(), method, answered).await;
        }
        self.answer(asked, answered).await
    }

    /// Sends a request with the token that is known, and once more with a fresh one where the
    /// registry asks for it.
    async fn with_token(
        &self,
        asked: Asked<'_>,
        login: &Allowed,
        outgoing: Outgoing<'_>,
    ) -> Result<Answered, Trouble> {
        let none = RequestBody::default();
        let answered = self.exchanger.exchange(asked, login, &outgoing, none).await?;
        if answered.response.status() != StatusCode::UNAUTHORIZED {
            return Ok(answered);
        }
        let upstream = answered.connection.address();
        let challenges = token::challenges(answered.response.headers());
        // What the registry says beside is read so that its connection can be used again.
        let _ = whole(answered, LARGEST_ERROR).await;
        let refused = outgoing.authorization;
        let token = self.tokens.obtain(&self.exchanger, asked, challenges, refused).await;
        let token = token.map_err(|trouble| trouble.at(upstream))?;
        let outgoing = Outgoing { authorization: Some(token), ..outgoing };
        let none = RequestBody::default();
        let answered = self.exchanger.exchange(asked, login, &outgoing, none).await?;
        if answered.response.status() == StatusCode::UNAUTHORIZED {
            self.tokens.forget(asked);
            let detail = match asked.allowed.credentials() {
                Some(_) => "the registry does not let the gate's credentials pull this repository",
                None => "the registry does not let this repository be pulled without credentials",
            };
            return Err(Trouble::failed(Cause::UpstreamAuth, detail).at(upstream));
        }
        Ok(answered)
    }

    /// Passes a blob's redirect on, or follows it.
    async fn redirected(
        &self,
        asked: Asked<'_>,
        mut from: Name,
        method: hyper::Method,
        mut answered: Answered,
    ) -> Result<RegistryAnswer, Trouble> {
        let allowed = asked.allowed;
        for _ in 0..MOST_HOPS {
            let upstream = answered.connection.address();
            let text = headers::location(answered.response.headers());
            let location = text.as_deref().map(UriReference::parse);
            let location = match location {
                Some(Ok(location)) => location,
                Some(Err(fault)) => {
                    let remedy = format!("the registry's Location {fault}");
                    let denial = Denial::with_remedy(Reason::RedirectNotAllowed, remedy);
                    return Err(Trouble::from(denial).at(upstream));
                }
                None => {
                    let detail = "a redirect has no Location, or more than one";
                    return Err(Trouble::failed(Cause::UpstreamMalformed, detail).at(upstream));
                }
            };
            let is_blob = matches!(asked.request.operation, Operation::Blob { .. });
            if !is_blob {
                let remedy = "the registry redirects a request that is not for a blob";
                let denial = Denial::with_remedy(Reason::RedirectNotAllowed, remedy);
                return Err(Trouble::from(denial).at(upstream));
            }
            if *allowed.blobs() == Blobs::Redirect && allowed.may_be_redirected(asked.request) {
                let would_deny = allowed.judge_redirect(&location);
                let would_deny = would_deny.map_err(|denial| Trouble::from(denial).at(upstream))?;
                return Ok(passed_on(answered, would_deny).await);
            }
            let hop = allowed.judge_hop(&location, &from);
            let hop = hop.map_err(|denial| Trouble::from(denial).at(upstream))?;
            let _ = whole(answered, LARGEST_ERROR).await;
            from = hop.target().name.clone();
            let target = match &location {
                UriReference::Absolute { target, .. } | UriReference::Relative(target) => target,
            };
            let outgoing = Outgoing {
                method: method.clone(),
                target,
                headers: Headers::Kept(headers::for_blob_store, asked.headers),
                authorization: None,
            };
            let none = RequestBody::default();
            answered = self.exchanger.exchange(asked, &hop, &outgoing, none).await?;
            let status = answered.response.status();
            if !status.is_redirection() || status == StatusCode::NOT_MODIFIED {
                return stored(asked, answered);
            }
        }
        let upstream = answered.connection.address();
        let remedy = format!("the registry redirects more than {MOST_HOPS} times");
        let denial = Denial::with_remedy(Reason::RedirectNotAllowed, remedy);
        Err(Trouble::from(denial).at(upstream))
    }

    /// Checks what the registry itself has answered.
    async fn answer(
        &self,
        asked: Asked<'_>,
        answered: Answered,
    ) -> Result<RegistryAnswer, Trouble> {
        let status = answered.response.status();
        let upstream = answered.connection.address();
        let operation = &asked.request.operation;
        let is_head = asked.request.method == Method::Head;
        if !status.is_success() && status != StatusCode::NOT_MODIFIED {
            return refused(answered).await;
        }
        let mut kept = headers::of_answer(answered.response.headers());
        let next = headers::next(answered.response.headers(), operation);
        let is_manifest = matches!(operation, Operation::Manifest { .. });
        let named = headers::digest(&kept).filter(|_| is_manifest);
        let answer = |headers, body, named| RegistryAnswer {
            next,
            named,
            ..RegistryAnswer::new(status, headers, body, upstream)
        };
        if is_head || status == StatusCode::NOT_MODIFIED {
            let _ = whole(answered, 0).await;
            return Ok(answer(kept, AnswerBody::Whole(Bytes::new()), named));
        }
        if let Operation::Blob { digest, .. } = operation {
            let body = streamed(asked, answered, digest)?;
            return Ok(answer(kept, body, None));
        }
        if status != StatusCode::OK {
            let detail = format!("the registry answered {status} to a request for a document");
            return Err(Trouble::failed(Cause::UpstreamMalformed, detail).at(upstream));
        }
        let bytes = whole(answered, LARGEST_DOCUMENT).await.map_err(|error| error.at(upstream))?;
        kept.remove(header::CONTENT_LENGTH);
        if !is_manifest {
            return Ok(answer(kept, AnswerBody::Whole(bytes), None));
        }
        let wanted = operation.digest();
        let also = named.as_ref().filter(|named| wanted != Some(*named));
        for digest in wanted.into_iter().chain(also) {
            has_digest(&bytes, digest).map_err(|trouble| trouble.at(upstream))?;
        }
        let named = named.unwrap_or_else(|| {
            let digest = Digest::of(Algorithm::Sha256, &bytes);
            headers::set_digest(&mut kept, &digest);
            digest
        });
        Ok(answer(kept, AnswerBody::Whole(bytes), Some(named)))
    }
}

/// Checks that a manifest has this digest.
fn has_digest(bytes: &[u8], wanted: &Digest) -> Result<(), Trouble> {
    let mut verifier = DigestVerifier::new(wanted.algorithm());
    verifier.update(bytes);
    if verifier.clone().finds(wanted) {
        return Ok(());
    }
    let detail = format!("the manifest has the digest {}, not {wanted}", verifier.finish());
    Err(Trouble::failed(Cause::DigestMismatch, detail))
}

/// Returns a redirect that the client follows itself.
async fn passed_on(answered: Answered, would_deny: Option<Denial>) -> RegistryAnswer {
    let (status, upstream) = (answered.response.status(), answered.connection.address());
    let headers = headers::of_redirect(answered.response.headers());
    let _ = whole(answered, LARGEST_ERROR).await;
    let body = AnswerBody::Whole(Bytes::new());
    RegistryAnswer {
        would_deny: would_deny.map(|denial| denial.reason),
        ..RegistryAnswer::new(status, headers, body, upstream)
    }
}

/// Checks what a blob store has answered.
fn stored(asked: Asked<'_>, answered: Answered) -> Result<RegistryAnswer, Trouble> {
    let upstream = answered.connection.address();
    let status = answered.response.status();
    let is_head = asked.request.method == Method::Head;
    let fits = [
        StatusCode::OK,
        StatusCode::PARTIAL_CONTENT,
        StatusCode::NOT_MODIFIED,
        StatusCode::RANGE_NOT_SATISFIABLE,
    ];
    let Some(digest) = asked.request.operation.digest().filter(|_| fits.contains(&status)) else {
        let detail = format!("the blob store answered {status}");
        return Err(Trouble::failed(Cause::UpstreamMalformed, detail).at(upstream));
    };
    let mut headers = headers::of_store(answered.response.headers());
    headers::set_digest(&mut headers, digest);
    let has_body = !is_head && matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT);
    let body = match has_body {
        true => streamed(asked, answered, digest)?,
        false => AnswerBody::Whole(Bytes::new()),
    };
    Ok(RegistryAnswer::new(status, headers, body, upstream))
}

/// A blob's body. A whole one is checked while it passes; of a part nothing can be said.
fn streamed(asked: Asked<'_>, answered: Answered, digest: &Digest) -> Result<AnswerBody, Trouble> {
    let upstream = answered.connection.address();
    let is_whole = match answered.response.status() {
        StatusCode::OK => true,
        StatusCode::PARTIAL_CONTENT => false,
        other => {
            let detail = format!("a blob was answered with {other}");
            return Err(Trouble::failed(Cause::UpstreamMalformed, detail).at(upstream));
        }
    };
    let idle = asked.set.limits().idle_timeout;
    let digest = is_whole.then_some(digest);
    let Answered { response, connection, .. } = answered;
    let body = BlobBody::new(response.into_body(), connection, digest, idle);
    Ok(AnswerBody::Streamed(Box::new(body)))
}

/// Passes on that the registry refuses: its status, and its body where that is an error of the
/// spec.
async fn refused(answered: Answered) -> Result<RegistryAnswer, Trouble> {
    let status = answered.response.status();
    let upstream = answered.connection.address();
    if !status.is_client_error() && !status.is_server_error() {
        let detail = format!("the registry answered {status}");
        return Err(Trouble::failed(Cause::UpstreamMalformed, detail).at(upstream));
    }
    let headers = headers::of_refusal(answered.response.headers());
    let is_json = headers::is_json(&headers);
    let body = whole(answered, LARGEST_ERROR).await.unwrap_or_default();
    let body = AnswerBody::Whole(if is_json { body } else { Bytes::new() });
    Ok(RegistryAnswer::new(status, headers, body, upstream))
}
