//! The alerts with which the gate ends a handshake. Not for a live session: there the peer would
//! try to decrypt them ([`Guard::served`](super::Guard::served) tells).

/// A fatal `access_denied` (49): we decided against it (RFC 8446 §6.2).
pub const ACCESS_DENIED: [u8; 7] = fatal(49);

/// A fatal `internal_error` (80): it failed, and not by the client's doing (RFC 8446 §6.2).
pub const INTERNAL_ERROR: [u8; 7] = fatal(80);

/// One alert record, in the clear, in the version that every client of TLS 1.2 or 1.3 reads.
const fn fatal(description: u8) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description]
}
