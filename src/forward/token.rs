//! Tokens: the exchange of the OCI token spec, with what the registry's file has as credentials.
//!
//! A token is asked for one repository and for pulling only, from a host of the registry only. It is
//! kept no longer than it lives; requests that want the same one at the same time share one
//! exchange.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use dashmap::DashMap;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::body::RequestBody;
use super::exchange::{Asked, Exchanger, Headers, Outgoing, whole};
use super::trouble::Trouble;
use crate::oci::{Bearer, Challenges, Operation, UriReference, encoded};
use crate::policy::{Cause, RegistryCredentials};

/// The largest answer of a token server, and the longest token, in bytes.
const LARGEST_ANSWER: usize = 64 * 1024;
const LONGEST_TOKEN: usize = 32 * 1024;

/// The longest service that a challenge may name, in bytes.
const LONGEST_SERVICE: usize = 256;

/// How long a token lives where its server does not say (the token spec, `expires_in`).
const LIFE: Duration = Duration::from_secs(60);

/// The longest that one is kept, and how long before its end it is used no more.
const LONGEST_LIFE: Duration = Duration::from_secs(3_600);
const MARGIN: Duration = Duration::from_secs(10);

/// Tokens that are kept. Repositories are the client's choice, within the rules.
const MOST: usize = 4_096;

/// Which token it is: the registry's name and the scope.
type Key = (Arc<str>, String);

/// The tokens that are known.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    known: DashMap<Key, Arc<Mutex<Option<Token>>>>,
}

#[derive(Debug, Clone)]
struct Token {
    /// `Authorization`, marked as a secret.
    value: HeaderValue,
    until: Instant,
    generation: u64,
}

/// What a token server answers.
#[derive(Deserialize)]
struct Issued {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// Reads the challenges of an answer; `None` when they break the grammar.
pub(super) fn challenges(headers: &HeaderMap) -> Option<Challenges> {
    let values = headers.get_all(header::WWW_AUTHENTICATE).iter();
    let values: Result<Vec<&str>, _> = values.map(HeaderValue::to_str).collect();
    Challenges::parse(values.ok()?)
}

impl Tokens {
    /// Returns the token that is known for a request.
    pub(super) fn known(&self, asked: Asked<'_>) -> Option<HeaderValue> {
        let entry = self.known.get(&key(asked))?.clone();
        let token = entry.try_lock().ok()?;
        living(token.as_ref(), asked).map(|token| token.value.clone())
    }

    /// Forgets a token that the registry did not accept.
    pub(super) fn forget(&self, asked: Asked<'_>) {
        self.known.remove(&key(asked));
    }

    /// Obtains a token other than the one that was refused.
    pub(super) async fn obtain(
        &self,
        exchanger: &Exchanger,
        asked: Asked<'_>,
        challenges: Option<Challenges>,
        refused: Option<HeaderValue>,
    ) -> Result<HeaderValue, Trouble> {
        let challenges = challenges.ok_or_else(|| auth("the registry's challenge is malformed"))?;
        let key = key(asked);
        if self.known.len() >= MOST && !self.known.contains_key(&key) {
            self.known.clear();
        }
        let entry = self.known.entry(key).or_default().clone();
        // An earlier holder of the lock may have obtained it.
        let mut token = entry.lock().await;
        if let Some(known) = living(token.as_ref(), asked)
            && Some(&known.value) != refused.as_ref()
        {
            return Ok(known.value.clone());
        }
        *token = None;
        let credentials = asked.allowed.credentials();
        let fresh = match (&challenges.bearer, challenges.basic, credentials) {
            (Some(bearer), _, _) => exchange(exchanger, asked, bearer).await?,
            (None, true, Some(RegistryCredentials::Password { user, password })) => Token {
                value: basic(user, password)?,
                until: Instant::now() + LONGEST_LIFE,
                generation: asked.set.generation(),
            },
            (None, true, _) => return Err(auth("the registry wants a user and a password")),
            (None, false, _) => return Err(auth("the registry names no way to authenticate")),
        };
        *token = Some(fresh.clone());
        Ok(fresh.value)
    }
}

fn living<'a>(token: Option<&'a Token>, asked: Asked<'_>) -> Option<&'a Token> {
    // A reload may have changed the credentials.
    let generation = asked.set.generation();
    token.filter(|token| token.generation == generation && token.until > Instant::now())
}

fn key(asked: Asked<'_>) -> Key {
    (asked.allowed.grant().registry.clone(), scope(&asked.request.operation))
}

/// What a token is asked for: pulling from one repository, or the catalog where the rules allow it.
fn scope(operation: &Operation) -> String {
    match operation.repository() {
        Some(repository) => format!("repository:{repository}:pull"),
        None if matches!(operation, Operation::Catalog { .. }) => "registry:catalog:*".into(),
        None => String::new(),
    }
}

fn auth(detail: impl Into<String>) -> Trouble {
    Trouble::failed(Cause::UpstreamAuth, detail)
}

/// Asks the token server that a challenge names.
async fn exchange(
    exchanger: &Exchanger,
    asked: Asked<'_>,
    bearer: &Bearer,
) -> Result<Token, Trouble> {
    let realm = UriReference::parse(&bearer.realm);
    let Ok(UriReference::Absolute { host, target }) = realm else {
        return Err(auth("the token server's URL is not https on port 443"));
    };
    let Some(server) = asked.allowed.token_server(&host) else {
        let detail =
            format!("the token server {host} is not a host of this registry; add it to also");
        return Err(auth(detail));
    };
    let TokenRequest { method, target, headers, body } = request(asked, bearer, target)?;
    let (target, headers) = (target.as_str(), Headers::Own(&headers));
    let outgoing = Outgoing { method, target, headers, authorization: None };
    let answered = exchanger.exchange(asked, &server, &outgoing, body).await?;
    let status = answered.response.status();
    if status != StatusCode::OK {
        let detail = match asked.allowed.credentials() {
            Some(_) => format!("the token server {host} answered {status} to the credentials"),
            None => format!("the token server {host} answered {status} without credentials"),
        };
        return Err(auth(detail));
    }
    let body = whole(answered, LARGEST_ANSWER).await?;
    let issued: Issued = serde_json::from_slice(&body)
        .map_err(|_| auth(format!("the token server {host} sent no JSON of a token")))?;
    let text = issued.token.or(issued.access_token).unwrap_or_default();
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    if text.is_empty() || text.len() > LONGEST_TOKEN || !plain {
        return Err(auth(format!("the token server {host} sent no token")));
    }
    let life = issued.expires_in.map_or(LIFE, Duration::from_secs).min(LONGEST_LIFE);
    let until = Instant::now() + life.saturating_sub(MARGIN);
    let value = secret(format!("Bearer {text}"))?;
    Ok(Token { value, until, generation: asked.set.generation() })
}

/// A request to a token server.
struct TokenRequest {
    method: Method,
    target: String,
    headers: HeaderMap,
    body: RequestBody,
}

/// Returns the request to a token server: a GET with Basic credentials or none, as every token server
/// knows it; a refresh token is exchanged by the OAuth 2 form.
fn request(asked: Asked<'_>, bearer: &Bearer, realm: String) -> Result<TokenRequest, Trouble> {
    let service = bearer.service.as_deref().unwrap_or_default();
    if service.len() > LONGEST_SERVICE {
        return Err(auth("the challenge's service is too long"));
    }
    let scope = scope(&asked.request.operation);
    let mut form = vec![("scope", scope.as_str())];
    if !service.is_empty() {
        form.push(("service", service));
    }
    let mut headers = HeaderMap::new();
    headers.insert(header::USER_AGENT, HeaderValue::from_static("pullgate"));
    match asked.allowed.credentials() {
        Some(RegistryCredentials::IdentityToken(token)) => {
            form.push(("grant_type", "refresh_token"));
            form.push(("client_id", "pullgate"));
            form.push(("refresh_token", token));
            let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
            headers.insert(header::CONTENT_TYPE, kind);
            let body = Bytes::from(encoded(&form));
            Ok(TokenRequest {
                method: Method::POST,
                target: realm,
                headers,
                body: RequestBody::whole(body),
            })
        }
        credentials => {
            if let Some(RegistryCredentials::Password { user, password }) = credentials {
                headers.insert(header::AUTHORIZATION, basic(user, password)?);
            }
            let mark = if realm.contains('?') { '&' } else { '?' };
            let target = format!("{realm}{mark}{}", encoded(&form));
            let body = RequestBody::default();
            Ok(TokenRequest { method: Method::GET, target, headers, body })
        }
    }
}

fn basic(user: &str, password: &str) -> Result<HeaderValue, Trouble> {
    secret(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
}

fn secret(text: String) -> Result<HeaderValue, Trouble> {
    let mut value = HeaderValue::try_from(text).map_err(|_| auth("a token cannot be sent"))?;
    value.set_sensitive(true);
    Ok(value)
}
