//! Relays bytes between a client and its upstream, from the first ClientHello to the end of the
//! tunnel. It knows no names and no policy: `hello` decides what can be forwarded of the handshake,
//! and the caller when the tunnel must end.
//!
//! A tunnel has two phases. In the first (`handshake`) every byte is copied and the guard inspects
//! it. In the second, each direction (`one_way`) is spliced between bare sockets (`splice`), or copied
//! if one side is not a bare socket (`copy`) or no pipe is available.
//!
//! One task serves both directions. An idle tunnel holds little: no pipe, no buffer, and no timer
//! except the idle timeout.

mod bulk;
mod close;
mod copy;
mod credit;
mod duplicate;
mod ending;
mod ends;
mod handshake;
mod layer;
mod leftover;
mod life;
mod meter;
mod one_way;
mod pacing;
mod pipe_pool;
mod shared;
mod socket;
mod splice;
mod splice_state;
mod stall;
mod tls;
mod tunnel;
mod wakeup;
mod watch;

use std::future::Future;
use std::pin::Pin;

use tokio::net::TcpStream;

use crate::hello::Hello;
use crate::policy::{Cause, Cleared, Ending, Failure, Stop};
use handshake::{HandshakeOutcome, Opening};
use life::TunnelContext;

pub use close::{Closing, hear_out};
pub use credit::confine_unsent;
pub use ends::{TunnelEnds, TunnelTerms};
pub use layer::{Layer, Layered, TunnelEnd};
pub use meter::{Count, Tally, Traffic};
pub use pipe_pool::{PIPE_SIZE, Pipes, SMALL_PIPE_SIZE};
pub use shared::{Relay, RelaySettings};
pub use socket::held;
pub use tls::{TlsEnd, TlsSession};

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
    /// A reset, because the client does not read.
    Reset,
}

impl TunnelOutcome {
    /// No alert: the client would read it as data of its session.
    fn through(outcome: Result<Ending, Stop>) -> Self {
        let owed = match &outcome {
            Ok(_) => FinalNotice::Nothing,
            Err(Stop::Failed(Failure {
                cause: Cause::StallTimeout | Cause::TcpMemory, ..
            })) => FinalNotice::Reset,
            Err(_) => FinalNotice::End,
        };
        Self { outcome, owed }
    }

    /// The tunnel ended in the handshake.
    fn early(opened: HandshakeOutcome) -> Self {
        let (outcome, owed) = match opened {
            HandshakeOutcome::Through(_) | HandshakeOutcome::Over => {
                (Ok(Ending::Closed), FinalNotice::End)
            }
            HandshakeOutcome::Unserved(stop) => (Err(stop), FinalNotice::Alert),
            HandshakeOutcome::Served(stop) => (Err(stop), FinalNotice::End),
        };
        Self { outcome, owed }
    }
}

impl<C: TunnelEnd, U: Layered> TunnelEnds<C, U> {
    /// Closes the upstream, with a reset on a stop. Finish the returned closing after the session
    /// is recorded.
    pub fn closing(self, carried: &TunnelOutcome) -> Closing<C> {
        let Self { client, upstream, .. } = self;
        if carried.outcome.is_err() {
            socket::reset_on_close(upstream.socket());
            drop(upstream);
        }
        match (carried.owed, &carried.outcome) {
            (FinalNotice::Nothing, _) => Closing::done(),
            (FinalNotice::Reset, _) => {
                client.bare().inspect(|socket| socket::reset_on_close(socket));
                Closing::done()
            }
            (FinalNotice::Alert, Err(stop)) => Closing::with_alert(client, stop),
            (FinalNotice::Alert | FinalNotice::End, _) => Closing::in_order(client),
        }
    }
}

impl Relay {
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
    pub fn carry_wrapped<C: TunnelEnd, U: Layered>(
        &self,
        _: &Cleared,
        sides: &mut TunnelEnds<C, U>,
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
            HandshakeOutcome::Through(open) => {
                let (terms, stalls) = (&sides.terms, &self.stalls);
                let life = TunnelContext { traffic, terms, stalls, stop };
                let both = self.splice_both(&sides.client, &sides.upstream, open, life);
                TunnelOutcome::through(both.await)
            }
            early => TunnelOutcome::early(early),
        }
    }

    async fn carry_layered<C: TunnelEnd, U: Layered>(
        &self,
        sides: &mut TunnelEnds<C, U>,
        hello: Box<Hello>,
        traffic: &Traffic,
        mut stop: Pin<&mut impl Future<Output = Stop>>,
    ) -> TunnelOutcome {
        match open(sides, *hello, traffic, stop.as_mut()).await {
            HandshakeOutcome::Through(open) => {
                let (terms, stalls) = (&sides.terms, &self.stalls);
                let life = TunnelContext { traffic, terms, stalls, stop };
                let both = self.copy_both(&mut sides.client, &mut sides.upstream, open, life);
                TunnelOutcome::through(both.await)
            }
            early => TunnelOutcome::early(early),
        }
    }
}

/// Runs the handshake in a box that is freed after it.
fn open<'a, C: TunnelEnd, U: Layered>(
    sides: &'a mut TunnelEnds<C, U>,
    hello: Hello,
    traffic: &'a Traffic,
    stop: Pin<&'a mut impl Future<Output = Stop>>,
) -> Pin<Box<impl Future<Output = HandshakeOutcome>>> {
    Box::pin(Opening::new(sides, hello, traffic).carry(stop))
}

#[cfg(test)]
mod tests;
