//! The story of one request: judged, sent on with its body, answered.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::Response;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use super::body::{Passed, UploadBody, discard, over_quota, whole};
use super::connection::InspectedConnection;
use super::judge::{Revoked, Sending};
use crate::account::{OpenRequest, RequestVia};
use crate::forward::{AnswerBody, Asked, LARGEST_DOCUMENT, RegistryAnswer, RequestBody, Trouble};
use crate::limits::Paced;
use crate::oci::{Digest, Method, Operation, Request, TokenForm};
use crate::policy::{AllowedRequest, ClientAddress, Denial, Ending, PolicySet, Reason, Stop};
use crate::serve::{Refused, ResponseBody, Streamed};
use crate::session::download_rates;

/// The largest form of a request for a token, in bytes.
const LARGEST_FORM: usize = 64 * 1024;

/// Answers a request.
pub(super) async fn respond(
    connection: Arc<InspectedConnection>,
    request: hyper::Request<Incoming>,
) -> Response<ResponseBody> {
    let ClientAddress(client) = connection.client.address;
    let account = &connection.gate.account;
    let listener = connection.listener.name.clone();
    let mut account =
        account.open_request(connection.session, RequestVia::Inspect, (client, listener));
    connection.count_request();
    let judged = connection.judge(&request, &mut account);
    let (head, mut body) = request.into_parts();
    let refused = match judged {
        Err(refused) => refused,
        Ok(sending) => match connection
            .read_body((&sending.set, &sending.request, &sending.allowed), &head.headers, &mut body)
            .await
        {
            Ok(Some(whole)) => {
                let body = RequestBody::whole(whole);
                return connection.send(sending, &head.headers, body, None, account).await;
            }
            Ok(None) => {
                let passed = Arc::<Passed>::default();
                let (all, bounds) = (connection.up.clone(), connection.bounds.clone());
                let body = UploadBody::new(body, passed.clone(), all, bounds).boxed_unsync();
                let body = RequestBody::Streamed(body);
                return connection.send(sending, &head.headers, body, Some(passed), account).await;
            }
            Err(stop) => Refused::from(stop).of(&connection.subject(&sending.request)),
        },
    };
    discard(&mut body, &head.headers).await;
    refused.answer(&mut account)
}

impl InspectedConnection {
    /// Reads the body of a request, and judges it. `None`: it is a blob, and is streamed.
    async fn read_body(
        &self,
        (set, request, allowed): (&PolicySet, &Request, &AllowedRequest),
        headers: &HeaderMap,
        body: &mut Incoming,
    ) -> Result<Option<Bytes>, Stop> {
        let malformed = |remedy: &str| Denial::with_remedy(Reason::RequestMalformed, remedy);
        let by = Instant::now() + set.limits().idle_timeout;
        match &request.operation {
            Operation::UploadChunk { .. }
            | Operation::UploadFinish { .. }
            | Operation::UploadStart { digest: Some(_), .. } => {
                Ok((body.is_end_stream()).then(Bytes::new))
            }
            Operation::PutManifest { reference, .. } => {
                let bytes = whole(body, LARGEST_DOCUMENT, by).await?;
                let wanted = reference.digest();
                if wanted.is_some_and(|one| Digest::of(one.algorithm(), &bytes) != *one) {
                    return Err(malformed("the manifest does not have this digest").into());
                }
                if !self.bounds.count_push(bytes.len()) {
                    return Err(over_quota().into());
                }
                self.count_body(&bytes);
                Ok(Some(bytes))
            }
            Operation::Token { .. } if request.method == Method::Post => {
                let bytes = whole(body, LARGEST_FORM, by).await?;
                let is_form = headers.get(header::CONTENT_TYPE).is_some_and(|kind| {
                    kind.as_bytes().starts_with(b"application/x-www-form-urlencoded")
                });
                let text = std::str::from_utf8(&bytes).ok().filter(|_| is_form);
                let form = text.and_then(|text| TokenForm::parse(text).ok());
                let form = form.ok_or_else(|| malformed("the body is no form for a token"))?;
                if let Some(service) = form.service() {
                    allowed.judge_service(service)?;
                }
                self.count_upload(bytes.len())?;
                self.count_body(&bytes);
                Ok(Some(Bytes::from(form.encoded())))
            }
            _ => {
                if !whole(body, 0, by).await?.is_empty() {
                    return Err(malformed("the request has a body").into());
                }
                Ok(Some(Bytes::new()))
            }
        }
    }

    fn count_body(&self, bytes: &Bytes) {
        self.up.fetch_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// From the right to send a request to its answer. `streamed`: what has passed of a body that still
    /// comes.
    async fn send(
        &self,
        sending: Sending,
        headers: &HeaderMap,
        body: RequestBody,
        streamed: Option<Arc<Passed>>,
        mut account: OpenRequest,
    ) -> Response<ResponseBody> {
        let Sending { set, request, allowed, mut revoked } = sending;
        if let RequestBody::Whole(whole) = &body {
            account.bytes_up = whole.size_hint().lower();
        }
        let own = self.gate.own.borrow().clone();
        let asked = Asked { set: &set, own: &own, allowed: &allowed, request: &request, headers };
        let idle = set.limits().idle_timeout;
        let ended = async {
            match &streamed {
                Some(passed) => passed.ended(idle).await,
                None => std::future::pending().await,
            }
        };
        let sent = tokio::select! {
            biased;
            stop = revoked.as_mut() => Err(Trouble::from(stop)),
            sent = Box::pin(self.forward.pass(asked, body)) => sent,
            stop = ended => Err(Trouble::from(stop)),
        };
        if let Some(passed) = &streamed {
            account.bytes_up = passed.bytes();
        }
        match sent {
            Ok(answer) => self.answer(answer, &request, revoked, account),
            Err(Trouble { stop, detail, upstream }) => {
                account.upstream = upstream;
                let refused = Refused { stop, detail, subject: self.subject(&request) };
                refused.answer(&mut account)
            }
        }
    }

    /// Turns the registry's answer into the client's.
    fn answer(
        &self,
        answer: RegistryAnswer,
        request: &Request,
        revoked: Revoked,
        mut account: OpenRequest,
    ) -> Response<ResponseBody> {
        let RegistryAnswer { status, headers, body, next, upstream, would_deny, .. } = answer;
        account.upstream = upstream;
        account.status = status.as_u16();
        account.would_deny = account.would_deny.or(would_deny);
        let mut response = match body {
            AnswerBody::Whole(bytes) => {
                account.bytes_down = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                self.delivery.add(account.bytes_down);
                account.close(&Ok(Ending::Closed));
                Response::new(ResponseBody::whole(bytes))
            }
            AnswerBody::Streamed(blob) => {
                let pace = Paced::by(download_rates(&self.gate, self.cleared.permit().allowed()));
                let delivery = self.delivery.clone();
                let streamed = Streamed { blob: *blob, account, revoked, pace, delivery };
                Response::new(ResponseBody::Streamed(Box::new(streamed)))
            }
        };
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        let is_whole = matches!(response.body(), ResponseBody::Whole(_));
        let kept = response.headers_mut();
        if is_whole && request.method != Method::Head {
            kept.remove(header::CONTENT_LENGTH);
        }
        let version = HeaderName::from_static("docker-distribution-api-version");
        kept.insert(version, HeaderValue::from_static("registry/2.0"));
        if let Some(next) = next
            && let Ok(link) = HeaderValue::try_from(format!("<{}>; rel=\"next\"", next.target()))
        {
            kept.insert(header::LINK, link);
        }
        response
    }
}
