//! The second phase of a tunnel: both directions, with splice or with copying.

use std::future::Future;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::TcpStream;

use super::copy::{self, CopyState};
use super::ending::{Done, HasEnded, Parting};
use super::layer::{Layered, TunnelEnd};
use super::life::{BothWays, TunnelContext};
use super::meter::{Direction, Traffic};
use super::one_way::{Flow, OneWay};
use super::shared::Relay;
use super::socket;
use super::splice_state::SpliceState;
use super::stall::{Change, Stallable};
use super::watch::Watch;
use crate::policy::{Ending, Stop};

/// The state after the handshake.
#[derive(Debug)]
pub(super) struct AfterHandshake {
    /// Bytes that the upload has forwarded; the download is open.
    pub(super) upload: Flow,
    /// The watch over the upload.
    pub(super) watch: Option<Box<Watch>>,
}

/// Both directions of a tunnel.
pub(super) struct Ways<S> {
    pub(super) up: OneWay<S>,
    pub(super) down: OneWay<S>,
    parting: Parting,
}

impl<S: Default> Ways<S> {
    pub(super) fn new(now: Duration, open: AfterHandshake) -> Self {
        let up = OneWay::up(open.upload, open.watch, now);
        Self { up, down: OneWay::down(now), parting: Parting::default() }
    }
}

impl<S> Ways<S> {
    fn of(&self, direction: Direction) -> &OneWay<S> {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }

    fn limit(
        &mut self,
        direction: Direction,
        change: Change,
        client: &TcpStream,
        upstream: &TcpStream,
    ) {
        match direction {
            Direction::Up => change(&mut self.up.credit, client, upstream),
            Direction::Down => change(&mut self.down.credit, upstream, client),
        }
    }

    /// Returns how the tunnel ends, if it does, after both directions were polled.
    fn outcome(
        &mut self,
        context: &mut Context<'_>,
        done: (Done, Done),
        ended: HasEnded,
        upstream: &TcpStream,
    ) -> Poll<Result<Ending, Stop>> {
        let Self { down, parting, .. } = self;
        let given = || down.has_delivered() && socket::is_dry(upstream);
        parting.outcome(context, done, ended, given)
    }
}

impl Relay {
    /// Runs both directions between two bare sockets.
    pub(super) fn splice_both<'a>(
        &'a self,
        client: &'a TcpStream,
        upstream: &'a TcpStream,
        open: AfterHandshake,
        life: TunnelContext<'a, impl Future<Output = Stop>>,
    ) -> impl Future<Output = Result<Ending, Stop>> {
        let ways = Ways::new(self.now(), open);
        life.until_over(Spliced { ways, relay: self, client, upstream })
    }

    /// Runs both directions where a side is not a bare socket.
    pub(super) fn copy_both<'a, C: TunnelEnd, U: Layered>(
        &'a self,
        client: &'a mut C,
        upstream: &'a mut U,
        open: AfterHandshake,
        life: TunnelContext<'a, impl Future<Output = Stop>>,
    ) -> impl Future<Output = Result<Ending, Stop>> {
        copy::prepare(client);
        copy::prepare(upstream);
        let ways = Ways::new(self.now(), open);
        life.until_over(Copied { ways, relay: self, client, upstream })
    }
}

/// A tunnel between two bare sockets.
struct Spliced<'a> {
    ways: Ways<SpliceState>,
    relay: &'a Relay,
    client: &'a TcpStream,
    upstream: &'a TcpStream,
}

impl Ways<SpliceState> {
    /// Moves all available bytes in both directions.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        relay: &Relay,
        traffic: &Traffic,
        client: &TcpStream,
        upstream: &TcpStream,
    ) -> Poll<Result<Ending, Stop>> {
        let Self { up, down, parting } = self;
        let upstream_done = down.has_ended();
        let before = (traffic.up.count(), traffic.down.count());
        let sent = up.poll(context, relay, traffic, (client, upstream), down.flow());
        if traffic.up.count() != before.0 {
            down.wakeup.spoken_to(relay, upstream);
        }
        let received = match parting.has_begun() {
            true => Poll::Pending,
            false => down.poll(context, relay, traffic, (upstream, client), up.flow()),
        };
        if traffic.down.count() != before.1 {
            up.wakeup.spoken_to(relay, client);
        }
        let ended = HasEnded { client: up.has_ended(), said_so: false, upstream: upstream_done };
        self.outcome(context, (sent, received), ended, upstream)
    }
}

impl BothWays for Spliced<'_> {
    fn poll(&mut self, context: &mut Context<'_>, traffic: &Traffic) -> Poll<Result<Ending, Stop>> {
        let Self { ways, relay, client, upstream } = self;
        ways.poll(context, relay, traffic, client, upstream)
    }
}

impl Stallable for Spliced<'_> {
    type State = SpliceState;

    fn way(&self, direction: Direction) -> &OneWay<SpliceState> {
        self.ways.of(direction)
    }

    fn sockets(&self) -> (Option<&TcpStream>, &TcpStream) {
        (Some(self.client), self.upstream)
    }

    fn limit(&mut self, direction: Direction, change: Change) {
        let (client, upstream) = (self.client, self.upstream);
        self.ways.limit(direction, change, client, upstream);
    }
}

/// A tunnel where a side is not a bare socket.
struct Copied<'a, C, U> {
    ways: Ways<CopyState>,
    relay: &'a Relay,
    client: &'a mut C,
    upstream: &'a mut U,
}

impl<C: TunnelEnd, U: Layered> BothWays for Copied<'_, C, U> {
    fn poll(&mut self, context: &mut Context<'_>, traffic: &Traffic) -> Poll<Result<Ending, Stop>> {
        let Self { ways, relay, client, upstream } = self;
        let upstream_done = ways.down.has_ended();
        let before = (traffic.up.count(), traffic.down.count());
        let sent = ways.up.poll(context, relay, traffic, (*client, *upstream));
        if traffic.up.count() != before.0 {
            ways.down.wakeup.spoken_to(relay, upstream.socket());
        }
        let received = match ways.parting.has_begun() {
            true => Poll::Pending,
            false => ways.down.poll(context, relay, traffic, (*upstream, *client)),
        };
        if traffic.down.count() != before.1
            && let Some(client) = client.bare()
        {
            ways.up.wakeup.spoken_to(relay, client);
        }
        let (client, said_so) = (ways.up.has_ended(), ways.up.has_said_so());
        let ended = HasEnded { client, said_so, upstream: upstream_done };
        ways.outcome(context, (sent, received), ended, upstream.socket())
    }
}

impl<C: TunnelEnd, U: Layered> Stallable for Copied<'_, C, U> {
    type State = CopyState;

    fn way(&self, direction: Direction) -> &OneWay<CopyState> {
        self.ways.of(direction)
    }

    fn sockets(&self) -> (Option<&TcpStream>, &TcpStream) {
        (self.client.bare(), self.upstream.socket())
    }

    fn limit(&mut self, direction: Direction, change: Change) {
        if let Some(client) = self.client.bare() {
            self.ways.limit(direction, change, client, self.upstream.socket());
        }
    }
}
