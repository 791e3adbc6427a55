//! The second phase of a tunnel: both directions, with splice or with copying.

use std::future::Future;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::TcpStream;

use super::copy::Pump;
use super::ending::{HasEnded, Parting};
use super::layer::{ClientEnd, Layered};
use super::life::{BothWays, TunnelContext};
use super::meter::{Direction, Traffic};
use super::shared::Relay;
use super::socket;
use super::splice::{Flow, Splice};
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
}

/// A tunnel between two bare sockets.
struct Spliced<'a> {
    ways: Ways,
    relay: &'a Relay,
    client: &'a TcpStream,
    upstream: &'a TcpStream,
}

impl BothWays for Spliced<'_> {
    fn poll(&mut self, context: &mut Context<'_>, traffic: &Traffic) -> Poll<Result<Ending, Stop>> {
        let Self { ways, relay, client, upstream } = self;
        ways.poll(context, relay, traffic, client, upstream)
    }
}

impl Stallable for Spliced<'_> {
    fn full(&self) -> Option<Direction> {
        full(self.ways.down.is_full(), self.ways.up.is_full())
    }

    fn is_confined(&self, direction: Direction) -> bool {
        match direction {
            Direction::Down => self.ways.down.is_confined(),
            Direction::Up => self.ways.up.is_confined(),
        }
    }

    fn sockets(&self) -> (Option<&TcpStream>, &TcpStream) {
        (Some(self.client), self.upstream)
    }

    fn limit(&mut self, direction: Direction, change: Change) {
        let Ways { up, down, .. } = &mut self.ways;
        let (client, upstream) = (self.client, self.upstream);
        match direction {
            Direction::Down => change(down.credit(), upstream, client),
            Direction::Up => change(up.credit(), client, upstream),
        }
    }
}

/// Returns the direction that is full, the download first.
fn full(down: bool, up: bool) -> Option<Direction> {
    match (down, up) {
        (true, _) => Some(Direction::Down),
        (false, true) => Some(Direction::Up),
        (false, false) => None,
    }
}

/// Both directions between two bare sockets.
pub(super) struct Ways {
    pub(super) up: Splice,
    pub(super) down: Splice,
    parting: Parting,
}

impl Ways {
    pub(super) fn new(now: Duration, open: AfterHandshake) -> Self {
        let AfterHandshake { upload, watch } = open;
        let (up, down) = (Splice::up(now, upload, watch), Splice::down(now));
        Self { up, down, parting: Parting::default() }
    }

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
            down.spoken_to(relay, upstream);
        }
        let received = match parting.has_begun() {
            true => Poll::Pending,
            false => down.poll(context, relay, traffic, (upstream, client), up.flow()),
        };
        if traffic.down.count() != before.1 {
            up.spoken_to(relay, client);
        }
        let given = || down.has_delivered() && socket::is_dry(upstream);
        let ended = HasEnded { client: up.has_ended(), said_so: false, upstream: upstream_done };
        parting.outcome(context, (sent, received), ended, given)
    }
}

/// Runs both directions where a side is not a bare socket.
pub(super) fn copy_both<'a, C: ClientEnd, U: Layered>(
    client: &'a mut C,
    upstream: &'a mut U,
    open: AfterHandshake,
    life: TunnelContext<'a, impl Future<Output = Stop>>,
) -> impl Future<Output = Result<Ending, Stop>> {
    let (up, down) = (Pump::up(open.upload, open.watch), Pump::down());
    let parting = Parting::default();
    life.until_over(Copied { up, down, parting, client, upstream })
}

/// A tunnel where a side is not a bare socket.
struct Copied<'a, C, U> {
    up: Pump,
    down: Pump,
    parting: Parting,
    client: &'a mut C,
    upstream: &'a mut U,
}

impl<C: ClientEnd, U: Layered> BothWays for Copied<'_, C, U> {
    fn poll(&mut self, context: &mut Context<'_>, traffic: &Traffic) -> Poll<Result<Ending, Stop>> {
        let Self { up, down, parting, client, upstream } = self;
        let upstream_done = down.has_ended();
        let sent = up.poll(context, traffic, *client, *upstream);
        let received = match parting.has_begun() {
            true => Poll::Pending,
            false => down.poll(context, traffic, *upstream, *client),
        };
        if let Some(client) = client.bare() {
            down.note_delivered(&traffic.down, upstream.socket(), client);
        }
        let given = || down.has_delivered() && socket::is_dry(upstream.socket());
        let (client, said_so) = (up.has_ended(), up.has_said_so());
        let ended = HasEnded { client, said_so, upstream: upstream_done };
        parting.outcome(context, (sent, received), ended, given)
    }
}

impl<C: ClientEnd, U: Layered> Stallable for Copied<'_, C, U> {
    fn full(&self) -> Option<Direction> {
        full(self.down.is_full(), self.up.is_full())
    }

    fn is_confined(&self, direction: Direction) -> bool {
        match direction {
            Direction::Down => self.down.is_confined(),
            Direction::Up => self.up.is_confined(),
        }
    }

    fn sockets(&self) -> (Option<&TcpStream>, &TcpStream) {
        (self.client.bare(), self.upstream.socket())
    }

    fn limit(&mut self, direction: Direction, change: Change) {
        let (Some(client), upstream) = (self.client.bare(), self.upstream.socket()) else { return };
        match direction {
            Direction::Down => change(self.down.credit(), upstream, client),
            Direction::Up => change(self.up.credit(), client, upstream),
        }
    }
}
