//! The request head, validated byte by byte before hyper sees it.
//!
//! hyper is lenient: it accepts a bare LF, user information, absolute-form and signs in ports, and
//! does not answer some malformed heads at all. So the head is validated here by RFC 9112, without
//! the leniency that the RFC permits, and only a valid head is passed to hyper. Pure: bytes in, a
//! verdict out.

use super::authorization::Authorization;
use crate::policy::{Denial, Reason, Target, Via};

/// Maximum size of a head, in bytes. Kerberos tickets in `Proxy-Authorization` fit.
pub const LARGEST_HEAD: usize = 16 * 1024;

/// Maximum number of field lines.
const MOST_FIELDS: usize = 64;

/// A valid head of a CONNECT request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The target of the tunnel.
    pub target: Target,
    /// The HTTP version.
    pub version: Version,
    /// The length of the head in bytes, with its empty line.
    pub length: usize,
    /// `Proxy-Authorization`.
    pub authorization: Option<Authorization>,
    /// The gates that it has passed.
    pub via: Via,
}

/// A supported HTTP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// Why a head is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadFault {
    /// The first bytes are a TLS record: the client uses `https://` for a plain-text proxy port.
    #[error("it begins with TLS; this port speaks HTTP")]
    Tls,
    /// The connection preface of HTTP/2.
    #[error("it is HTTP/2; this port speaks HTTP/1.1")]
    Http2,
    /// More than [`LARGEST_HEAD`] bytes, or more than 64 field lines.
    #[error("it is too large")]
    TooLarge,
    /// A carriage return or line feed alone.
    #[error("it has a bare CR or LF")]
    BareLineEnd,
    /// The request line is not `method SP target SP version`.
    #[error("its request line is malformed")]
    RequestLine,
    /// Another version than HTTP/1.0 and HTTP/1.1.
    #[error("its version is not HTTP/1.0 or HTTP/1.1")]
    Version,
    /// A field line without a name, with a space before the colon, or folded (RFC 9112 §5.2).
    #[error("it has a malformed or folded field line")]
    FieldLine,
    /// A control character or a byte above 127.
    #[error("it has a control character or a byte outside ASCII")]
    Character,
    /// `Content-Length` or `Transfer-Encoding`, which CONNECT does not have (RFC 9110 §9.3.6).
    #[error("CONNECT must not have content")]
    Content,
    /// HTTP/1.1 without `Host` (RFC 9112 §3.2).
    #[error("HTTP/1.1 requires a Host header")]
    HostMissing,
    /// More than one `Host`.
    #[error("it has more than one Host")]
    HostTwice,
    /// More than one `Proxy-Authorization`.
    #[error("it has more than one Proxy-Authorization")]
    AuthorizationTwice,
    /// `Host` differs from the request target.
    #[error("Host must equal the CONNECT target")]
    HostDiffers,
    /// A method other than CONNECT, with a target of this form.
    #[error("{}", .0.remedy())]
    Method(TargetForm),
    /// The request target is not `host:port`.
    #[error("{0}")]
    Target(#[from] crate::policy::TargetError),
}

/// The form of a request target whose method is not CONNECT. It shows how the client is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetForm {
    /// `https://…`: the client sends the whole URL instead of opening a tunnel.
    Https,
    /// `http://…`.
    Http,
    /// `/…`: the client uses the gate as a web server.
    Path,
    /// Anything else.
    Other,
}

impl TargetForm {
    fn of(target: &str) -> Self {
        let has_scheme = |scheme: &str| {
            target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
        };
        match target {
            _ if has_scheme("https://") => Self::Https,
            _ if has_scheme("http://") => Self::Http,
            _ if target.starts_with('/') => Self::Path,
            _ => Self::Other,
        }
    }

    /// Returns what to change at the client, in few words, because a reason phrase is short.
    fn remedy(self) -> &'static str {
        match self {
            Self::Https => "set the client to tunnel https URLs",
            Self::Http => "use https; plain http is not proxied",
            Self::Path => "this is a proxy: set HTTPS_PROXY to it",
            Self::Other => "no other method is proxied",
        }
    }
}

impl HeadFault {
    /// Returns the denial for the answer, metrics and the audit.
    #[must_use]
    pub fn denial(self) -> Denial {
        let reason = match self {
            Self::TooLarge => Reason::HeadTooLarge,
            Self::Method(_) => Reason::MethodNotAllowed,
            Self::HostDiffers => Reason::BadTarget,
            Self::Target(fault) => fault.reason(),
            _ => Reason::HeadMalformed,
        };
        match reason {
            // The reason is sufficient.
            Reason::IpLiteral => Denial::new(reason),
            _ => Denial::with_remedy(reason, self.to_string()),
        }
    }
}

/// The result of the bytes so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeadProgress {
    /// The head is not complete.
    NeedMore,
    /// The head is complete and valid.
    Complete(Head),
}

/// An error, and the request target for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedHead {
    /// The error.
    pub fault: HeadFault,
    /// The request target; `None` if it could not be read.
    pub target: Option<String>,
    /// `Host`, if it is the cause.
    pub host: Option<String>,
}

impl From<HeadFault> for RefusedHead {
    fn from(fault: HeadFault) -> Self {
        Self { fault, target: None, host: None }
    }
}

/// Reads a head as it arrives. Looks at each byte once, and once more when the head is complete.
#[derive(Debug, Default)]
pub struct HeadReader {
    bytes: Vec<u8>,
    scanned: usize,
    line_start: usize,
}

impl HeadReader {
    /// Reads the next bytes. The result does not depend on the chunks.
    ///
    /// # Errors
    /// The first error in the order of the bytes. Semantic errors follow in this order: fields,
    /// method, target.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<HeadProgress, RefusedHead> {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.first() == Some(&0x16) {
            return Err(HeadFault::Tls.into());
        }
        match self.head_length()? {
            Some(length) if length <= LARGEST_HEAD => {
                let head = self.bytes.get(..length).unwrap_or_default();
                Ok(HeadProgress::Complete(judge(head)?))
            }
            None if self.bytes.len() < LARGEST_HEAD => Ok(HeadProgress::NeedMore),
            Some(_) | None => Err(HeadFault::TooLarge.into()),
        }
    }

    /// Returns all bytes that were read: the head and what followed.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Returns the length of the head once its empty line was read.
    fn head_length(&mut self) -> Result<Option<usize>, HeadFault> {
        let mut before = self.scanned.checked_sub(1).and_then(|at| self.bytes.get(at)).copied();
        for (at, &byte) in self.bytes.iter().enumerate().skip(self.scanned) {
            if at >= LARGEST_HEAD {
                return Err(HeadFault::TooLarge);
            }
            match byte {
                b'\n' if before != Some(b'\r') => return Err(HeadFault::BareLineEnd),
                b'\n' if at == self.line_start + 1 => {
                    // RFC 9112 §2.2 allows servers to skip an empty line before the request line.
                    // This server does not, because no supported client sends one.
                    let is_first = self.line_start == 0;
                    return if is_first { Err(HeadFault::RequestLine) } else { Ok(Some(at + 1)) };
                }
                b'\n' => {
                    if self.line_start == 0 {
                        // Bytes that cannot start a request, such as another protocol's greeting,
                        // are rejected now instead of after the timeout.
                        let line = self.bytes.get(..at - 1).unwrap_or_default();
                        request_line(std::str::from_utf8(line).unwrap_or_default())?;
                    }
                    self.line_start = at + 1;
                }
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

/// Validates a whole head with its empty line.
fn judge(head: &[u8]) -> Result<Head, RefusedHead> {
    // `head_length` accepted only printable ASCII, tabs and CRLF.
    let text = std::str::from_utf8(head).map_err(|_| HeadFault::Character)?;
    let mut lines = text.split("\r\n");
    let request = lines.next().unwrap_or_default();
    let (method, target, version) = request_line(request)?;
    let refused = |fault| RefusedHead { fault, target: Some(target.to_owned()), host: None };
    let version = match version {
        "HTTP/1.0" => Version::Http10,
        "HTTP/1.1" => Version::Http11,
        _ => return Err(refused(HeadFault::Version)),
    };
    let mut host = None;
    let mut authorization = None;
    let mut via = Via::default();
    let mut content = Ok(());
    for (count, line) in lines.take_while(|line| !line.is_empty()).enumerate() {
        if count >= MOST_FIELDS {
            return Err(refused(HeadFault::TooLarge));
        }
        let (name, value) = field(line).map_err(refused)?;
        if name.eq_ignore_ascii_case("host") && host.replace(value).is_some() {
            return Err(refused(HeadFault::HostTwice));
        }
        if name.eq_ignore_ascii_case("proxy-authorization")
            && authorization.replace(Authorization::parse(value)).is_some()
        {
            return Err(refused(HeadFault::AuthorizationTwice));
        }
        if name.eq_ignore_ascii_case("via") {
            via.read(value);
        }
        let announces = ["content-length", "transfer-encoding"];
        if announces.iter().any(|one| name.eq_ignore_ascii_case(one)) {
            content = Err(HeadFault::Content);
        }
    }
    if host.is_none() && version == Version::Http11 {
        return Err(refused(HeadFault::HostMissing));
    }
    if method != "CONNECT" {
        return Err(refused(HeadFault::Method(TargetForm::of(target))));
    }
    content.map_err(refused)?;
    let parsed = Target::parse_authority(target).map_err(|fault| refused(fault.into()))?;
    if let Some(host) = host.filter(|host| !names_target(host, &parsed)) {
        let host = Some(host.to_owned());
        return Err(RefusedHead { host, ..refused(HeadFault::HostDiffers) });
    }
    Ok(Head { target: parsed, version, length: head.len(), authorization, via })
}

/// Splits method, request target and version at exactly one space each.
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
    if method == "PRI" && version == "HTTP/2.0" {
        return Err(HeadFault::Http2);
    }
    Ok((method, target, version))
}

/// Splits name and value of a field line, without surrounding white space.
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

/// Returns whether a `Host` matches the target: with its port, or without one as aiohttp and undici
/// send it.
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
mod tests;
