//! The HTTP answer for a rejected client: status, reason phrase, `Proxy-Status` and a JSON body.
//!
//! The reason phrase is the user interface, because Go clients print nothing else. It names the
//! host, the remedy, the reason code and the session id, in at most 150 printable ASCII characters.
//! Pure.

use std::borrow::Cow;
use std::fmt::Write as _;

use bytes::Bytes;
use http_body_util::Full;
use hyper::ext::ReasonPhrase;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use crate::policy::{Cause, HTTPS, Reason, Stop, Target};

/// Maximum length of the reason phrase, in characters.
pub const LONGEST_PHRASE: usize = 150;

/// Asks a client for user name and password (RFC 7617).
const CHALLENGE: &str = "Basic realm=\"pullgate\", charset=\"UTF-8\"";

/// Minimum number of characters of a host in a phrase that is too long.
const SHORTEST_HOST: usize = 32;

/// Returns a target as users write it, without port 443.
#[must_use]
pub fn shown(target: &Target) -> String {
    if target.port == HTTPS { target.name.to_string() } else { target.to_string() }
}

/// The answer to a rejected request.
#[derive(Debug, Clone)]
pub struct RefusalAnswer<'a> {
    /// The reason.
    pub stop: &'a Stop,
    /// The requested host, as sent. `None` if it could not be read.
    pub host: Option<&'a str>,
    /// The session id, which is also in the audit line.
    pub id: &'a str,
}

impl RefusalAnswer<'_> {
    /// Returns the reason phrase.
    #[must_use]
    pub fn phrase(&self) -> String {
        let tail = format!(" [{} {}]", self.stop.code(), self.id);
        let (says, remedy) = describe(self.stop);
        let host = printable(self.host.unwrap_or("the request"));
        let mut remedy = remedy.map(printable).unwrap_or_default();
        let fixed = "pullgate: ".len() + 1 + says.len() + tail.len();
        let room = LONGEST_PHRASE.saturating_sub(fixed);
        if let Stop::Detailed(_) = self.stop {
            // As much of what was seen, or of a parent's words, as fits.
            let most = room.saturating_sub(host.len().min(SHORTEST_HOST) + "; ".len());
            remedy = remedy.chars().take(most).collect::<String>().trim_end().to_owned().into();
        }
        let with_remedy = host.len().min(SHORTEST_HOST) + "; ".len() + remedy.len() <= room;
        let mut phrase = String::with_capacity(LONGEST_PHRASE);
        phrase.push_str("pullgate: ");
        if remedy.is_empty() || !with_remedy {
            phrase.push_str(&shortened(&host, room));
            let _ = write!(phrase, " {says}");
        } else {
            phrase.push_str(&shortened(&host, room - "; ".len() - remedy.len()));
            let _ = write!(phrase, " {says}; {remedy}");
        }
        phrase.push_str(&tail);
        phrase
    }

    /// Returns the unabridged phrase for a body. `detail` follows the remedy.
    #[must_use]
    pub fn message(&self, detail: Option<&str>) -> String {
        let (says, remedy) = describe(self.stop);
        let mut message = format!("pullgate: {} {says}", printable(self.host.unwrap_or_default()));
        for more in remedy.into_iter().chain(detail) {
            message.push_str("; ");
            message.push_str(&printable(more));
        }
        let _ = write!(message, " [{} {}]", self.stop.code(), self.id);
        message
    }

    /// Returns the whole answer. The connection closes after it.
    #[must_use]
    pub fn response(&self) -> Response<Full<Bytes>> {
        let phrase = self.phrase();
        let (status, error) = status_and_error(self.stop);
        let details = format!("pullgate; error={error}; details=\"{}\"", self.stop.code());
        let host = self.host.map(printable);
        let body =
            Body { error: self.stop.code(), host: host.as_deref(), id: self.id, message: &phrase };
        let mut text = Vec::with_capacity(2 * LONGEST_PHRASE);
        // Writing strings to memory cannot fail.
        let _ = serde_json::to_writer(&mut text, &body);
        text.push(b'\n');
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        if let Ok(value) = HeaderValue::try_from(details) {
            headers.insert(HeaderName::from_static("proxy-status"), value);
        }
        if status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            headers.insert(header::PROXY_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("CONNECT"));
        }
        if let Ok(phrase) = ReasonPhrase::try_from(phrase.into_bytes()) {
            response.extensions_mut().insert(phrase);
        }
        response
    }
}

/// What follows the host, and what the user should do or know.
fn describe(stop: &Stop) -> (&'static str, Option<&str>) {
    match stop {
        Stop::Denied(denial) => (describe_reason(denial.reason), denial.remedy.as_deref()),
        Stop::Failed(failure) => (describe_cause(failure.cause), None),
        Stop::Detailed(detailed) => {
            (describe_cause(detailed.failure.cause), Some(&*detailed.detail))
        }
    }
}

/// The body, for programs.
#[derive(Debug, Serialize)]
struct Body<'a> {
    error: &'static str,
    host: Option<&'a str>,
    id: &'a str,
    message: &'a str,
}

/// Returns the status of an answer.
#[must_use]
pub fn status_of(stop: &Stop) -> StatusCode {
    status_and_error(stop).0
}

/// Returns the status and the registered error type of RFC 9209 §2.3.
fn status_and_error(stop: &Stop) -> (StatusCode, &'static str) {
    const DENIED: &str = "http_request_denied";
    match stop {
        Stop::Denied(denial) => match denial.reason {
            Reason::HeadMalformed | Reason::ProxyHeaderInvalid => {
                (StatusCode::BAD_REQUEST, "http_request_error")
            }
            Reason::RequestMalformed => (StatusCode::BAD_REQUEST, "http_request_error"),
            Reason::HostMismatch => (StatusCode::MISDIRECTED_REQUEST, DENIED),
            Reason::OperationNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, DENIED),
            Reason::BadTarget => (StatusCode::BAD_REQUEST, "http_request_error"),
            Reason::ProxyLoop => (StatusCode::BAD_REQUEST, "proxy_loop_detected"),
            Reason::HeadTooLarge => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "http_request_error")
            }
            Reason::HeadTimeout => (StatusCode::REQUEST_TIMEOUT, "http_request_error"),
            Reason::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, DENIED),
            Reason::CredentialsRequired => (StatusCode::PROXY_AUTHENTICATION_REQUIRED, DENIED),
            Reason::RateLimit => (StatusCode::TOO_MANY_REQUESTS, "connection_limit_reached"),
            Reason::UploadBudget => (StatusCode::TOO_MANY_REQUESTS, DENIED),
            Reason::SessionLimit => (StatusCode::SERVICE_UNAVAILABLE, "connection_limit_reached"),
            Reason::Draining | Reason::AuditFull => (StatusCode::SERVICE_UNAVAILABLE, DENIED),
            Reason::AddressNotAllowed | Reason::IpLiteral => {
                (StatusCode::FORBIDDEN, "destination_ip_prohibited")
            }
            _ => (StatusCode::FORBIDDEN, DENIED),
        },
        Stop::Failed(failure) => status_of_cause(failure.cause),
        Stop::Detailed(detailed) => status_of_cause(detailed.failure.cause),
    }
}

fn status_of_cause(cause: Cause) -> (StatusCode, &'static str) {
    match cause {
        Cause::NameNotFound | Cause::LookupFailed => (StatusCode::BAD_GATEWAY, "dns_error"),
        Cause::LookupTimeout => (StatusCode::GATEWAY_TIMEOUT, "dns_timeout"),
        Cause::ConnectRefused => (StatusCode::BAD_GATEWAY, "connection_refused"),
        Cause::ConnectTimeout => (StatusCode::GATEWAY_TIMEOUT, "connection_timeout"),
        Cause::ConnectUnreachable => (StatusCode::BAD_GATEWAY, "destination_ip_unroutable"),
        Cause::UpstreamCertificate => (StatusCode::BAD_GATEWAY, "tls_certificate_error"),
        Cause::ParentUnreachable => (StatusCode::BAD_GATEWAY, "destination_unavailable"),
        Cause::ParentRefused => (StatusCode::BAD_GATEWAY, "http_request_denied"),
        Cause::ParentAuth => (StatusCode::BAD_GATEWAY, "proxy_configuration_error"),
        Cause::UpstreamTls => (StatusCode::BAD_GATEWAY, "tls_protocol_error"),
        Cause::UpstreamAuth | Cause::UpstreamMalformed | Cause::DigestMismatch => {
            (StatusCode::BAD_GATEWAY, "http_protocol_error")
        }
        Cause::ParentMalformed => (StatusCode::BAD_GATEWAY, "http_protocol_error"),
        Cause::ClientAborted
        | Cause::AuthorityNotTrusted
        | Cause::UpstreamAborted
        | Cause::IdleTimeout
        | Cause::StallTimeout
        | Cause::TcpMemory
        | Cause::Internal
        | Cause::LocalPorts => (StatusCode::BAD_GATEWAY, "proxy_internal_error"),
    }
}

/// Returns the text after the host in the phrase.
fn describe_reason(reason: Reason) -> &'static str {
    match reason {
        Reason::HeadMalformed => "is malformed",
        Reason::HeadTooLarge => "has a head that is too large",
        Reason::HeadTimeout => "did not arrive in time",
        Reason::ProxyHeaderInvalid => "lacks a valid PROXY header",
        Reason::ProxyTls => "must use TLS to the gate",
        Reason::CertificateRejected => "needs a valid client certificate",
        Reason::BadTarget => "is not a valid host:port",
        Reason::ProxyLoop => "goes in a circle of proxies",
        Reason::MethodNotAllowed => "must use CONNECT",
        Reason::IpLiteral => "is an IP address; only names are allowed",
        Reason::PortNotAllowed => "is allowed, but not on this port",
        Reason::HostNotAllowed => "is not in the policy",
        Reason::StorageAccount => "is a storage account",
        Reason::OtherRegistry => "is a registry that is not in the policy",
        Reason::ClientNotAllowed => "is not allowed for this client",
        Reason::CredentialsRequired => "needs proxy credentials",
        Reason::RequestMalformed => "is a malformed registry request",
        Reason::OperationNotAllowed => "is an operation that is not allowed",
        Reason::RegistryUnknown => "is not a registry of this mirror",
        Reason::RepositoryNotAllowed => "is a repository that is not allowed",
        Reason::TagNotAllowed => "was asked for by a tag that is not allowed",
        Reason::ListingNotAllowed => "may not be listed",
        Reason::HostMismatch => "is not the server of this connection",
        Reason::ProtocolNotAllowed => "is reached by HTTP/1.1 only",
        Reason::RedirectNotAllowed => "is not allowed: its registry redirects elsewhere",
        Reason::AddressNotAllowed => "resolves to no address that may be dialled",
        Reason::NotTls => "must use TLS",
        Reason::SessionLimit => "has to wait: too many open sessions",
        Reason::RateLimit => "has to wait",
        Reason::UploadBudget => "has to wait: too much was sent",
        Reason::AuditFull => "has to wait: the gate cannot write its audit",
        Reason::Draining => "has to wait: the gate is shutting down",
        Reason::HelloMalformed
        | Reason::HelloTooLarge
        | Reason::HelloTimeout
        | Reason::SniMissing
        | Reason::SniMismatch
        | Reason::SecondHelloMismatch
        | Reason::EncryptedClientHello
        | Reason::EarlyData
        | Reason::TlsTooOld
        | Reason::ServerHelloMalformed
        | Reason::Renegotiation
        | Reason::Lifetime
        | Reason::PolicyRevoked => "was refused",
    }
}

fn describe_cause(cause: Cause) -> &'static str {
    match cause {
        Cause::NameNotFound => "has no address in DNS",
        Cause::LookupFailed => "could not be looked up: DNS failed",
        Cause::LookupTimeout => "could not be looked up: DNS did not answer",
        Cause::ConnectRefused => "refused the connection",
        Cause::ConnectTimeout => "did not accept the connection in time",
        Cause::ConnectUnreachable => "cannot be reached",
        Cause::ParentUnreachable => "failed: no parent proxy",
        Cause::ParentRefused => "refused by parent",
        Cause::ParentAuth => "failed: parent proxy login",
        Cause::ParentMalformed => "failed: bad parent answer",
        Cause::LocalPorts => "cannot be dialled: the gate's host has no local port left",
        Cause::ClientAborted | Cause::UpstreamAborted => "was aborted",
        Cause::IdleTimeout => "was idle too long",
        Cause::StallTimeout => "was not read from for too long",
        Cause::TcpMemory => "ended: the gate's host is short of memory",
        Cause::UpstreamTls => "failed in the TLS handshake",
        Cause::AuthorityNotTrusted => "was not believed to be the server",
        Cause::UpstreamCertificate => "has no valid certificate",
        Cause::UpstreamAuth => "did not accept the gate",
        Cause::UpstreamMalformed => "answered with a malformed response",
        Cause::DigestMismatch => "sent bytes that do not have their digest",
        Cause::Internal => "failed inside the gate",
    }
}

/// Replaces what is not printable ASCII.
fn printable(text: &str) -> Cow<'_, str> {
    let is_printable = |one: char| matches!(one, ' '..='~');
    if text.chars().all(is_printable) {
        return text.into();
    }
    text.chars().map(|one| if is_printable(one) { one } else { '?' }).collect()
}

/// Shortens a host to `room` characters in the middle: both ends identify it.
fn shortened(host: &str, room: usize) -> Cow<'_, str> {
    if host.len() <= room {
        return host.into();
    }
    let kept = room.saturating_sub("...".len());
    let (front, behind) = (kept / 2, kept - kept / 2);
    let start = host.get(..front).unwrap_or_default();
    let end = host.get(host.len() - behind..).unwrap_or_default();
    format!("{start}...{end}").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Denial, Failure, Side};
    use proptest::prelude::*;

    const ID: &str = "01JD8ZK3V0000000000000000A";

    fn phrase(stop: &Stop, host: &str) -> String {
        RefusalAnswer { stop, host: Some(host), id: ID }.phrase()
    }

    #[test]
    fn the_phrase_of_the_contract() {
        let remedy = "enable dedicated data endpoints";
        let stop = Denial::with_remedy(Reason::StorageAccount, remedy).into();
        assert_eq!(
            phrase(&stop, "x.blob.core.windows.net"),
            format!(
                "pullgate: x.blob.core.windows.net is a storage account; \
                 enable dedicated data endpoints [storage-account {ID}]"
            )
        );
    }

    #[test]
    fn every_reason_and_cause_has_an_answer() {
        let denied = Reason::ALL.iter().map(|reason| Stop::from(*reason));
        let failed = Cause::ALL
            .iter()
            .map(|cause| Stop::Failed(Failure { side: Side::Upstream, cause: *cause }));
        for stop in denied.chain(failed) {
            let response =
                RefusalAnswer { stop: &stop, host: Some("h.example:443"), id: ID }.response();
            let phrase = response.extensions().get::<ReasonPhrase>().unwrap();
            let phrase = std::str::from_utf8(phrase.as_bytes()).unwrap();
            assert!(phrase.contains(stop.code()) && phrase.contains(ID), "{phrase}");
            assert!(response.status().is_client_error() || response.status().is_server_error());
            let challenged = response.headers().contains_key("proxy-authenticate");
            assert_eq!(challenged, response.status() == 407, "{phrase}");
            let status = response.headers()["proxy-status"].to_str().unwrap();
            assert!(status.contains(stop.code()), "{status}");
        }
    }

    proptest! {
        #[test]
        fn the_phrase_is_short_and_printable(
            host in "\\PC{0,300}", remedy in "\\PC{0,200}", index in 0..Reason::ALL.len(),
        ) {
            let reason = Reason::ALL[index];
            let stop = Denial::with_remedy(reason, remedy).into();
            let phrase = phrase(&stop, &host);
            prop_assert!(phrase.len() <= LONGEST_PHRASE, "{phrase}");
            prop_assert!(phrase.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            prop_assert!(phrase.contains(reason.code()));
        }
    }
}
