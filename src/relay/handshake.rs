//! The first phase of a tunnel: forwards the ClientHello, and copies all bytes through the guard
//! until neither side can select another server. Its memory is freed when it ends.

use crate::relay::layer::Layered;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, sleep, sleep_until};

use super::ending::{aborted, idle_for_too_long};
use super::ends::TunnelEnds;
use super::meter::Traffic;
use super::one_way::Flow;
use super::tunnel::AfterHandshake;
use super::watch::Watch;
use crate::hello::{Cut, Guard, Hello, Onward, Output};
use crate::limits::{SecondHellos, SetupSlot};
use crate::policy::{Denial, Reason, Side, Stop};

/// Number of bytes that are read at once. A server's first flight needs two or three reads.
const READ: usize = 4 * 1024;

/// A tunnel in its handshake.
pub(super) struct Opening<'a, C, U> {
    client: &'a mut C,
    upstream: &'a mut U,
    traffic: &'a Traffic,
    idle: Duration,
    /// Timeout for a second ClientHello, and the deadline once one is due.
    second_hello: Duration,
    second_hello_by: Option<Instant>,
    second_hellos: Option<&'a SecondHellos>,
    /// Its place among the sessions that are not tunnels yet, while one is due.
    setup: Option<SetupSlot>,
    guard: Guard,
    output: Output,
    upload: Flow,
}

/// The result of the handshake.
pub(super) enum HandshakeOutcome {
    /// The tunnel continues.
    Through(AfterHandshake),
    /// The upstream closed in order.
    Over,
    /// The tunnel ends; the client can still be sent an alert.
    Unserved(Stop),
    /// The tunnel ends; it is too late for an alert.
    Served(Stop),
}

/// The result of the guard for the next bytes; `None` at the end of the stream.
enum Input {
    Client(io::Result<Option<Result<(), Cut>>>),
    Upstream(io::Result<Option<Result<(), Cut>>>),
}

impl<'a, C: AsyncRead + AsyncWrite + Unpin, U: Layered> Opening<'a, C, U> {
    /// A handshake whose judged hello has not gone out yet.
    pub(super) fn new(sides: &'a mut TunnelEnds<C, U>, hello: Hello, traffic: &'a Traffic) -> Self {
        let TunnelEnds { client, upstream, terms } = sides;
        let output = Output { to_server: hello.raw, ..Output::default() };
        let guard = Guard::new(hello.facts);
        Self {
            client,
            upstream,
            traffic,
            idle: terms.idle,
            second_hello: terms.second_hello,
            second_hello_by: None,
            second_hellos: terms.second_hellos.as_ref(),
            setup: None,
            guard,
            output,
            upload: Flow::Open,
        }
    }

    /// Runs the handshake until the guard is finished.
    pub(super) async fn carry(
        mut self,
        stop: Pin<&mut impl Future<Output = Stop>>,
    ) -> HandshakeOutcome {
        match self.through(stop).await {
            Ok(Some(open)) => HandshakeOutcome::Through(open),
            Ok(None) => HandshakeOutcome::Over,
            Err(stop) if self.guard.served() => HandshakeOutcome::Served(stop),
            Err(stop) => HandshakeOutcome::Unserved(stop),
        }
    }

    async fn through(
        &mut self,
        mut stop: Pin<&mut impl Future<Output = Stop>>,
    ) -> Result<Option<AfterHandshake>, Stop> {
        let mut cut: Result<(), Cut> = Ok(());
        loop {
            // Bytes that were accepted before the violation are forwarded, so the client's state is
            // known.
            let idle = self.idle;
            tokio::select! {
                biased;
                stop = stop.as_mut() => return Err(stop),
                delivered = self.deliver() => delivered?,
                () = sleep(idle) => return Err(idle_for_too_long()),
            }
            cut.map_err(Cut::reason)?;
            if let Some(onward) = self.guard.onward() {
                let watch = match onward {
                    Onward::Free => None,
                    Onward::Records(records) => Some(Box::new(Watch::new(records))),
                };
                return Ok(Some(AfterHandshake { upload: self.upload, watch }));
            }
            let (late, needed) = (self.late(), self.count_second_hello());
            let input = tokio::select! {
                biased;
                stop = stop.as_mut() => return Err(stop),
                () = needed => return Err(needed_for_another()),
                input = self.input() => input,
                late = late => return Err(late),
            };
            cut = match input {
                Input::Client(Err(_)) => return Err(aborted(Side::Client)),
                Input::Upstream(Err(_)) => return Err(aborted(Side::Upstream)),
                // A client that closes before the server's reply cannot finish the handshake.
                Input::Client(Ok(None)) if self.guard.is_servers_turn() => {
                    return Err(aborted(Side::Client));
                }
                Input::Client(Ok(None)) => {
                    self.upload = Flow::Passed;
                    self.upstream.shutdown().await.map_err(|_| aborted(Side::Upstream))?;
                    Ok(())
                }
                // A server that closes without a reply is a failure; later it may close.
                Input::Upstream(Ok(None)) if !self.guard.served() && self.upload == Flow::Open => {
                    return Err(aborted(Side::Upstream));
                }
                Input::Upstream(Ok(None)) => return Ok(None),
                Input::Client(Ok(Some(cut))) | Input::Upstream(Ok(Some(cut))) => cut,
            };
        }
    }

    /// Reads once from either side, the client first, because bytes that it sent before the
    /// server's reply are a violation. The buffer is on the stack, so that a handshake holds none.
    fn input(&mut self) -> impl Future<Output = Input> {
        let may_come = self.upload == Flow::Open;
        let Self { client, upstream, guard, output, .. } = self;
        poll_fn(move |context| {
            let mut bytes = [MaybeUninit::uninit(); READ];
            let mut bytes = ReadBuf::uninit(&mut bytes);
            if may_come
                && let Poll::Ready(read) = Pin::new(&mut **client).poll_read(context, &mut bytes)
            {
                let bytes = bytes.filled();
                let mut judge = || (!bytes.is_empty()).then(|| guard.client(bytes, output));
                return Poll::Ready(Input::Client(read.map(|()| judge())));
            }
            let read = ready!(Pin::new(&mut **upstream).poll_read(context, &mut bytes));
            let bytes = bytes.filled();
            let mut judge = || (!bytes.is_empty()).then(|| guard.server(bytes, output));
            Poll::Ready(Input::Upstream(read.map(|()| judge())))
        })
    }

    /// Why it ends where nothing more comes, once that is so.
    fn late(&mut self) -> impl Future<Output = Stop> + use<C, U> {
        let now = Instant::now();
        let by = self
            .guard
            .awaits_second_hello()
            .then(|| *self.second_hello_by.get_or_insert_with(|| now + self.second_hello));
        let idle = now + self.idle;
        async move {
            match by {
                Some(by) if by < idle => {
                    sleep_until(by).await;
                    Reason::HelloTimeout.into()
                }
                _ => {
                    sleep_until(idle).await;
                    idle_for_too_long()
                }
            }
        }
    }

    /// Counts the tunnel while a second ClientHello is due, with the memory that this takes. Resolves
    /// when its place or its memory is needed for another.
    fn count_second_hello(&mut self) -> impl Future<Output = ()> + use<C, U> {
        let Self { setup, second_hellos, guard, .. } = self;
        match (second_hellos, guard.second_hello_memory()) {
            (Some(second_hellos), Some(bytes)) => {
                setup.get_or_insert_with(|| second_hellos.begin()).keep(bytes);
            }
            _ => *setup = None,
        }
        let needed = setup.as_ref().map(SetupSlot::evicted);
        async move {
            match needed {
                Some(needed) => needed.await,
                None => pending().await,
            }
        }
    }

    /// Counts bytes for the upstream. If they exceed the budget, forwards none of them.
    fn spend(&self, bytes: usize) -> Result<(), Stop> {
        let Traffic { up, down, bounds, .. } = self.traffic;
        let (up, down) = (up.count().total(), down.count().total());
        let reserved = bounds.reserve_handshake(up, down, bytes);
        let enough = reserved.bytes == bytes;
        bounds.settle(reserved, if enough { bytes } else { 0 }, up, down);
        if enough { Ok(()) } else { Err(Reason::UploadBudget.into()) }
    }

    /// Sends the accepted bytes.
    async fn deliver(&mut self) -> Result<(), Stop> {
        let Output { to_server, to_client } = std::mem::take(&mut self.output);
        if !to_server.is_empty() {
            self.spend(to_server.len())?;
            self.upstream.write_all(&to_server).await.map_err(|_| aborted(Side::Upstream))?;
            self.upstream.flush().await.map_err(|_| aborted(Side::Upstream))?;
            self.traffic.up.copied(to_server.len());
        }
        if !to_client.is_empty() {
            self.client.write_all(&to_client).await.map_err(|_| aborted(Side::Client))?;
            self.client.flush().await.map_err(|_| aborted(Side::Client))?;
            self.traffic.down.copied(to_client.len());
        }
        Ok(())
    }
}

fn needed_for_another() -> Stop {
    Denial::with_remedy(Reason::SessionLimit, "its place was needed for another").into()
}
