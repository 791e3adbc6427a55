//! What bounds a session and all of them together, with defaults that are safe as they stand.

use std::num::NonZeroU32;
use std::time::Duration;

/// `[limits]` of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From accept to the end of the request's head.
    pub head_timeout: Duration,
    /// From `200` (or accept, on a transparent listener) to the end of the ClientHello.
    pub hello_timeout: Duration,
    /// The most bytes that a ClientHello may have, 512 to 65,536.
    pub hello_bytes: usize,
    /// For looking up and dialling together.
    pub dial_timeout: Duration,
    /// How long neither side may send a byte.
    pub idle_timeout: Duration,
    /// How long open sessions may go on when the gate has been told to end.
    pub drain_timeout: Duration,
    /// Sessions open at once, in all.
    pub open_sessions: usize,
    /// Sessions open at once from one client address, as [`subscriber`](super::subscriber) tells.
    pub open_sessions_per_client: usize,
    /// Sessions that one such address may begin within a second; as many as it likes without.
    pub new_sessions_per_second_per_client: Option<NonZeroU32>,
    /// How long a tunnel may last.
    pub session_lifetime: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_timeout: Duration::from_secs(10),
            hello_timeout: Duration::from_secs(10),
            hello_bytes: 16 * 1024,
            dial_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(600),
            drain_timeout: Duration::from_secs(600),
            open_sessions: 10_000,
            open_sessions_per_client: 1_000,
            new_sessions_per_second_per_client: None,
            session_lifetime: Duration::from_secs(24 * 60 * 60),
        }
    }
}
