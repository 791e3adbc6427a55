//! Which headers pass, in both directions. Everything else ends at the gate.

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::oci::{Digest, Naming, Operation, Request, UriReference};

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// Of a client's headers, those that a registry gets.
pub(super) fn for_registry(client: &HeaderMap) -> HeaderMap {
    kept(client, &[header::ACCEPT, header::RANGE, header::IF_NONE_MATCH, header::USER_AGENT])
}

/// Of a client's headers, those that a registry gets in an inspected tunnel: the same and the client's
/// own credentials, and what says what its body is. The length is that of the body itself.
#[cfg(feature = "inspect")]
pub(super) fn of_client(client: &HeaderMap) -> HeaderMap {
    kept(
        client,
        &[
            header::ACCEPT,
            header::RANGE,
            header::IF_NONE_MATCH,
            header::USER_AGENT,
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::CONTENT_RANGE,
        ],
    )
}

/// Of the headers of a registry that has accepted an upload, those that a client gets. Its location is
/// checked apart.
#[cfg(feature = "inspect")]
pub(super) fn of_upload(registry: &HeaderMap) -> HeaderMap {
    let session = HeaderName::from_static("docker-upload-uuid");
    let least = HeaderName::from_static("oci-chunk-min-length");
    let subject = HeaderName::from_static("oci-subject");
    kept(registry, &[header::RANGE, CONTENT_DIGEST, session, least, subject])
}

/// Of a client's headers, those that a blob store gets: no credentials of anybody.
pub(super) fn for_blob_store(client: &HeaderMap) -> HeaderMap {
    kept(client, &[header::RANGE, header::IF_NONE_MATCH, header::USER_AGENT])
}

/// Of a registry's headers, those that a client gets.
pub(super) fn of_answer(registry: &HeaderMap) -> HeaderMap {
    let filters = HeaderName::from_static("oci-filters-applied");
    let subject = HeaderName::from_static("oci-subject");
    let all = [
        header::CONTENT_TYPE,
        header::CONTENT_LENGTH,
        header::CONTENT_RANGE,
        header::ACCEPT_RANGES,
        header::ETAG,
        header::LAST_MODIFIED,
        CONTENT_DIGEST,
        filters,
        subject,
    ];
    kept(registry, &all)
}

/// Of a blob store's headers, those that a client gets.
pub(super) fn of_store(store: &HeaderMap) -> HeaderMap {
    let mut headers = kept(
        store,
        &[
            header::CONTENT_LENGTH,
            header::CONTENT_RANGE,
            header::ACCEPT_RANGES,
            header::ETAG,
            header::LAST_MODIFIED,
        ],
    );
    let binary = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, binary);
    headers
}

/// Of a redirect's headers, those that a client gets.
pub(super) fn of_redirect(registry: &HeaderMap) -> HeaderMap {
    kept(registry, &[header::LOCATION, CONTENT_DIGEST])
}

/// Of the headers of a registry's refusal, those that a client gets.
pub(super) fn of_refusal(registry: &HeaderMap) -> HeaderMap {
    kept(registry, &[header::CONTENT_TYPE, header::RETRY_AFTER, header::WWW_AUTHENTICATE])
}

fn kept(all: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    // There are few of either, so comparing them costs less than looking each name up.
    for (name, value) in all.iter().filter(|(name, _)| names.contains(name)) {
        headers.append(name.clone(), value.clone());
    }
    headers
}

/// Returns where a response leads; `None` where that is not said exactly once.
pub(super) fn location(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(header::LOCATION).iter();
    let only = values.next()?.to_str().ok()?;
    values.next().is_none().then(|| only.to_owned())
}

/// Returns the digest that a registry names.
pub(super) fn digest(headers: &HeaderMap) -> Option<Digest> {
    Digest::parse(headers.get(CONTENT_DIGEST)?.to_str().ok()?).ok()
}

/// Names a digest.
pub(super) fn set_digest(headers: &mut HeaderMap, digest: &Digest) {
    if let Ok(value) = HeaderValue::try_from(digest.as_str()) {
        headers.insert(CONTENT_DIGEST, value);
    }
}

/// Whether a body is JSON.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.is_some_and(|value| value.starts_with("application/json"))
}

/// Returns the next part of a list (`Link: <…>; rel="next"`), where it is the same list's.
pub(super) fn next(headers: &HeaderMap, asked: &Operation) -> Option<Operation> {
    let value = headers.get(header::LINK)?.to_str().ok()?;
    let (url, _) = value.trim_start().strip_prefix('<')?.split_once('>')?;
    let target = match UriReference::parse(url).ok()? {
        UriReference::Absolute { target, .. } | UriReference::Relative(target) => target,
    };
    let next = Request::parse("GET", &target, Naming::Connection).ok()?.operation;
    let same = next.name() == asked.name() && next.repository() == asked.repository();
    same.then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_part_is_of_the_same_list() {
        let of =
            |target: &str| Request::parse("GET", target, Naming::Connection).unwrap().operation;
        let tags = of("/v2/a/tags/list?n=1");
        for (link, expected) in [
            ("</v2/a/tags/list?last=b&n=1>; rel=\"next\"", Some("/v2/a/tags/list?n=1&last=b")),
            (
                "<https://r.example.com/v2/a/tags/list?n=1&last=b>",
                Some("/v2/a/tags/list?n=1&last=b"),
            ),
            ("</v2/b/tags/list?n=1>; rel=\"next\"", None),
            ("</v2/_catalog?n=1>", None),
            ("</v2/a/../b/tags/list?n=1>", None),
            ("/v2/a/tags/list?n=1", None),
            ("<", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::LINK, HeaderValue::from_static(link));
            let found = next(&headers, &tags).map(|operation| operation.target());
            assert_eq!(found.as_deref(), expected, "{link}");
        }
    }

    #[test]
    fn little_passes() {
        let mut client = HeaderMap::new();
        for (name, value) in [
            ("accept", "a"),
            ("accept", "b"),
            ("range", "bytes=0-1"),
            ("authorization", "Basic x"),
            ("cookie", "x"),
            ("host", "evil.com"),
            ("x-forwarded-for", "1.2.3.4"),
            ("te", "x"),
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("accept-encoding", "gzip"),
        ] {
            let name = HeaderName::from_static(name);
            client.append(name, HeaderValue::from_static(value));
        }
        let sent: Vec<String> =
            for_registry(&client).iter().map(|(name, _)| name.to_string()).collect();
        assert_eq!(sent, ["accept", "accept", "range"]);
    }
}
