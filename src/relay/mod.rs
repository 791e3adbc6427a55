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

/// What the operator, or the machine, decides of the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The longest that bytes of a bulk flow wait for more, a multiple of 1 ms; `None`: not at all.
    pub batch: Option<Duration>,
    /// How many pipes all tunnels share: as many as there are threads that run them.
    pub pipes: usize,
    /// How many bytes a pipe should hold.
    pub pipe_size: usize,
}

/// The two connections of a tunnel. The relay only borrows them, since a future keeps an argument and
/// what it is moved to side by side, for as long as the tunnel lives.
#[derive(Debug)]
pub struct TunnelEnds<C> {
    /// The client's connection; it has been read as far as its hello. What passes is complete as
    /// it comes, so it should send at once (TCP_NODELAY).
    pub client: C,
    /// The upstream's; nothing has been sent on it.
    pub upstream: TcpStream,
    /// How long a second hello may take, from the server's asking for it to its last byte.
    pub second_hello: Duration,
    /// How long neither side may send a byte.
    pub idle: Duration,
}

/// How a tunnel ended.
#[derive(Debug)]
#[must_use]
pub struct TunnelOutcome {
    /// Well, or why not.
    pub outcome: Result<Ending, Stop>,
    owed: FinalNotice,
}

/// What the client is still to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FinalNotice {
    Nothing,
    /// Why it ends, by an alert.
    Alert,
    /// That it ends: to say more is too late.
    End,
}

impl TunnelOutcome {
    /// Both ways were open: an alert of ours would be garbage in the client's session.
    fn through(outcome: Result<Ending, Stop>) -> Self {
        let owed = if outcome.is_ok() { FinalNotice::Nothing } else { FinalNotice::End };
        Self { outcome, owed }
    }

    /// It ended within the handshake.
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
    /// Lets go of the upstream, on a stop with a reset. Once the session is accounted for, what
    /// comes back must be finished.
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

/// A tick as near as this would find next to nothing, and is left out.
const ALMOST: Duration = Duration::from_micros(500);

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
        Self {
            settings,
            pipes: Pipes::new(settings.pipes, settings.pipe_size),
            began: Instant::now(),
        }
    }

    /// Carries a tunnel between two bare sockets to its end: first the hello, as it was judged,
    /// then all that may follow. `stop` ends it at once.
    ///
    /// `traffic` tells at any time what has been delivered. What comes back is for
    /// [`TunnelEnds::closing`].
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

    /// The same for a client behind another layer, such as TLS: every byte is copied.
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

    /// The next tick for a direction that is dry `now`. The ticks of all tunnels fall together, so
    /// that one wake-up of the runtime serves them all.
    fn next_tick(&self, now: Duration) -> Instant {
        let period = self.settings.batch.unwrap_or_default().as_micros().max(1000);
        let tick = ((now + ALMOST).as_micros() / period + 1) * period;
        self.began + Duration::from_micros(u64::try_from(tick).unwrap_or(u64::MAX))
    }
}

/// The handshake, in a box that is freed behind it.
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
