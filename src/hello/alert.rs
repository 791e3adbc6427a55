//! TLS alerts that end a handshake. They must not be sent in an established session, because the
//! peer would try to decrypt them; see [`Guard::served`](super::Guard::served).

/// A fatal `access_denied` (49): the gate denied the connection (RFC 8446 §6.2).
pub const ACCESS_DENIED: [u8; 7] = fatal(49);

/// A fatal `internal_error` (80): the connection failed, and the client did not cause it (RFC 8446
/// §6.2).
pub const INTERNAL_ERROR: [u8; 7] = fatal(80);

/// Returns an unencrypted alert record with a version that every TLS 1.2 and 1.3 client accepts.
const fn fatal(description: u8) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description]
}
