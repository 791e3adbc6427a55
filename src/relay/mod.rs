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

mod bounds;
mod close;
mod opening;
mod pace;
mod pipes;
mod pump;
mod rest;
mod socket;
mod throttle;
mod traffic;
mod tunnel;
mod watch;
mod way;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::hello::Hello;
use crate::policy::{Cleared, Ending, Stop};
use opening::{Opened, Opening};
use tunnel::Life;

pub use bounds::{Bounds, Hour, Shares, Whose};
pub use close::{Closing, hear_out};
pub use pipes::{PIPE_SIZE, Pipes};
pub use throttle::Throttle;
pub use traffic::{Count, Tally, Traffic};

/// What the operator, or the machine, decides of the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The longest that bytes of a bulk flow wait for more, a multiple of 1 ms; `None`: not at all.
    pub batch: Option<Duration>,
    /// How many pipes all tunnels share: as many as there are threads that run them.
    pub pipes: usize,
}

/// What a tunnel starts with.
#[derive(Debug)]
pub struct Start<C> {
    /// The client's connection; it has been read as far as its hello. What passes is complete as
    /// it comes, so it should send at once (TCP_NODELAY).
    pub client: C,
    /// The upstream's; nothing has been sent on it.
    pub upstream: TcpStream,
    /// The judged hello. Apart, since it goes before the rest does.
    pub hello: Box<Hello>,
    /// How long a second hello may take, from the server's asking for it to its last byte.
    pub second_hello: Duration,
    /// How long neither side may send a byte.
    pub idle: Duration,
}

impl<C> Start<C> {
    /// The hello, which is gone when the handshake is over, and the rest.
    fn split(self) -> (Sides<C>, Box<Hello>) {
        let Self { client, upstream, hello, second_hello, idle } = self;
        (Sides { client, upstream, second_hello, idle }, hello)
    }
}

/// What a tunnel has for as long as it lives.
#[derive(Debug)]
struct Sides<C> {
    client: C,
    upstream: TcpStream,
    second_hello: Duration,
    idle: Duration,
}

/// How a tunnel ended.
#[derive(Debug)]
pub struct Relayed<C> {
    /// Well, or why not.
    pub outcome: Result<Ending, Stop>,
    /// What is still owed to the client.
    pub closing: Closing<C>,
}

impl<C> Relayed<C> {
    /// The same, of a connection that is called otherwise.
    pub fn map<D>(self, call: impl FnOnce(C) -> D) -> Relayed<D> {
        Relayed { outcome: self.outcome, closing: self.closing.map(call) }
    }

    /// Both ways were open. On a stop the client's side ends in order, since an alert of ours would
    /// be garbage in its session, and the upstream's with a reset.
    fn ended(outcome: Result<Ending, Stop>, sides: Sides<C>) -> Self {
        let Sides { client, upstream, .. } = sides;
        let closing = match outcome {
            Ok(Ending::Closed) => Closing::done(),
            Err(_) => {
                socket::reset(upstream);
                Closing::in_order(client)
            }
        };
        Self { outcome, closing }
    }

    /// It ended within the handshake.
    fn early(opened: Opened, sides: Sides<C>) -> Self {
        let Sides { client, upstream, .. } = sides;
        let (stop, closing) = match opened {
            Opened::Through(_) | Opened::Over => {
                return Self { outcome: Ok(Ending::Closed), closing: Closing::in_order(client) };
            }
            Opened::Unserved(stop) => {
                let closing = Closing::with_alert(client, &stop);
                (stop, closing)
            }
            Opened::Served(stop) => (stop, Closing::in_order(client)),
        };
        socket::reset(upstream);
        Self { outcome: Err(stop), closing }
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
        Self { settings, pipes: Pipes::new(settings.pipes), began: Instant::now() }
    }

    /// Carries a tunnel between two bare sockets to its end: first the hello, as it was judged,
    /// then all that may follow. `stop` ends it at once.
    ///
    /// `traffic` tells at any time what has been delivered. Once the session is accounted for, the
    /// [`Closing`] that comes back must be finished.
    pub fn carry(
        &self,
        _: &Cleared,
        start: Start<TcpStream>,
        traffic: &Traffic,
        stop: Pin<&mut impl Future<Output = Stop>>,
    ) -> impl Future<Output = Relayed<TcpStream>> {
        self.carry_bare(start, traffic, stop)
    }

    /// The same for a client behind another layer, such as TLS: every byte is copied.
    pub fn carry_wrapped<C: AsyncRead + AsyncWrite + Unpin>(
        &self,
        _: &Cleared,
        start: Start<C>,
        traffic: &Traffic,
        stop: Pin<&mut impl Future<Output = Stop>>,
    ) -> impl Future<Output = Relayed<C>> {
        self.carry_layered(start, traffic, stop)
    }

    // Nothing taken apart: a future keeps an argument and what it is moved to side by side, for as
    // long as the tunnel lives.
    fn carry_bare(
        &self,
        start: Start<TcpStream>,
        traffic: &Traffic,
        mut stop: Pin<&mut impl Future<Output = Stop>>,
    ) -> impl Future<Output = Relayed<TcpStream>> {
        let (mut sides, hello) = start.split();
        async move {
            match open(&mut sides, *hello, traffic, stop.as_mut()).await {
                Opened::Through(open) => {
                    let life = Life { traffic, idle: sides.idle, stop };
                    let both = self.splice_both(&sides.client, &sides.upstream, open, life);
                    Relayed::ended(both.await, sides)
                }
                early => Relayed::early(early, sides),
            }
        }
    }

    async fn carry_layered<C: AsyncRead + AsyncWrite + Unpin>(
        &self,
        start: Start<C>,
        traffic: &Traffic,
        mut stop: Pin<&mut impl Future<Output = Stop>>,
    ) -> Relayed<C> {
        let (mut sides, hello) = start.split();
        match open(&mut sides, *hello, traffic, stop.as_mut()).await {
            Opened::Through(open) => {
                let life = Life { traffic, idle: sides.idle, stop };
                let both = tunnel::copy_both(&mut sides.client, &mut sides.upstream, open, life);
                Relayed::ended(both.await, sides)
            }
            early => Relayed::early(early, sides),
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
    sides: &'a mut Sides<C>,
    hello: Hello,
    traffic: &'a Traffic,
    stop: Pin<&'a mut impl Future<Output = Stop>>,
) -> Pin<Box<impl Future<Output = Opened>>> {
    Box::pin(Opening::new(sides, hello, traffic).carry(stop))
}

#[cfg(test)]
mod tests;
