//! The head of a request, judged byte by byte before hyper sees it.
//!
//! hyper is a good server and a lax judge: it takes bare LF, user info, absolute-form and signs in
//! ports, and answers some broken heads with nothing at all. So the head is read and judged here by
//! RFC 9112, without its leniencies, and only what passed is replayed to hyper. Pure: bytes in, a
//! verdict out.

use crate::policy::{Denial, Reason, Target};

/// The largest head that is read, in bytes. Kerberos tickets in `Proxy-Authorization` fit.
pub const LARGEST_HEAD: usize = 16 * 1024;

/// The most field lines that a head may have.
const MOST_FIELDS: usize = 64;

/// A CONNECT request's head that passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Where the client wants to go.
    pub target: Target,
    /// How many bytes the head takes, its empty line included.
    pub length: usize,
}

/// What is wrong with a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadFault {
    /// The first bytes are a TLS record: the client speaks `https://` to a clear-text proxy port.
    #[error("it begins with TLS; this port speaks HTTP")]
    Tls,
    /// The connection preface of HTTP/2.
    #[error("it is HTTP/2; this port speaks HTTP/1.1")]
    Http2,
    /// More than [`LARGEST_HEAD`] bytes, or more than 64 field lines.
    #[error("it is too large")]
    TooLarge,
    /// A carriage return or a line feed that stands alone.
    #[error("it has a bare CR or LF")]
    BareLineEnd,
    /// Not `method SP target SP version`.
    #[error("its request line is malformed")]
    RequestLine,
    /// A version other than HTTP/1.0 and HTTP/1.1.
    #[error("its version is not HTTP/1.0 or HTTP/1.1")]
    Version,
    /// A field line without a name, with a space before the colon, or folded (RFC 9112 §5.2).
    #[error("it has a malformed or folded field line")]
    FieldLine,
    /// A control character or a byte over 127.
    #[error("it has a control character or a byte outside ASCII")]
    Character,
    /// `Content-Length` or `Transfer-Encoding`, which have no meaning on CONNECT (RFC 9110 §9.3.6).
    #[error("it announces content, which CONNECT has not")]
    Content,
    /// More than one `Host`.
    #[error("it has more than one Host")]
    HostTwice,
    /// A `Host` that is not the request target's.
    #[error("its Host is not its request target")]
    HostDiffers,
    /// A method other than CONNECT.
    #[error("its method is not CONNECT")]
    Method,
    /// A request target that is not `host:port`.
    #[error("{0}")]
    Target(#[from] crate::policy::TargetError),
}

impl HeadFault {
    /// What answer, metric and audit tell of it.
    #[must_use]
    pub fn denial(self) -> Denial {
        let reason = match self {
            Self::TooLarge => Reason::HeadTooLarge,
            Self::Method => Reason::MethodNotAllowed,
            Self::HostDiffers => Reason::BadTarget,
            Self::Target(fault) => fault.reason(),
            _ => Reason::HeadMalformed,
        };
        match reason {
            // The reason says it all.
            Reason::IpLiteral | Reason::MethodNotAllowed => Denial::new(reason),
            _ => Denial::with_remedy(reason, self.to_string()),
        }
    }
}

/// What some bytes are so far, together with the request target's text once it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The head is not whole.
    NeedMore,
    /// The head is whole and right.
    Complete(Head),
}

/// A fault, and the request target as it was written, for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What is wrong.
    pub fault: HeadFault,
    /// The request target, where one could be told.
    pub target: Option<String>,
}

impl From<HeadFault> for Refused {
    fn from(fault: HeadFault) -> Self {
        Self { fault, target: None }
    }
}

/// Reads a head as it comes in. Each byte is looked at once, and then once more when all are there.
#[derive(Debug, Default)]
pub struct HeadReader {
    bytes: Vec<u8>,
    scanned: usize,
    line_start: usize,
}

impl HeadReader {
    /// Takes the next bytes. The verdict is the same however they were cut.
    ///
    /// # Errors
    /// The first fault in the order of the bytes; of the semantic ones, fields before method before
    /// target.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Progress, Refused> {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.first() == Some(&0x16) {
            return Err(HeadFault::Tls.into());
        }
        match self.head_length()? {
            Some(length) if length <= LARGEST_HEAD => {
                let head = self.bytes.get(..length).unwrap_or_default();
                Ok(Progress::Complete(judge(head)?))
            }
            None if self.bytes.len() < LARGEST_HEAD => Ok(Progress::NeedMore),
            Some(_) | None => Err(HeadFault::TooLarge.into()),
        }
    }

    /// All that was read: the head, and what came behind it.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Where the head ends, once its empty line is there; on the way, what no head may hold.
    fn head_length(&mut self) -> Result<Option<usize>, HeadFault> {
        let mut before = self.scanned.checked_sub(1).and_then(|at| self.bytes.get(at)).copied();
        for (at, &byte) in self.bytes.iter().enumerate().skip(self.scanned) {
            if at >= LARGEST_HEAD {
                return Err(HeadFault::TooLarge);
            }
            match byte {
                b'\n' if before != Some(b'\r') => return Err(HeadFault::BareLineEnd),
                b'\n' if at == self.line_start + 1 => {
                    // RFC 9112 §2.2 lets a server skip an empty line before the request line. We
                    // do not: no client of ours sends one.
                    let is_first = self.line_start == 0;
                    return if is_first { Err(HeadFault::RequestLine) } else { Ok(Some(at + 1)) };
                }
                b'\n' => self.line_start = at + 1,
                _ if before == Some(b'\r') => return Err(HeadFault::BareLineEnd),
                b'\r' | b'\t' | b' '..=b'~' => {}
                _ => return Err(HeadFault::Character),
            }
            before = Some(byte);
        }
        self.scanned = self.bytes.len();
        Ok(None)
    }
}

/// Judges a whole head, its empty line included.
fn judge(head: &[u8]) -> Result<Head, Refused> {
    // `head_length` let nothing but printable ASCII, tabs and CRLF through.
    let text = std::str::from_utf8(head).map_err(|_| HeadFault::Character)?;
    let mut lines = text.split("\r\n");
    let request = lines.next().unwrap_or_default();
    let (method, target, version) = request_line(request)?;
    let refused = |fault| Refused { fault, target: Some(target.to_owned()) };
    if method == "PRI" && version == "HTTP/2.0" {
        return Err(HeadFault::Http2.into());
    }
    if !matches!(version, "HTTP/1.1" | "HTTP/1.0") {
        return Err(refused(HeadFault::Version));
    }
    let mut host = None;
    let mut content = Ok(());
    for (count, line) in lines.take_while(|line| !line.is_empty()).enumerate() {
        if count >= MOST_FIELDS {
            return Err(refused(HeadFault::TooLarge));
        }
        let (name, value) = field(line).map_err(refused)?;
        if name.eq_ignore_ascii_case("host") && host.replace(value).is_some() {
            return Err(refused(HeadFault::HostTwice));
        }
        let announces = ["content-length", "transfer-encoding"];
        if announces.iter().any(|one| name.eq_ignore_ascii_case(one)) {
            content = Err(HeadFault::Content);
        }
    }
    if method != "CONNECT" {
        return Err(refused(HeadFault::Method));
    }
    content.map_err(refused)?;
    let parsed = Target::parse_authority(target).map_err(|fault| refused(fault.into()))?;
    if host.is_some_and(|host| !names_target(host, &parsed)) {
        return Err(refused(HeadFault::HostDiffers));
    }
    Ok(Head { target: parsed, length: head.len() })
}

/// Method, request target and version, between exactly one space each.
fn request_line(line: &str) -> Result<(&str, &str, &str), HeadFault> {
    let mut parts = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(HeadFault::RequestLine);
    };
    if method.is_empty() || !method.bytes().all(is_token) || target.is_empty() {
        return Err(HeadFault::RequestLine);
    }
    if !version.starts_with("HTTP/") || line.contains('\t') {
        return Err(HeadFault::RequestLine);
    }
    Ok((method, target, version))
}

/// Name and value of a field line, the white space around the value taken off.
fn field(line: &str) -> Result<(&str, &str), HeadFault> {
    let (name, value) = line.split_once(':').ok_or(HeadFault::FieldLine)?;
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(HeadFault::FieldLine);
    }
    Ok((name, value.trim_matches([' ', '\t'])))
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether a `Host` is the target's: with its port, or without one as aiohttp and undici send it.
fn names_target(host: &str, target: &Target) -> bool {
    let name = target.name.as_str();
    let Some((front, behind)) = host.split_at_checked(name.len()) else {
        return false;
    };
    let port = behind.is_empty()
        || behind.strip_prefix(':').and_then(crate::policy::parse_port) == Some(target.port);
    front.eq_ignore_ascii_case(name) && port
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ASK: &str = "CONNECT contoso.azurecr.io:443 HTTP/1.1\r\n";

    fn verdict(text: &[u8]) -> Result<&'static str, HeadFault> {
        match HeadReader::default().feed(text) {
            Ok(Progress::NeedMore) => Ok("need more"),
            Ok(Progress::Complete(_)) => Ok("complete"),
            Err(refused) => Err(refused.fault),
        }
    }

    fn cases() -> Vec<(String, Result<&'static str, HeadFault>)> {
        use HeadFault::*;
        let ask = |fields: &str| format!("{ASK}{fields}\r\n");
        vec![
            (ask(""), Ok("complete")),
            (ask("Host: contoso.azurecr.io:443\r\n"), Ok("complete")),
            (ask("Host: Contoso.AzureCR.io\r\n"), Ok("complete")),
            (ask("host:contoso.azurecr.io:443\r\nUser-Agent: Go\r\n"), Ok("complete")),
            (ask("Proxy-Connection: keep-alive\r\nX: a\tb\r\n"), Ok("complete")),
            ("CONNECT contoso.azurecr.io:443 HTTP/1.0\r\n\r\n".into(), Ok("complete")),
            (format!("{}\u{16}\u{3}", ask("")), Ok("complete")),
            (ASK.into(), Ok("need more")),
            (String::new(), Ok("need more")),
            (ask("Host: fabrikam.azurecr.io:443\r\n"), Err(HostDiffers)),
            (ask("Host: contoso.azurecr.io:8443\r\n"), Err(HostDiffers)),
            (ask("Host: contoso.azurecr.io:\r\n"), Err(HostDiffers)),
            (ask("Host: contoso.azurecr.io.evil.com\r\n"), Err(HostDiffers)),
            (ask("Host:\r\n"), Err(HostDiffers)),
            (ask("Host: contoso.azurecr.io\r\nHost: contoso.azurecr.io\r\n"), Err(HostTwice)),
            (ask("Content-Length: 0\r\n"), Err(Content)),
            (ask("Transfer-Encoding: chunked\r\n"), Err(Content)),
            (ask("X: a\r\n folded\r\n"), Err(FieldLine)),
            (ask("X : a\r\n"), Err(FieldLine)),
            (ask(": a\r\n"), Err(FieldLine)),
            (ask("no colon\r\n"), Err(FieldLine)),
            (ask("X: a\nY: b\r\n"), Err(BareLineEnd)),
            (ask("X: a\rb\r\n"), Err(BareLineEnd)),
            (ask("X: \0\r\n"), Err(Character)),
            (ask("X: \u{e9}\r\n"), Err(Character)),
            (ask(&"X: a\r\n".repeat(65)), Err(TooLarge)),
            (ask(&format!("X: {}\r\n", "a".repeat(LARGEST_HEAD))), Err(TooLarge)),
            ("\r\nCONNECT contoso.azurecr.io:443 HTTP/1.1\r\n\r\n".into(), Err(RequestLine)),
            ("CONNECT  contoso.azurecr.io:443 HTTP/1.1\r\n\r\n".into(), Err(RequestLine)),
            ("CONNECT contoso.azurecr.io:443\r\n\r\n".into(), Err(RequestLine)),
            ("CONNECT contoso.azurecr.io:443 HTTP/1.1 \r\n\r\n".into(), Err(RequestLine)),
            ("CONNECT\tcontoso.azurecr.io:443 HTTP/1.1\r\n\r\n".into(), Err(RequestLine)),
            ("CONNECT contoso.azurecr.io:443 HTTP/1.1\n\n".into(), Err(BareLineEnd)),
            ("CONNECT contoso.azurecr.io:443 HTTP/1.2\r\n\r\n".into(), Err(Version)),
            ("CONNECT contoso.azurecr.io:443 http/1.1\r\n\r\n".into(), Err(RequestLine)),
            ("connect contoso.azurecr.io:443 HTTP/1.1\r\n\r\n".into(), Err(Method)),
            ("GET http://contoso.azurecr.io/ HTTP/1.1\r\nHost: a\r\n\r\n".into(), Err(Method)),
            ("PUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc".into(), Err(Method)),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), Err(Http2)),
            ("\u{16}\u{3}\u{1}".into(), Err(Tls)),
            ("SSH-2.0-OpenSSH\r\n\r\n".into(), Err(RequestLine)),
        ]
    }

    #[test]
    fn heads_and_their_verdicts() {
        for (text, expected) in cases() {
            assert_eq!(verdict(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn the_verdict_does_not_depend_on_the_cuts() {
        for (text, expected) in cases() {
            for size in [1, 2, 7, 100] {
                let mut reader = HeadReader::default();
                let mut found = Ok("need more");
                for chunk in text.as_bytes().chunks(size) {
                    found = match reader.feed(chunk) {
                        Ok(Progress::NeedMore) => continue,
                        Ok(Progress::Complete(_)) => Ok("complete"),
                        Err(refused) => Err(refused.fault),
                    };
                    break;
                }
                assert_eq!(found, expected, "{text:?} in {size}s");
            }
        }
    }

    #[test]
    fn the_target_is_told_where_one_was_written() {
        let refused =
            HeadReader::default().feed(b"CONNECT user@h:443 HTTP/1.1\r\n\r\n").unwrap_err();
        assert_eq!(refused.target.as_deref(), Some("user@h:443"));
        assert_eq!(refused.fault.denial().reason, Reason::BadTarget);
        let literal =
            HeadReader::default().feed(b"CONNECT 127.1:443 HTTP/1.1\r\n\r\n").unwrap_err();
        assert_eq!(literal.fault.denial().reason, Reason::IpLiteral);
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = HeadReader::default().feed(&bytes);
        }

        #[test]
        fn what_passes_is_what_a_naive_reader_sees(
            name in "[a-z]{1,9}\\.(io|com)", port in 1u16.., fields in "(X: [a-z ]{0,9}\r\n){0,4}",
        ) {
            let text = format!("CONNECT {name}:{port} HTTP/1.1\r\n{fields}\r\nrest");
            let fed = HeadReader::default().feed(text.as_bytes());
            let Ok(Progress::Complete(head)) = fed else {
                return Err(TestCaseError::fail(text));
            };
            prop_assert_eq!(head.target.to_string(), format!("{name}:{port}"));
            prop_assert_eq!(text.get(head.length..), Some("rest"));
        }
    }
}
