//! What all tunnels share: the pipes, and the ticks at which batches are delivered.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::bulk::{LOOK, LookInterval};
use super::pipe_pool::Pipes;
use crate::limits::{SocketMemory, Stalls};

/// Settings of the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelaySettings {
    /// How long bytes of a bulk flow can wait for more, a multiple of 1 ms. `None` disables
    /// batching.
    pub batch: Option<Duration>,
    /// Number of pipes that all tunnels share: one for each worker thread.
    pub pipes: usize,
    /// Requested size of a pipe, in bytes.
    pub pipe_size: usize,
}

/// A tick nearer than this would find almost nothing, and is skipped.
const ALMOST: Duration = Duration::from_micros(500);

/// How much later than asked for a timer fires: tokio rounds its time up to the next millisecond, and
/// epoll_wait(2) the rest until then. Correcting it for every tick would cost a third more wake-ups.
const TIMER: Duration = Duration::from_millis(1);

/// The state that all tunnels share.
#[derive(Debug)]
pub struct Relay {
    pub(super) settings: RelaySettings,
    pub(super) pipes: Pipes,
    /// The tunnels whose peer does not read.
    pub(super) stalls: Arc<Stalls>,
    /// Interval of the ticks.
    pub(super) tick: Duration,
    /// Reference time for ticks and durations.
    pub(super) began: Instant,
}

impl Relay {
    /// Creates the pipes. Without any, the relay copies.
    #[must_use]
    pub fn new(settings: RelaySettings) -> Self {
        Self {
            settings,
            pipes: Pipes::new(settings.pipes, settings.pipe_size),
            stalls: Stalls::new(SocketMemory::of_this_machine()),
            tick: LOOK.min(settings.batch.unwrap_or_default()),
            began: Instant::now(),
        }
    }

    /// Returns the register of the clients that do not read.
    #[must_use]
    pub fn stalls(&self) -> &Arc<Stalls> {
        &self.stalls
    }

    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Returns how long bytes of a bulk flow can wait for more.
    pub(super) fn batch(&self) -> Duration {
        self.settings.batch.unwrap_or_default()
    }

    /// Returns the next tick for a direction that is dry `now`. The ticks of all tunnels coincide, so
    /// that one wake-up of the runtime serves them all.
    pub(super) fn next_tick(&self, now: Duration, interval: LookInterval) -> Instant {
        // The short ones are corrected.
        let early = if interval == LookInterval::Half { TIMER } else { Duration::ZERO };
        let period = interval.of(self.tick).min(self.batch()).as_micros().max(1000);
        let tick = ((now + ALMOST).as_micros() / period + 1) * period;
        let tick = Duration::from_micros(u64::try_from(tick).unwrap_or(u64::MAX));
        self.began + tick.saturating_sub(early).max(now + Duration::from_micros(1))
    }
}
