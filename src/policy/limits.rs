//! The limits of sessions, with safe defaults.

use std::num::NonZeroU32;
use std::time::Duration;

/// `[limits]` of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Timeout from accept to the end of the request head.
    pub head_timeout: Duration,
    /// Timeout from `200` (or accept, on a transparent listener) to the end of the ClientHello.
    pub hello_timeout: Duration,
    /// The most bytes that a ClientHello may have, 512 to 65,536.
    pub hello_bytes: usize,
    /// For looking up and dialling together.
    pub dial_timeout: Duration,
    /// Idle timeout: how long neither side may send a byte.
    pub idle_timeout: Duration,
    /// Stall timeout: how long a side of a tunnel may not read what is queued for it.
    pub stall_timeout: Duration,
    /// Drain timeout: how long open sessions can continue during a shutdown.
    pub drain_timeout: Duration,
    /// Maximum number of open sessions in total.
    pub open_sessions: usize,
    /// Maximum number of open sessions per client address, as returned by
    /// [`subscriber`](super::subscriber).
    pub open_sessions_per_client: usize,
    /// Maximum number of new sessions per second for each such address; `None` means no limit.
    pub new_sessions_per_second_per_client: Option<NonZeroU32>,
    /// Maximum lifetime of a tunnel.
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
            stall_timeout: Duration::from_secs(120),
            drain_timeout: Duration::from_secs(600),
            open_sessions: 10_000,
            open_sessions_per_client: 1_000,
            new_sessions_per_second_per_client: None,
            session_lifetime: Duration::from_secs(24 * 60 * 60),
        }
    }
}
