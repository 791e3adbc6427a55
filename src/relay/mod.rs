//! The relay: bytes both ways between a client and its upstream, from the first ClientHello to the
//! end of the tunnel. It knows no name and no policy; what may pass of the handshake is `hello`'s
//! judgement, and when the tunnel must end its caller's.
//!
//! Two phases. In the first (`opening`) every byte is copied, and the guard reads along. In the
//! second the bytes are moved by splice(2) between bare sockets (`way`), or copied where one side
//! is no bare socket (`pump`) or no pipe is to be had.
//!
//! One task serves both directions, and what it keeps while a tunnel is idle is small: no pipe, no
//! buffer, no timer but the idle limit's.

mod close;
mod opening;
mod pace;
mod pipes;
mod pump;
mod rest;
mod socket;
mod traffic;
mod tunnel;
mod watch;
mod way;

use std::time::Duration;

use tokio::time::Instant;

pub use close::Closing;
pub use pipes::{PIPE_SIZE, Pipes};
pub use traffic::{Count, Tally, Traffic};

/// What the operator, or the machine, decides of the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long neither side may send a byte.
    pub idle: Duration,
    /// The longest that bytes of a bulk flow wait for more, a multiple of 1 ms; `None`: not at all.
    pub batch: Option<Duration>,
    /// How many pipes all tunnels share: as many as there are threads that run them.
    pub pipes: usize,
}

/// How long bytes of a bulk flow wait for more, unless told otherwise.
pub const BATCH: Duration = Duration::from_millis(6);

/// What all tunnels share.
#[derive(Debug)]
pub struct Relay {
    settings: Settings,
    pipes: Pipes,
    /// What ticks and times are counted from.
    began: Instant,
}

impl Relay {
    /// Makes the pipes. Where there are none to be had, the relay copies.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, pipes: Pipes::new(settings.pipes), began: Instant::now() }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// The next tick for a direction that is dry `now`. The ticks of all tunnels fall together, so
    /// that one wake-up of the runtime serves them all.
    fn next_tick(&self, now: Duration) -> Instant {
        let period = self.settings.batch.unwrap_or(BATCH).as_micros().max(1000);
        // One that is almost here would find next to nothing.
        let tick = ((now.as_micros() + period / 4) / period + 1) * period;
        self.began + Duration::from_micros(u64::try_from(tick).unwrap_or(u64::MAX))
    }
}
