//! Reads the server's reply to a ClientHello: the TLS version, or a request for a second
//! ClientHello. The client validates the rest.

use super::client::{ClientHello, LONGEST_SESSION_ID, RANDOM, SUPPORTED_VERSIONS, TLS12, TLS13};
use super::fault::ReplyFault;
use super::reader::{ExtensionSet, Walk};

/// The random of a ServerHello that is a HelloRetryRequest: the SHA-256 of "HelloRetryRequest" (RFC
/// 8446 §4.1.3).
pub(super) const RETRY: [u8; RANDOM] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// The server's reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerReply {
    /// TLS 1.2 with this cipher suite: the handshake continues unencrypted.
    Tls12 { suite: u16 },
    /// TLS 1.3: the rest is encrypted.
    Tls13,
    /// A HelloRetryRequest of TLS 1.3.
    Retry,
}

/// Validates the body of a ServerHello, without the message header, as a reply to `hello`.
pub(super) fn judge(body: &[u8], hello: &ClientHello) -> Result<ServerReply, ReplyFault> {
    let mut walk = Walk::over(body);
    let version = walk.short().ok_or(ReplyFault::Length)?;
    if version != TLS12 {
        return Err(ReplyFault::Version(version));
    }
    let random = walk.take(RANDOM).ok_or(ReplyFault::Length)?;
    let session_id = walk.vector8().ok_or(ReplyFault::Length)?;
    if session_id.len() > LONGEST_SESSION_ID {
        return Err(ReplyFault::Length);
    }
    let suite = walk.short().ok_or(ReplyFault::Length)?;
    if walk.byte().ok_or(ReplyFault::Length)? != 0 {
        return Err(ReplyFault::Compresses);
    }
    // TLS 1.2 allows a ServerHello without extensions (RFC 5246 §7.4.1.3).
    let chosen = if walk.is_at_end() {
        None
    } else {
        let extensions = walk.vector16().filter(|_| walk.is_at_end());
        chosen_version(extensions.ok_or(ReplyFault::Length)?)?
    };
    match chosen {
        None if random == RETRY => Err(ReplyFault::Version(version)),
        None if !hello.offers_tls12() => Err(ReplyFault::NotOffered),
        None => Ok(ServerReply::Tls12 { suite }),
        Some(TLS13) if !hello.offers_tls13() => Err(ReplyFault::NotOffered),
        Some(TLS13) if session_id != hello.session_id() => Err(ReplyFault::SessionId),
        Some(TLS13) if random == RETRY => Ok(ServerReply::Retry),
        Some(TLS13) => Ok(ServerReply::Tls13),
        Some(other) => Err(ReplyFault::Version(other)),
    }
}

/// Returns the version in supported_versions; `None` without this extension.
fn chosen_version(extensions: &[u8]) -> Result<Option<u16>, ReplyFault> {
    let mut chosen = None;
    let mut seen = ExtensionSet::none();
    let mut walk = Walk::over(extensions);
    while !walk.is_at_end() {
        let kind = walk.short().ok_or(ReplyFault::Length)?;
        let content = walk.vector16().ok_or(ReplyFault::Length)?;
        if !seen.is_new(kind) {
            return Err(ReplyFault::Duplicate(kind));
        }
        if kind == SUPPORTED_VERSIONS {
            let &[high, low] = content else { return Err(ReplyFault::Length) };
            chosen = Some(u16::from_be_bytes([high, low]));
        }
    }
    Ok(chosen)
}
