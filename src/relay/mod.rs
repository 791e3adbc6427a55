//! Relays bytes between a client and its upstream, from the first ClientHello to the end of the
//! tunnel. It knows no names and no policy: `hello` decides what can be forwarded of the handshake,
//! and the caller when the tunnel must end.
//!
//! A tunnel has two phases. In the first (`handshake`) every byte is copied and the guard inspects
//! it. In the second, bytes are spliced between bare sockets (`splice`), or copied if one side is
//! not a bare socket (`copy`) or no pipe is available.
//!
//! One task serves both directions. An idle tunnel holds little: no pipe, no buffer, and no timer
//! except the idle timeout.

mod close;
mod copy;
mod handshake;
mod leftover;
mod meter;
mod pacing;
mod pipe_pool;
mod socket;
mod splice;
mod tunnel;
mod watch;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::hello::Hello;
use crate::policy::{Cleared, Ending, Stop};
use handshake::{Opened, Opening};
use tunnel::Life;

pub use close::{Closing, hear_out};
pub use meter::{Count, Tally, Traffic};
pub use pipe_pool::{PIPE_SIZE, Pipes, SMALL_PIPE_SIZE};

/// Settings of the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long bytes of a bulk flow can wait for more, a multiple of 1 ms. `None` disables
    /// batching.
    pub batch: Option<Duration>,
    /// Number of pipes that all tunnels share: one for each worker thread.
    pub pipes: usize,
    /// Requested size of a pipe, in bytes.
    pub pipe_size: usize,
}

/// The two connections of a tunnel. The relay borrows them, because a future stores both an
/// argument and the place that it is moved to for as long as the tunnel lives.
#[derive(Debug)]
pub struct TunnelEnds<C> {
    /// The client connection, read up to the end of its ClientHello. It should use TCP_NODELAY,
    /// because bytes are forwarded as they arrive.
    pub client: C,
    /// The upstream connection, on which nothing was sent.
    pub upstream: TcpStream,
    /// Timeout for a second ClientHello, from the server's request to its last byte.
    pub second_hello: Duration,
    /// Idle timeout: how long neither side may send a byte.
    pub idle: Duration,
}

/// How a tunnel ended.
#[derive(Debug)]
#[must_use]
pub struct TunnelOutcome {
    /// The ending, or why the tunnel failed.
    pub outcome: Result<Ending, Stop>,
    owed: FinalNotice,
}

/// The final notice that the client is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FinalNotice {
    Nothing,
    /// A TLS alert with the reason.
    Alert,
    /// A close in order, because it is too late for an alert.
    End,
}

impl TunnelOutcome {
    /// No alert: the client would read it as data of its session.
    fn through(outcome: Result<Ending, Stop>) -> Self {
        let owed = if outcome.is_ok() { FinalNotice::Nothing } else { FinalNotice::End };
        Self { outcome, owed }
    }

    /// The tunnel ended in the handshake.
    fn early(opened: Opened) -> Self {
        let (outcome, owed) = match opened {
            Opened::Through(_) | Opened::Over => (Ok(Ending::Closed), FinalNotice::End),
            Opened::Unserved(stop) => (Err(stop), FinalNotice::Alert),
            Opened::Served(stop) => (Err(stop), FinalNotice::End),
        };
        Self { outcome, owed }
    }
}

impl<C> TunnelEnds<C> {
    /// Closes the upstream, with a reset on a stop. Finish the returned closing after the session
    /// is recorded.
    pub fn closing(self, carried: &TunnelOutcome) -> Closing<C> {
        let Self { client, upstream, .. } = self;
        if carried.outcome.is_err() {
            socket::reset(upstream);
        }
        match (carried.owed, &carried.outcome) {
            (FinalNotice::Nothing, _) => Closing::done(),
            (FinalNotice::Alert, Err(stop)) => Closing::with_alert(client, stop),
            (FinalNotice::Alert | FinalNotice::End, _) => Closing::in_order(client),
        }
    }
}

/// A tick nearer than this would find almost nothing, and is skipped.
const ALMOST: Duration = Duration::from_micros(500);

/// The state that all tunnels share.
#[derive(Debug)]
pub struct Relay {
    settings: Settings,
    pipes: Pipes,
    /// Reference time for ticks and durations.
    began: Instant,
}

impl Relay {
    /// Creates the pipes. Without any, the relay copies.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            pipes: Pipes::new(settings.pipes, settings.pipe_size),
            began: Instant::now(),
        }
    }

    /// Relays a tunnel between two bare sockets until it ends: first the accepted ClientHello, then
    /// everything that is allowed. `stop` ends it immediately.
    ///
    /// `traffic` always shows what was delivered. Pass the result to [`TunnelEnds::closing`].
    pub fn carry(
        &self,
        _: &Cleared,
        sides: &mut TunnelEnds<TcpStream>,
        hello: Box<Hello>,
        traffic: &Traffic,
        stop: Pin<&mut impl Future<Output = Stop>>,
    ) -> impl Future<Output = TunnelOutcome> {
        self.carry_bare(sides, hello, traffic, stop)
    }

    /// Variant of [`Self::relay`] for a client behind another layer, such as TLS: copies every
    /// byte.
    pub fn carry_wrapped<C: AsyncRead + AsyncWrite + Unpin>(
        &self,
        _: &Cleared,
        sides: &mut TunnelEnds<C>,
        hello: Box<Hello>,
        traffic: &Traffic,
        stop: Pin<&mut impl Future<Output = Stop>>,
    ) -> impl Future<Output = TunnelOutcome> {
        self.carry_layered(sides, hello, traffic, stop)
    }

    async fn carry_bare(
        &self,
        sides: &mut TunnelEnds<TcpStream>,
        hello: Box<Hello>,
        traffic: &Traffic,
        mut stop: Pin<&mut impl Future<Output = Stop>>,
    ) -> TunnelOutcome {
        match open(sides, *hello, traffic, stop.as_mut()).await {
            Opened::Through(open) => {
                let life = Life { traffic, idle: sides.idle, stop };
                let both = self.splice_both(&sides.client, &sides.upstream, open, life);
                TunnelOutcome::through(both.await)
            }
            early => TunnelOutcome::early(early),
        }
    }

    async fn carry_layered<C: AsyncRead + AsyncWrite + Unpin>(
        &self,
        sides: &mut TunnelEnds<C>,
        hello: Box<Hello>,
        traffic: &Traffic,
        mut stop: Pin<&mut impl Future<Output = Stop>>,
    ) -> TunnelOutcome {
        match open(sides, *hello, traffic, stop.as_mut()).await {
            Opened::Through(open) => {
                let life = Life { traffic, idle: sides.idle, stop };
                let both = tunnel::copy_both(&mut sides.client, &mut sides.upstream, open, life);
                TunnelOutcome::through(both.await)
            }
            early => TunnelOutcome::early(early),
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Returns the next tick for a direction that is dry `now`. The ticks of all tunnels coincide,
    /// so that one wake-up of the runtime serves them all.
    fn next_tick(&self, now: Duration) -> Instant {
        let period = self.settings.batch.unwrap_or_default().as_micros().max(1000);
        let tick = ((now + ALMOST).as_micros() / period + 1) * period;
        self.began + Duration::from_micros(u64::try_from(tick).unwrap_or(u64::MAX))
    }
}

/// Runs the handshake in a box that is freed after it.
fn open<'a, C: AsyncRead + AsyncWrite + Unpin>(
    sides: &'a mut TunnelEnds<C>,
    hello: Hello,
    traffic: &'a Traffic,
    stop: Pin<&'a mut impl Future<Output = Stop>>,
) -> Pin<Box<impl Future<Output = Opened>>> {
    Box::pin(Opening::new(sides, hello, traffic).carry(stop))
}

#[cfg(test)]
mod tests;
