//! The story of one request: understood, judged, sent on, answered.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::time::Instant;

use super::connection::MirrorConnection;
use crate::account::{Granted, OpenRequest, RequestVia};
use crate::forward::{AnswerBody, Asked, RegistryAnswer, Trouble};
use crate::limits::{ClientCredentials, Paced, RateOwner, Throttle};
use crate::listen::http::authorization::Authorization;
use crate::oci::{self, Naming, Operation, Request};
use crate::policy::{
    AllowedRequest, ClientAddress, ClientIdentity, Denial, Ending, Enforcement, Login, PolicySet,
    Reason, Stop, denial_of_request,
};
use crate::serve::{Refused, ResponseBody, Streamed, pong, well_formed};

type Revoked = Pin<Box<dyn Future<Output = Stop> + Send>>;

/// Answers a request.
pub async fn respond(
    connection: Arc<MirrorConnection>,
    request: hyper::Request<Incoming>,
) -> Response<ResponseBody> {
    let ClientAddress(client) = connection.identity.address;
    let account = &connection.gate.account;
    let mut account = account.open_request(
        connection.session,
        RequestVia::Mirror,
        (client, connection.listener.name.clone()),
    );
    connection.requests.fetch_add(1, Ordering::Relaxed);
    match connection.judge(&request, &mut account).await {
        Err(refused) => refused.answer(&mut account),
        Ok(Judged::Ping) => {
            account.status = StatusCode::OK.as_u16();
            account.close(&Ok(Ending::Closed));
            pong()
        }
        Ok(Judged::Send(sending)) => connection.send(*sending, request.headers(), account).await,
    }
}

enum Judged {
    /// `/v2/` is answered by the gate itself.
    Ping,
    Send(Box<Sending>),
}

/// A request that may be sent.
struct Sending {
    set: Arc<PolicySet>,
    request: Request,
    /// How the client named the registry in the path.
    prefix: Option<String>,
    allowed: Arc<AllowedRequest>,
    revoked: Revoked,
}

impl MirrorConnection {
    /// From the head of a request to the right to send it.
    async fn judge(
        &self,
        request: &hyper::Request<Incoming>,
        account: &mut OpenRequest,
    ) -> Result<Judged, Refused> {
        // Subscribed before the snapshot is taken, so that no reload falls between.
        let mut policy = self.gate.policy.clone();
        let set = policy.borrow_and_update().clone();
        if let Some(denial) = &self.refusal {
            return Err(denial.clone().into());
        }
        // The audit may have become full since the connection was admitted.
        self.account().admit()?;
        if !self.certificate_is_valid() {
            return Err(Denial::new(Reason::PolicyRevoked).into());
        }
        let target = well_formed(request).map_err(Refused::from)?;
        let parsed = Request::parse(request.method().as_str(), target, Naming::Mirror);
        let parsed = parsed.map_err(denial_of_request)?;
        account.ask(&parsed);
        let subject = || subject(&parsed);
        let identity = self.identify(&set, request.headers()).await?;
        account.client_name = set.group_of(&identity).map(|group| group.name.clone());
        if parsed.operation == Operation::Ping {
            if parsed.registry.is_some() {
                set.offers(parsed.registry.as_ref())
                    .map_err(|one| Refused::from(one).of(&subject()))?;
            }
            if set.wants_password(parsed.registry.as_ref(), &identity) {
                return Err(Denial::new(Reason::CredentialsRequired).into());
            }
            return Ok(Judged::Ping);
        }
        let enforcement = self.listener.enforcement.unwrap_or(set.rules().enforcement);
        let allowed = set.judge_request(&parsed, &identity, enforcement);
        let allowed = allowed.map_err(|denial| Refused::from(denial).of(&subject()))?;
        account.granted = Some(Granted::from(allowed.grant()));
        account.would_deny = allowed.would_deny().map(|denial| denial.reason);
        self.admit(&allowed, target, request.headers(), enforcement, account)?;
        let allowed = Arc::new(allowed);
        let (judged, own) = (allowed.clone(), self.listener.enforcement);
        let asked = parsed.clone();
        let revoked = async move {
            while policy.changed().await.is_ok() {
                let set = policy.borrow_and_update().clone();
                let enforcement = own.unwrap_or(set.rules().enforcement);
                let stands = set.request_still_stands(&judged, &asked, &identity, enforcement);
                if let Err(denial) = stands {
                    return denial.into();
                }
            }
            Reason::Draining.into()
        };
        let prefix = prefix(target, &parsed);
        let revoked: Revoked = Box::pin(revoked);
        Ok(Judged::Send(Box::new(Sending { set, request: parsed, prefix, allowed, revoked })))
    }

    /// Takes the user whose password the client has sent, where a client is known by one at all.
    async fn identify(
        &self,
        set: &PolicySet,
        headers: &HeaderMap,
    ) -> Result<ClientIdentity, Refused> {
        let mut identity = self.identity.clone();
        let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some(value) = value.filter(|_| !set.users().is_empty()) else { return Ok(identity) };
        let credentials: ClientCredentials = match Authorization::parse(value) {
            Authorization::Basic(credentials) => credentials,
            // podman sends this where it has no password.
            Authorization::Broken if value.trim_end().ends_with(" Og==") => return Ok(identity),
            Authorization::Broken => {
                let remedy = "user and password are malformed";
                return Err(Denial::with_remedy(Reason::CredentialsRequired, remedy).into());
            }
            Authorization::Other => return Ok(identity),
        };
        let by = Instant::now() + set.limits().head_timeout;
        let ClientAddress(from) = identity.address;
        let checking = self.gate.passwords.check(set.users(), credentials, from, by);
        let user = Box::pin(checking).await?;
        identity.login = Login::Proved(Box::new(user));
        Ok(identity)
    }

    /// Counts the request for its group of clients, and for what that may send in an hour.
    fn admit(
        &self,
        allowed: &AllowedRequest,
        target: &str,
        headers: &HeaderMap,
        enforcement: Enforcement,
        account: &mut OpenRequest,
    ) -> Result<(), Refused> {
        let mut session = self.account();
        if session.record.target().is_none() {
            let login = allowed.server();
            session.ask_for(login.target());
            session.allow(&login);
        }
        let Some(client) = allowed.client() else { return Ok(()) };
        account.client_name = Some(client.name.clone());
        if session.record.client_name.is_none() {
            session.record.client_name = Some(client.name.clone());
        }
        drop(session);
        self.admit_to_group(client)?;
        let quota =
            self.gate.quotas.upload_quota(&client.name, client.limits.upload_bytes_per_hour);
        if quota.left() == 0 {
            if enforcement == Enforcement::Enforce {
                let remedy = "its client has nothing left for this hour";
                return Err(Denial::with_remedy(Reason::UploadBudget, remedy).into());
            }
            account.would_deny.get_or_insert(Reason::UploadBudget);
        }
        let length = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
        let bytes = target.len() + headers.iter().map(length).sum::<usize>();
        quota.count(u64::try_from(bytes).unwrap_or(u64::MAX));
        Ok(())
    }

    /// From the right to send a request to its answer.
    async fn send(
        &self,
        sending: Sending,
        headers: &HeaderMap,
        mut account: OpenRequest,
    ) -> Response<ResponseBody> {
        let Sending { set, request, prefix, allowed, mut revoked } = sending;
        let own = self.gate.own.borrow().clone();
        let asked = Asked { set: &set, own: &own, allowed: &allowed, request: &request, headers };
        let sent = tokio::select! {
            biased;
            stop = revoked.as_mut() => Err(Trouble::from(stop)),
            sent = Box::pin(self.forward.send(asked)) => sent,
        };
        let answer = match sent {
            Ok(answer) => answer,
            Err(Trouble { stop, detail, upstream }) => {
                account.upstream = upstream;
                let refused = Refused { stop, detail, subject: subject(&request) };
                return refused.answer(&mut account);
            }
        };
        let RegistryAnswer { status, headers, body, next, named, upstream, would_deny } = answer;
        account.upstream = upstream;
        account.status = status.as_u16();
        account.would_deny = account.would_deny.or(would_deny);
        if let Some(digest) = &named {
            account.names_digest(digest);
        }
        let mut response = match body {
            AnswerBody::Whole(bytes) => {
                account.bytes_down = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                self.delivery.add(account.bytes_down);
                account.close(&Ok(Ending::Closed));
                Response::new(ResponseBody::whole(bytes))
            }
            AnswerBody::Streamed(blob) => {
                let pace = Paced::by(self.rates(&allowed));
                let delivery = self.delivery.clone();
                let streamed = Streamed { blob: *blob, account, revoked, pace, delivery };
                Response::new(ResponseBody::Streamed(Box::new(streamed)))
            }
        };
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        let is_whole = matches!(response.body(), ResponseBody::Whole(_));
        let kept = response.headers_mut();
        if is_whole && request.method != oci::Method::Head {
            kept.remove(header::CONTENT_LENGTH);
        }
        let version = HeaderName::from_static("docker-distribution-api-version");
        kept.insert(version, HeaderValue::from_static("registry/2.0"));
        if let Some(link) = next.and_then(|next| link(&next, &request, prefix.as_deref())) {
            kept.insert(header::LINK, link);
        }
        response
    }

    /// The rates that downloads keep: the client's, and the registry's.
    fn rates(&self, allowed: &AllowedRequest) -> Vec<Arc<Throttle>> {
        let shares = &self.gate.quotas;
        let of_client = allowed.client().and_then(|client| {
            shares.throttle(
                RateOwner::Client,
                &client.name,
                client.limits.download_bytes_per_second,
            )
        });
        let grant = allowed.grant();
        let of_registry =
            shares.throttle(RateOwner::Registry, &grant.registry, grant.download_bytes_per_second);
        of_client.into_iter().chain(of_registry).collect()
    }
}

/// What a message about a request begins with.
fn subject(request: &Request) -> String {
    let repository = request.operation.repository();
    match (&request.registry, repository) {
        (Some(registry), Some(repository)) => format!("{registry}/{repository}"),
        (None, Some(repository)) => repository.to_string(),
        (Some(registry), None) => registry.to_string(),
        (None, None) => "the request".to_owned(),
    }
}

/// The registry as the client has it in its path; `None` where it is not there.
fn prefix(target: &str, request: &Request) -> Option<String> {
    let registry = request.registry.as_ref()?;
    let first = target.strip_prefix("/v2/")?.split('/').next()?;
    first.eq_ignore_ascii_case(registry.as_str()).then(|| first.to_owned())
}

/// The next part of a list, named as the client has named the first.
fn link(next: &Operation, request: &Request, prefix: Option<&str>) -> Option<HeaderValue> {
    let target = next.target();
    let target = match (prefix, &request.registry) {
        (Some(prefix), _) => format!("/v2/{prefix}{}", target.strip_prefix("/v2")?),
        (None, Some(registry)) => {
            let mark = if target.contains('?') { '&' } else { '?' };
            format!("{target}{mark}ns={}", registry.as_str().replace(':', "%3A"))
        }
        (None, None) => target,
    };
    HeaderValue::try_from(format!("<{target}>; rel=\"next\"")).ok()
}
