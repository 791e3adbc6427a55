//! Serves CONNECT with hyper, from a request head that was validated before.
//!
//! hyper gets exactly the validated head and never sees the socket. Bytes after the head belong to
//! the tunnel and stay with the caller, who also sends what hyper wrote. So nothing here waits.

use std::cell::Cell;
use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::rt::ReadBufCursor;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};

use super::head::Version;

/// Typical maximum size of an answer with its fields and body, in bytes.
const ANSWER: usize = 1024;

/// Replaces a head that hyper must not see, so that hyper writes the answer to it, too.
const STAND_IN: &[u8] = b"CONNECT refused.invalid:443 HTTP/1.1\r\n\r\n";
const STAND_IN_10: &[u8] = b"CONNECT refused.invalid:443 HTTP/1.0\r\n\r\n";

/// The connection that hyper sees: it reads the head and then end of file, and stores what is
/// written.
#[derive(Debug)]
struct InMemoryIo {
    head: Bytes,
    written: Vec<u8>,
}

impl hyper::rt::Read for InMemoryIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.head.is_empty() {
            // Never woken: hyper has all its input.
            return Poll::Pending;
        }
        let length = self.head.len().min(buffer.remaining());
        buffer.put_slice(&self.head.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for InMemoryIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.written.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Answers one request with this response.
struct Decided(Cell<Option<Response<Full<Bytes>>>>);

impl Service<Request<Incoming>> for Decided {
    type Response = Response<Full<Bytes>>;
    type Error = io::Error;
    type Future = Ready<Result<Self::Response, Self::Error>>;

    fn call(&self, _request: Request<Incoming>) -> Self::Future {
        ready(self.0.take().ok_or_else(|| io::ErrorKind::InvalidInput.into()))
    }
}

/// The answers to an accepted CONNECT. They are the same for all clients of one HTTP version: they
/// have no Date, which only an origin server must send (RFC 9110 §6.6.1).
#[derive(Debug, Clone)]
pub struct AcceptedConnect {
    http10: Bytes,
    http11: Bytes,
}

impl AcceptedConnect {
    /// Generates them with hyper, once for all sessions.
    ///
    /// # Errors
    /// None known.
    pub fn new() -> io::Result<Self> {
        let said = |head| {
            let mut builder = http1::Builder::new();
            builder.auto_date_header(false);
            written(&builder, Bytes::from_static(head), Response::default()).map(Bytes::from)
        };
        Ok(Self { http10: said(STAND_IN_10)?, http11: said(STAND_IN)? })
    }

    /// Returns the answer for this version.
    #[must_use]
    pub fn in_version(&self, version: Version) -> &[u8] {
        match version {
            Version::Http10 => &self.http10,
            Version::Http11 => &self.http11,
        }
    }
}

/// Returns the answer to a validated head.
///
/// # Errors
/// If hyper rejects a head that we accepted.
pub fn answer(head: Bytes, decided: Response<Full<Bytes>>) -> io::Result<Vec<u8>> {
    written(http1::Builder::new().keep_alive(false), head, decided)
}

fn written(
    builder: &http1::Builder,
    head: Bytes,
    decided: Response<Full<Bytes>>,
) -> io::Result<Vec<u8>> {
    let paper = InMemoryIo { head, written: Vec::with_capacity(ANSWER) };
    let mut connection = builder
        .clone()
        .max_buf_size(super::head::LARGEST_HEAD)
        .serve_connection(paper, Decided(Cell::new(Some(decided))));
    match connection.poll_without_shutdown(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done.map_err(io::Error::other)?,
        Poll::Pending => return Err(io::Error::other("the answer is not whole")),
    }
    Ok(connection.into_parts().io.written)
}

/// Returns the answer to a rejected head, which hyper does not see.
///
/// # Errors
/// None known.
pub fn refusal(decided: Response<Full<Bytes>>) -> io::Result<Vec<u8>> {
    answer(Bytes::from_static(STAND_IN), decided)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;

    use super::*;
    use crate::cases::heads::heads;
    use crate::listen::http::head::{HeadProgress, HeadReader, LARGEST_HEAD};

    fn said(head: &'static str, status: u16) -> String {
        let mut response = Response::new(Full::default());
        *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap();
        let said = answer(Bytes::from_static(head.as_bytes()), response).unwrap();
        String::from_utf8(said).unwrap()
    }

    #[test]
    fn each_version_is_answered_in_its_own() {
        let head = "CONNECT contoso.azurecr.io:443 HTTP/1.1\r\nHost: contoso.azurecr.io\r\n\r\n";
        assert!(said(head, 200).starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(said(head, 403).starts_with("HTTP/1.1 403 Forbidden\r\n"));
        let old = "CONNECT contoso.azurecr.io:443 HTTP/1.0\r\n\r\n";
        assert!(said(old, 200).starts_with("HTTP/1.0 200 OK\r\n"));
        assert!(said(old, 403).starts_with("HTTP/1.0 403 Forbidden\r\n"));
    }

    #[test]
    fn an_accepted_client_is_answered_in_its_http_version() {
        let accepted = AcceptedConnect::new().unwrap();
        let answers =
            [Version::Http10, Version::Http11].map(|version| accepted.in_version(version));
        assert_eq!(answers, [&b"HTTP/1.0 200 OK\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\n\r\n"]);
    }

    #[test]
    fn a_refused_head_is_answered_too() {
        let text = String::from_utf8(refusal(Response::new(Full::default())).unwrap()).unwrap();
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        assert!(!text.contains("content-length"), "{text}");
    }

    #[test]
    fn the_largest_head_is_answered_and_so_is_a_large_body() {
        let field = format!("Proxy-Authorization: Negotiate {}\r\n", "x".repeat(15_000));
        let head = format!("CONNECT contoso.azurecr.io:443 HTTP/1.1\r\n{field}\r\n");
        let body = Bytes::from(vec![b'y'; 100_000]);
        let mut response = Response::new(Full::new(body.clone()));
        *response.status_mut() = hyper::StatusCode::FORBIDDEN;
        let said = answer(head.into(), response).unwrap();
        assert!(said.starts_with(b"HTTP/1.1 403 ") && said.ends_with(&body));
    }

    #[test]
    fn an_invalid_head_is_an_error() {
        for head in ["", "CONNECT", "GET / HTTP/1.1\r\n", "\u{16}\u{3}\u{1}"] {
            let answered = answer(Bytes::from_static(head.as_bytes()), Response::default());
            assert!(answered.is_err(), "{head}");
        }
    }

    /// Whether our own judge lets a head pass, of which hyper must then make an answer, whatever was
    /// decided. (The 200 of an accepted CONNECT, made once at the start, is tested beside it.)
    fn passes_and_is_answered(head: &[u8]) -> bool {
        let mut reader = HeadReader::default();
        let Ok(HeadProgress::Complete(judged)) = reader.feed(head) else { return false };
        let head = Bytes::from(reader.into_bytes()).split_to(judged.length);
        let request = std::str::from_utf8(&head).unwrap().lines().next().unwrap();
        let version = request.rsplit(' ').next().unwrap();
        for status in [200, 400, 403, 407, 429, 502, 503, 504] {
            let body = if status == 200 { "" } else { "{}\n" };
            let mut response = Response::new(Full::new(Bytes::from(body)));
            *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap();
            let said = answer(head.clone(), response);
            let said = said.unwrap_or_else(|error| panic!("{error}: {head:?}"));
            let said = String::from_utf8(said).unwrap();
            assert!(said.starts_with(&format!("{version} {status} ")), "{said}");
            assert!(said.ends_with(&format!("\r\n\r\n{body}")), "{said}");
            assert_eq!(said.matches("HTTP/1.").count(), 1, "{said}");
        }
        true
    }

    #[test]
    fn every_sample_that_passes_is_answered() {
        let passed = heads().into_iter().filter(|(head, _)| passes_and_is_answered(head));
        assert!(passed.count() > 5);
    }

    #[test]
    fn as_many_fields_and_bytes_as_may_pass_are_answered() {
        let start = "CONNECT contoso.azurecr.io:443 HTTP/1.0\r\n";
        let many: String = (0..64).map(|number| format!("x{number}: y\r\n")).collect();
        let room = LARGEST_HEAD - start.len() - "x:\r\n\r\n".len();
        let large = format!("x:{}\r\n", "y".repeat(room));
        for fields in [many, large, "x:\r\n".repeat(64)] {
            assert!(passes_and_is_answered(format!("{start}{fields}\r\n").as_bytes()));
        }
    }

    /// Field lines that are right, of names that a server may act on.
    fn field() -> impl Strategy<Value = String> {
        let any = ("[!#$%&'*+.^_`|~0-9a-zA-Z-]{1,12}", "[ -~\t]{0,20}");
        let names = "connection|Proxy-Connection|keep-alive|upgrade|http2-settings|Expect|te|\
                     trailer|via|forwarded|date|accept|max-forwards|content-type|range|cookie";
        let values = "[ \t]{0,2}(close|keep-alive|upgrade|h2c|websocket|100-continue|[0-9]{1,3}|\
                      trailers|chunked|, ,|)[ \t]{0,2}(,close|, upgrade|)[ \t]{0,2}";
        prop_oneof![any.boxed(), (names, values).boxed()]
            .prop_map(|(name, value)| format!("{name}:{value}\r\n"))
    }

    #[test]
    fn what_our_judge_lets_pass_is_answered() {
        let heads = (
            "([a-zA-Z0-9]{1,9}\\.){1,3}io\\.?",
            1u16..,
            "HTTP/1\\.[01]",
            proptest::collection::vec(field(), 0..=64),
            any::<prop::sample::Index>(),
            prop::option::of(any::<bool>()),
        );
        let passed = Cell::new(0);
        let mut runner = TestRunner::new(ProptestConfig::with_cases(64));
        let ran = runner.run(&heads, |(host, port, version, mut fields, at, named)| {
            if let Some(with_port) = named
                && fields.len() < 64
            {
                let port = if with_port { format!(":{port}") } else { String::new() };
                fields.insert(at.index(fields.len() + 1), format!("Host: {host}{port}\r\n"));
            }
            let head = format!("CONNECT {host}:{port} {version}\r\n{}\r\n", fields.concat());
            let passes = passes_and_is_answered(head.as_bytes());
            passed.set(passed.get() + u32::from(passes));
            Ok(())
        });
        ran.unwrap();
        // About half of them pass.
        assert!((8..=60).contains(&passed.get()), "{} of 64 heads pass", passed.get());
    }
}
