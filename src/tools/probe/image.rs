//! The part of a probe that speaks HTTP: the API, a token, a manifest, and the redirect of a blob.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use hyper::header::{self, HeaderName};
use serde::Deserialize;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use super::http::{self, ServerAnswer};
use super::{Prober, Step, StepFault};
use crate::dial::Upstream;
use crate::oci::{Bearer, Challenges, UriReference, encoded};
use crate::policy::{Name, RegistryCredentials, Target};

/// The media types of manifests and indexes.
const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";

/// What a token server answers.
#[derive(Deserialize)]
struct Issued {
    token: Option<String>,
    access_token: Option<String>,
}

/// As much of a manifest or an index as is needed to find a blob.
#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    manifests: Vec<Described>,
    #[serde(default)]
    layers: Vec<Described>,
    config: Option<Described>,
}

#[derive(Deserialize)]
struct Described {
    digest: String,
}

impl Prober<'_> {
    /// Asks the login server, and follows an image to its first blob.
    pub(super) async fn api(&self, stream: TlsStream<Upstream>, steps: &mut Vec<Step>) {
        let Some(login) = self.plan.registry.endpoints().first().map(|one| &one.target) else {
            return;
        };
        let began = Instant::now();
        let answer = http::get(stream, &host(login), "/v2/", &[], self.plan.timeout).await;
        let mut push = |seen: String, fault| {
            let subject = format!("{login}/v2/");
            steps.push(Step { step: "api", subject, took: began.elapsed(), seen, fault });
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let remedy = "check what answers at this address";
                return push(error, Some(StepFault::new("upstream-malformed", remedy)));
            }
        };
        let values = answer.headers.get_all(header::WWW_AUTHENTICATE).iter();
        let values: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
        let bearer = Challenges::parse(values).and_then(|found| found.bearer);
        let fault = match answer.status {
            StatusCode::OK | StatusCode::UNAUTHORIZED => None,
            other => Some(of_status(other, "check that a registry answers there")),
        };
        let is_well = fault.is_none();
        push(answer.status.to_string(), fault);
        let (true, Some((repository, reference))) = (is_well, &self.plan.image) else { return };
        let mut authorization = Vec::new();
        if let Some(bearer) = bearer.filter(|_| answer.status == StatusCode::UNAUTHORIZED) {
            match self.token(&bearer, repository, steps).await {
                Some(token) => authorization.push((header::AUTHORIZATION, token)),
                None => return,
            }
        }
        let digest = self.manifest(login, repository, reference, &authorization, steps).await;
        if let Some(digest) = digest {
            self.blob(login, repository, &digest, &authorization, steps).await;
        }
    }

    /// Obtains a token. Returns the value of `Authorization`.
    async fn token(
        &self,
        bearer: &Bearer,
        repository: &str,
        steps: &mut Vec<Step>,
    ) -> Option<String> {
        let began = Instant::now();
        let subject = bearer.realm.clone();
        let push = |steps: &mut Vec<Step>, seen: String, fault| {
            let took = began.elapsed();
            steps.push(Step { step: "token", subject: subject.clone(), took, seen, fault });
        };
        let Ok(UriReference::Absolute { host, target }) = UriReference::parse(&bearer.realm) else {
            let fault = StepFault::new("upstream-auth", "check what answers at the login server");
            push(steps, "the realm of its challenge is not an https URL".into(), Some(fault));
            return None;
        };
        let join = if target.contains('?') { '&' } else { '?' };
        let scope = format!("repository:{repository}:pull");
        let mut query = vec![("scope", scope.as_str())];
        query.extend(bearer.service.as_deref().map(|service| ("service", service)));
        let path = format!("{target}{join}{}", encoded(&query));
        let (headers, who) = match self.credentials() {
            Some(RegistryCredentials::Password { user, password }) => {
                let text = STANDARD.encode(format!("{user}:{password}"));
                (vec![(header::AUTHORIZATION, format!("Basic {text}"))], "with credentials")
            }
            _ => (Vec::new(), "anonymously"),
        };
        let target = Target::https(Name::parse(&host).ok()?);
        let answer = match self.ask(&target, &path, &headers, steps).await? {
            Ok(answer) => answer,
            Err(error) => {
                push(steps, error, Some(StepFault::new("upstream-auth", "try again")));
                return None;
            }
        };
        let issued: Option<Issued> = serde_json::from_slice(&answer.body).ok();
        let token = issued.and_then(|issued| issued.access_token.or(issued.token));
        let fault = match (answer.status, &token) {
            (StatusCode::OK, Some(_)) => None,
            (StatusCode::OK, None) => {
                Some(StepFault::new("upstream-auth", "check what answers at the token server"))
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => Some(self.not_let_in()),
            (other, _) => Some(of_status(other, "check the token server")),
        };
        push(steps, format!("{} {who}", answer.status), fault);
        token.map(|token| format!("Bearer {token}"))
    }

    fn not_let_in(&self) -> StepFault {
        match self.credentials() {
            Some(_) => StepFault::new(
                "wrong-credentials",
                "the registry rejects credentials-file: renew it",
            ),
            None => StepFault::new(
                "anonymous-pull-off",
                "the registry does not let everybody pull: set [mirror] credentials-file, or \
                 probe a public repository",
            ),
        }
    }

    /// Reads a manifest. Returns the digest of a blob.
    async fn manifest(
        &self,
        login: &Target,
        repository: &str,
        reference: &str,
        authorization: &[(HeaderName, String)],
        steps: &mut Vec<Step>,
    ) -> Option<String> {
        let mut headers = authorization.to_vec();
        headers.push((header::ACCEPT, ACCEPT.to_owned()));
        let mut reference = reference.to_owned();
        // An index, and one of its manifests.
        for _ in 0..2 {
            let began = Instant::now();
            let path = format!("/v2/{repository}/manifests/{reference}");
            let answer = self.ask(login, &path, &headers, steps).await?;
            let parsed = answer
                .as_ref()
                .ok()
                .and_then(|answer| serde_json::from_slice::<Manifest>(&answer.body).ok());
            let (seen, fault) = match (&answer, &parsed) {
                (Err(error), _) => {
                    (error.clone(), Some(StepFault::new("upstream-malformed", "try again")))
                }
                (Ok(answer), Some(_)) if answer.status == StatusCode::OK => {
                    (answer.status.to_string(), None)
                }
                (Ok(answer), _) => {
                    let fault = match answer.status {
                        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.not_let_in(),
                        StatusCode::NOT_FOUND => {
                            StepFault::new("no-such-image", "check the repository and the tag")
                        }
                        other => of_status(other, "check that a registry answers there"),
                    };
                    (answer.status.to_string(), Some(fault))
                }
            };
            let is_well = fault.is_none();
            let subject = format!("{repository}, {reference}");
            steps.push(Step { step: "manifest", subject, took: began.elapsed(), seen, fault });
            let manifest = parsed.filter(|_| is_well)?;
            let blob = manifest.layers.into_iter().next().or(manifest.config);
            match (blob, manifest.manifests.into_iter().next()) {
                (Some(blob), _) => return Some(blob.digest),
                (None, Some(inner)) => reference = inner.digest,
                (None, None) => return None,
            }
        }
        None
    }

    /// Asks for a blob, and judges where the registry redirects to.
    async fn blob(
        &self,
        login: &Target,
        repository: &str,
        digest: &str,
        authorization: &[(HeaderName, String)],
        steps: &mut Vec<Step>,
    ) {
        let began = Instant::now();
        let path = format!("/v2/{repository}/blobs/{digest}");
        let mut headers = authorization.to_vec();
        // Of a blob that comes from the login server itself, one byte is enough.
        headers.push((header::RANGE, "bytes=0-0".to_owned()));
        let Some(answer) = self.ask(login, &path, &headers, steps).await else { return };
        let (seen, fault) = match answer {
            Err(error) => (error, Some(StepFault::new("upstream-malformed", "try again"))),
            Ok(answer) if answer.status.is_redirection() => self.redirect(&answer),
            Ok(answer) if answer.status.is_success() => {
                ("served by the login server itself".to_owned(), None)
            }
            Ok(answer) => (
                answer.status.to_string(),
                Some(of_status(answer.status, "check the registry's storage")),
            ),
        };
        let subject = digest.get(..19).unwrap_or(digest).to_owned();
        steps.push(Step { step: "blob", subject, took: began.elapsed(), seen, fault });
    }

    /// Judges a redirect by the policy. Its query is a secret and is not shown.
    fn redirect(&self, answer: &ServerAnswer) -> (String, Option<StepFault>) {
        let location = answer.header(header::LOCATION).unwrap_or_default();
        match UriReference::parse(location) {
            Ok(UriReference::Relative(_)) => ("served by the login server itself".into(), None),
            Ok(UriReference::Absolute { host, .. }) => {
                let target = Name::parse(&host).ok().map(Target::https);
                let fault = target.and_then(|target| {
                    let denial = self.plan.set.judge_own(&target).err()?;
                    let fault = StepFault::of_stop(denial);
                    // The preset knows the host: its date is the remedy.
                    let preset = self.plan.registry.preset();
                    let absent = preset.map_or(&[][..], |preset| &preset.absent);
                    let known = absent.iter().find(|absent| absent.name == target.name);
                    Some(match known {
                        Some(absent) => {
                            let remedy = format!("{}: {}", absent.why, absent.why.remedy());
                            StepFault { remedy, ..fault }
                        }
                        None => fault,
                    })
                });
                (format!("redirects to {host}"), fault)
            }
            Err(fault) => {
                let wrong = StepFault::new("redirect-not-allowed", "check the registry's storage");
                (format!("the location of its redirect {fault}"), Some(wrong))
            }
        }
    }

    /// Sends a request on a connection of its own. `None` if the host cannot be reached, which the
    /// steps say.
    async fn ask(
        &self,
        target: &Target,
        path: &str,
        headers: &[(HeaderName, String)],
        steps: &mut Vec<Step>,
    ) -> Option<Result<ServerAnswer, String>> {
        let mut unseen = Vec::new();
        match self.host(target, &mut unseen).await {
            Some(stream) => {
                Some(http::get(stream, &host(target), path, headers, self.plan.timeout).await)
            }
            None => {
                steps.extend(unseen.into_iter().filter(|step| step.fault.is_some()));
                None
            }
        }
    }
}

/// What an unexpected status means.
fn of_status(status: StatusCode, remedy: &str) -> StepFault {
    match status {
        StatusCode::TOO_MANY_REQUESTS => {
            StepFault::new("rate-limited", "the registry limits requests: wait, or authenticate")
        }
        status if status.is_server_error() => {
            StepFault::new("registry-fails", "the registry itself fails: see its status page")
        }
        _ => StepFault::new("unexpected-answer", remedy),
    }
}

/// `Host`, as clients write it.
fn host(target: &Target) -> String {
    if target.port == 443 { target.name.to_string() } else { target.to_string() }
}
