//! A client's stream that gives up when the client does not read.
//!
//! What waits for such a client occupies the kernel's memory, as in a tunnel (see `relay::stall`): it
//! is registered as stalled, and ends after the stall timeout, or when its memory is needed.

use std::future::Future as _;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::delivery::Delivery;
use crate::limits::{StalledTunnel, Stalls};
use crate::policy::{Cause, Limits};
use crate::relay::{self, Relay, TunnelEnd};

/// Interval between two looks at a client that does not read.
const LOOK: Duration = Duration::from_secs(1);

/// What is known of a client that may not read.
pub struct StallTerms {
    /// Where it is registered while it does not read.
    stalls: Arc<Stalls>,
    /// Its address.
    client: IpAddr,
    /// How long a write may wait.
    timeout: Duration,
    /// What it has got.
    delivery: Arc<Delivery>,
}

impl StallTerms {
    /// The terms of a client, by these limits.
    #[must_use]
    pub fn new(relay: &Relay, limits: &Limits, client: IpAddr, delivery: Arc<Delivery>) -> Self {
        let timeout = limits.stall_timeout.min(limits.idle_timeout);
        Self { stalls: relay.stalls().clone(), client, timeout, delivery }
    }
}

/// A stream with a limit on how long a write may wait.
pub struct Guarded<S> {
    stream: S,
    terms: StallTerms,
    /// Set while a write waits.
    waiting: Option<Waiting>,
}

/// A write that waits.
struct Waiting {
    since: Instant,
    /// When to look next.
    look: Pin<Box<Sleep>>,
    stalled: Option<StalledTunnel>,
}

impl<S: TunnelEnd> Guarded<S> {
    /// Limits how long a write to `stream` may wait, and how many bytes the kernel queues for it.
    pub fn new(stream: S, terms: StallTerms) -> Self {
        if let Some(socket) = stream.bare() {
            relay::confine_unsent(socket);
        }
        Self { stream, terms, waiting: None }
    }

    fn judge<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            if self.waiting.take().is_some() {
                self.terms.delivery.note_held(0);
            }
            return written;
        }
        let cause = ready!(self.poll_wait(context));
        self.terms.delivery.end(cause);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Looks at the client once a second. Ready when it has to be given up.
    fn poll_wait(&mut self, context: &mut Context<'_>) -> Poll<Cause> {
        let Self { stream, terms, waiting } = self;
        let now = Instant::now();
        let waiting = waiting.get_or_insert_with(|| Waiting {
            since: now,
            look: Box::pin(sleep_until(now + LOOK.min(terms.timeout))),
            stalled: None,
        });
        loop {
            ready!(waiting.look.as_mut().poll(context));
            let end = waiting.since + terms.timeout;
            let now = Instant::now();
            if now >= end {
                return Poll::Ready(Cause::StallTimeout);
            }
            let held = stream.bare().map_or(0, relay::held);
            terms.delivery.note_held(held);
            let stalled = waiting.stalled.get_or_insert_with(|| terms.stalls.add(terms.client));
            if stalled.holds(held) {
                return Poll::Ready(Cause::TcpMemory);
            }
            waiting.look.as_mut().reset(end.min(now + LOOK));
        }
    }
}

impl<S: TunnelEnd> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: TunnelEnd> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.judge(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.judge(context, shut)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.judge(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::limits::SocketMemory;
    use crate::policy::{Failure, Side};

    fn guarded<S: TunnelEnd>(stream: S, memory: SocketMemory) -> Guarded<S> {
        let terms = StallTerms {
            stalls: Stalls::new(memory),
            client: IpAddr::from([10, 0, 0, 7]),
            timeout: Duration::from_secs(5),
            delivery: Arc::default(),
        };
        Guarded::new(stream, terms)
    }

    fn nowhere() -> SocketMemory {
        SocketMemory::under("/nowhere".as_ref())
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up() {
        let (client, mut server) = tokio::io::duplex(8);
        let mut guarded = guarded(client, nowhere());
        let ended = guarded.write_all(&[0; 64]).await;
        assert_eq!(ended.map_err(|error| error.kind()), Err(io::ErrorKind::TimedOut));
        let stop = Failure { side: Side::Client, cause: Cause::StallTimeout }.into();
        assert_eq!(guarded.terms.delivery.stop(), Some(stop));
        // One that takes a little now and then is not.
        let reading = tokio::spawn(async move {
            let mut bytes = [0; 8];
            for _ in 0..9 {
                tokio::time::sleep(Duration::from_secs(4)).await;
                tokio::io::AsyncReadExt::read(&mut server, &mut bytes).await.unwrap();
            }
        });
        guarded.waiting = None;
        guarded.write_all(&[0; 64]).await.unwrap();
        assert_eq!(guarded.terms.delivery.held(), 0);
        reading.await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_holds_little_and_ends_when_that_is_needed() {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("proc/sys/net/ipv4/tcp_mem", "10000 20000 30000"),
            ("proc/net/sockstat", "TCP: inuse 1 orphan 1 tw 17 alloc 31 mem 10001\n"),
        ] {
            let file = root.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let mut guarded = guarded(accepted, SocketMemory::under(root.path()));
        let ended = guarded.write_all(&vec![0; 64 << 20]).await;
        assert_eq!(ended.map_err(|error| error.kind()), Err(io::ErrorKind::TimedOut));
        let stop = Failure { side: Side::Client, cause: Cause::TcpMemory }.into();
        assert_eq!(guarded.terms.delivery.stop(), Some(stop));
        let held = guarded.terms.delivery.held();
        assert!((1..4 << 20).contains(&held), "{held}");
    }
}
