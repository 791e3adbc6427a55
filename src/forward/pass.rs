//! Sends a judged request of an inspected tunnel on, with the client's own `Authorization`, and checks
//! that the answer keeps the client on the judged way.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{self, HeaderValue};

use super::blob::BlobBody;
use super::body::RequestBody;
use super::exchange::{Answered, Asked, FirstConnection, Headers, Outgoing, whole};
use super::headers;
use super::token::Tokens;
use super::trouble::Trouble;
use super::{AnswerBody, Forward, LARGEST_ERROR, RegistryAnswer, refused};
use crate::oci::{Action, Method, Naming, Operation, Request, UriReference};
use crate::policy::{Denial, Reason, Target};

impl Forward {
    /// Returns the registry client of one inspected tunnel. It shares no connection and no token with
    /// other clients.
    #[must_use]
    pub fn for_client(&self, first: FirstConnection) -> Self {
        Self { exchanger: self.exchanger.for_client(first), tokens: Tokens::default() }
    }

    /// Sends a request as it was judged, with `body`.
    ///
    /// # Errors
    /// What denied it or failed.
    pub async fn pass(
        &self,
        asked: Asked<'_>,
        body: RequestBody,
    ) -> Result<RegistryAnswer, Trouble> {
        let server = asked.allowed.server();
        let outgoing = Outgoing {
            method: method(asked.request.method),
            target: &asked.request.operation.target(),
            headers: Headers::Kept(headers::of_client, asked.headers),
            authorization: None,
        };
        let answered = self.exchanger.exchange(asked, &server, &outgoing, body).await?;
        let status = answered.response.status();
        if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
            let from = server.target().name.clone();
            return self.redirected(asked, from, outgoing.method, answered).await;
        }
        if matches!(asked.request.operation, Operation::Stored { .. }) {
            return stored(asked, answered).await;
        }
        match asked.request.operation.action() {
            Action::Read => self.answer(asked, answered).await,
            Action::Write | Action::Delete if status.is_success() => {
                written(asked, server.target(), answered).await
            }
            Action::Write | Action::Delete => refused(answered).await,
        }
    }
}

/// Passes on what a data endpoint answers. What the bytes should be is known to the client alone.
async fn stored(asked: Asked<'_>, answered: Answered) -> Result<RegistryAnswer, Trouble> {
    let (status, upstream) = (answered.response.status(), answered.connection.address());
    if !status.is_success() && status != StatusCode::NOT_MODIFIED {
        return refused(answered).await;
    }
    let headers = headers::of_answer(answered.response.headers());
    let has_body = asked.request.method != Method::Head && status != StatusCode::NOT_MODIFIED;
    let Answered { response, connection, .. } = answered;
    let idle = asked.set.limits().idle_timeout;
    let body = match has_body {
        true => {
            let body = BlobBody::new(response.into_body(), connection, None, idle);
            AnswerBody::Streamed(Box::new(body))
        }
        false => {
            connection.release();
            AnswerBody::Whole(Bytes::new())
        }
    };
    Ok(RegistryAnswer::new(status, headers, body, upstream))
}

fn method(method: Method) -> hyper::Method {
    match method {
        Method::Get => hyper::Method::GET,
        Method::Head => hyper::Method::HEAD,
        Method::Post => hyper::Method::POST,
        Method::Patch => hyper::Method::PATCH,
        Method::Put => hyper::Method::PUT,
        Method::Delete => hyper::Method::DELETE,
    }
}

/// Passes on that the registry has accepted something. Its `Location` is where the client goes on with
/// an upload: it must be an operation on the same repository of the same server.
async fn written(
    asked: Asked<'_>,
    server: &Target,
    answered: Answered,
) -> Result<RegistryAnswer, Trouble> {
    let (status, upstream) = (answered.response.status(), answered.connection.address());
    let mut kept = headers::of_upload(answered.response.headers());
    let goes_on = answered.response.headers().contains_key(header::LOCATION);
    let location = headers::location(answered.response.headers());
    let location = location.and_then(|text| same_repository(asked.request, server, &text));
    let _ = whole(answered, LARGEST_ERROR).await;
    match location.and_then(|target| HeaderValue::try_from(target).ok()) {
        Some(value) => drop(kept.insert(header::LOCATION, value)),
        // What is finished needs none.
        None if status == StatusCode::ACCEPTED && goes_on => {
            let remedy = "the registry sends the upload elsewhere";
            let denial = Denial::with_remedy(Reason::RedirectNotAllowed, remedy);
            return Err(Trouble::from(denial).at(upstream));
        }
        None => {}
    }
    let body = AnswerBody::Whole(Bytes::new());
    Ok(RegistryAnswer::new(status, kept, body, upstream))
}

/// Returns the path of a location if it is an operation on the repository that was asked for.
fn same_repository(asked: &Request, server: &Target, location: &str) -> Option<String> {
    let own = format!("https://{server}/");
    let own = location.strip_prefix(&own).map(|path| format!("/{path}"));
    let target = match UriReference::parse(own.as_deref().unwrap_or(location)).ok()? {
        UriReference::Relative(target) => target,
        UriReference::Absolute { host, target } if server.port == 443 => {
            (host == server.name.as_str()).then_some(target)?
        }
        UriReference::Absolute { .. } => return None,
    };
    let parsed = |method| Request::parse(method, &target, Naming::Connection).ok();
    let operation = parsed("PATCH").or_else(|| parsed("GET"))?.operation;
    let is_known = matches!(
        operation,
        Operation::UploadChunk { .. } | Operation::Blob { .. } | Operation::Manifest { .. }
    );
    let same = operation.repository() == asked.operation.repository();
    (is_known && same).then(|| operation.target())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Name;

    #[test]
    fn uploads_stay_in_their_repository() {
        let server = Target::https(Name::parse("contoso.azurecr.io").unwrap());
        let start = "/v2/team/app/blobs/uploads/";
        let asked = Request::parse("POST", start, Naming::Connection).unwrap();
        let other = Target { port: 5000, ..server.clone() };
        let at = |path: &str| Some(path.to_owned());
        for (location, server, expected) in [
            ("/v2/team/app/blobs/uploads/1", &server, at("/v2/team/app/blobs/uploads/1")),
            (
                "https://contoso.azurecr.io/v2/team/app/blobs/uploads/1?_state=a%3D",
                &server,
                at("/v2/team/app/blobs/uploads/1?_state=a%3D"),
            ),
            (
                "https://contoso.azurecr.io:5000/v2/team/app/blobs/uploads/1",
                &other,
                at("/v2/team/app/blobs/uploads/1"),
            ),
            ("https://contoso.azurecr.io/v2/team/app/blobs/uploads/1", &other, None),
            ("https://fabrikam.azurecr.io/v2/team/app/blobs/uploads/1", &server, None),
            ("http://contoso.azurecr.io/v2/team/app/blobs/uploads/1", &server, None),
            ("https://contoso.azurecr.io@evil.com/v2/team/app/blobs/uploads/1", &server, None),
            ("//evil.com/v2/team/app/blobs/uploads/1", &server, None),
            ("/v2/team/other/blobs/uploads/1", &server, None),
            ("/v2/team/app/blobs/uploads/1?x=y", &server, None),
            ("/v2/team/app/../other/blobs/uploads/1", &server, None),
            ("/v2/", &server, None),
        ] {
            assert_eq!(same_repository(&asked, server, location), expected, "{location}");
        }
    }
}
