//! The head of a request, judged byte by byte before hyper sees it.
//!
//! hyper is lenient: it accepts a bare LF, user info, absolute-form and signs in ports, and does not
//! answer some malformed heads at all. So the head is read and judged here by RFC 9112, without the
//! leniency that the RFC permits, and only a head that passed is replayed to hyper. Pure: bytes in,
//! a verdict out.

use super::authorization::Authorization;
use crate::policy::{Denial, Reason, Target};

/// The largest head that is read, in bytes. Kerberos tickets in `Proxy-Authorization` fit.
pub const LARGEST_HEAD: usize = 16 * 1024;

/// The most field lines that a head may have.
const MOST_FIELDS: usize = 64;

/// A CONNECT request's head that passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The target of the tunnel.
    pub target: Target,
    /// The version of HTTP.
    pub version: Version,
    /// The length of the head in bytes, including its empty line.
    pub length: usize,
    /// `Proxy-Authorization`.
    pub authorization: Option<Authorization>,
}

/// A version of HTTP that the gate speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
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
    /// A `Host` that is not the request target's.
    #[error("Host must equal the CONNECT target")]
    HostDiffers,
    /// A method other than CONNECT, with a target of this form.
    #[error("{}", .0.remedy())]
    Method(TargetForm),
    /// A request target that is not `host:port`.
    #[error("{0}")]
    Target(#[from] crate::policy::TargetError),
}

/// The form of a request target whose method is not CONNECT: it shows what the client took the gate
/// for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetForm {
    /// `https://…`: the client sends the whole URL where it should open a tunnel.
    Https,
    /// `http://…`.
    Http,
    /// `/…`: the client took the gate for a web server.
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

    /// What to change at the client, in few words: a reason phrase has little room.
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
    /// What answer, metric and audit tell of it.
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
            // The reason says it all.
            Reason::IpLiteral => Denial::new(reason),
            _ => Denial::with_remedy(reason, self.to_string()),
        }
    }
}

/// What the bytes so far amount to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The head is not complete.
    NeedMore,
    /// The head is complete and valid.
    Complete(Head),
}

/// A fault, and the request target as it was written, for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What is wrong.
    pub fault: HeadFault,
    /// The request target. `None` when none could be read.
    pub target: Option<String>,
    /// `Host`, if it is the fault.
    pub host: Option<String>,
}

impl From<HeadFault> for Refused {
    fn from(fault: HeadFault) -> Self {
        Self { fault, target: None, host: None }
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
    /// Reads the next bytes. How they are cut does not change the verdict.
    ///
    /// # Errors
    /// The first fault in the order of the bytes. Of faults in the meaning: fields, then the method,
    /// then the target.
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

    /// Returns every byte that was read: the head, and what followed it.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Returns the length of the head once its empty line has been read.
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
                b'\n' => {
                    if self.line_start == 0 {
                        // What cannot be a request, such as another protocol's greeting, is refused
                        // now and not after the timeout.
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

/// Judges a whole head, its empty line included.
fn judge(head: &[u8]) -> Result<Head, Refused> {
    // `head_length` let nothing but printable ASCII, tabs and CRLF through.
    let text = std::str::from_utf8(head).map_err(|_| HeadFault::Character)?;
    let mut lines = text.split("\r\n");
    let request = lines.next().unwrap_or_default();
    let (method, target, version) = request_line(request)?;
    let refused = |fault| Refused { fault, target: Some(target.to_owned()), host: None };
    let version = match version {
        "HTTP/1.0" => Version::Http10,
        "HTTP/1.1" => Version::Http11,
        _ => return Err(refused(HeadFault::Version)),
    };
    let mut host = None;
    let mut authorization = None;
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
        return Err(Refused { host, ..refused(HeadFault::HostDiffers) });
    }
    Ok(Head { target: parsed, version, length: head.len(), authorization })
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
    if method == "PRI" && version == "HTTP/2.0" {
        return Err(HeadFault::Http2);
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
mod tests;
