//! Which side ended a tunnel, and whether in order.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::*;

#[tokio::test]
async fn a_reset_is_attributed_to_its_side() {
    for (side, cause) in
        [(Side::Client, Cause::ClientAborted), (Side::Upstream, Cause::UpstreamAborted)]
    {
        let relay = relay(1);
        let tunnel = tunnel(&relay, open()).await;
        // Bytes are on their way, and nobody reads them.
        let (aborting, other) = match side {
            Side::Client => (tunnel.client, tunnel.server),
            _ => (tunnel.server, tunnel.client),
        };
        write_until_full(&other, &noise(1, 64 * 1024 * 1024)).await;
        socket::reset_on_close(&aborting);
        drop(aborting);
        let failure = Failure { side, cause };
        assert_eq!(tunnel.over.await.unwrap(), Err(Stop::Failed(failure)));
        assert_eq!(relay.pipes.idle(), 1);
    }
}

#[tokio::test]
async fn a_client_that_is_done_may_refuse_the_last_bytes() {
    let mut tunnel = tunnel(&relay(1), open()).await;
    tunnel.client.write_all(b"close_notify").await.unwrap();
    drop(tunnel.client);
    assert_eq!(receive(&mut tunnel.server).await, b"close_notify");
    // The first bytes provoke the reset, later ones meet it.
    while tunnel.server.write_all(b"close_notify").await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(tunnel.over.await.unwrap(), Ok(Ending::Closed));
}

/// A client that the gate does not read until it sends to it: by then it has sent
/// its last word, ended in order, and closed.
struct Gone {
    refused: bool,
    heard: bool,
    word: &'static [u8],
    /// How it rejects what is sent to it.
    refuses: io::ErrorKind,
    /// Whether it has said in TLS that it is done.
    says_so: bool,
}

impl TunnelEnd for Gone {
    fn bare(&self) -> Option<&TcpStream> {
        None
    }
}

impl AsyncRead for Gone {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.refused || !std::mem::replace(&mut self.heard, true) {
            // What has come is heard of later than that it refuses.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.word.is_empty() && !self.says_so {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        buffer.put_slice(std::mem::take(&mut self.word));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Gone {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.refused = true;
        Poll::Ready(Err(self.refuses.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn the_last_word_of_a_client_that_has_closed_is_heard() {
    let aborted = Failure { side: Side::Client, cause: Cause::ClientAborted };
    for (refuses, says_so, ends) in [
        (io::ErrorKind::BrokenPipe, true, Ok(Ending::Closed)),
        (io::ErrorKind::BrokenPipe, false, Ok(Ending::Closed)),
        (io::ErrorKind::ConnectionReset, true, Ok(Ending::Closed)),
        (io::ErrorKind::ConnectionReset, false, Err(Stop::Failed(aborted))),
    ] {
        let (mut server, mut upstream) = pair().await;
        server.write_all(b"more than it wanted").await.unwrap();
        let mut client =
            Gone { refused: false, heard: false, word: b"close_notify", refuses, says_so };
        let traffic = Traffic::default();
        let (relay, terms) = (relay(0), idle(IDLE));
        let (terms, stalls) = (&terms, &relay.stalls);
        let life = TunnelContext { traffic: &traffic, terms, stalls, stop: pin!(pending()) };
        let over = relay.copy_both(&mut client, &mut upstream, open(), life).await;
        assert_eq!(over, ends, "{refuses}, {says_so}");
        drop(upstream);
        assert_eq!(receive(&mut server).await, b"close_notify");
    }
}

/// A tunnel whose upstream has reset after its client was given everything.
async fn given_and_reset() -> (TcpStream, JoinHandle<Outcome>) {
    let mut tunnel = tunnel(&relay(1), open()).await;
    tunnel.server.write_all(b"everything").await.unwrap();
    tunnel.client.read_exact(&mut [0; 10]).await.unwrap();
    socket::reset_on_close(&tunnel.server);
    drop(tunnel.server);
    // The relay sees it before its client does anything, as far as that can be arranged.
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    (tunnel.client, tunnel.over)
}

#[tokio::test]
async fn a_reset_takes_nothing_from_a_client_that_is_about_to_close() {
    let (client, over) = given_and_reset().await;
    drop(client);
    assert_eq!(over.await.unwrap(), Ok(Ending::Closed));
}

#[tokio::test]
async fn a_client_that_stays_or_sends_more_was_not_done() {
    let aborted = Failure { side: Side::Upstream, cause: Cause::UpstreamAborted };
    let (client, over) = given_and_reset().await;
    assert_eq!(over.await.unwrap(), Err(Stop::Failed(aborted)));
    drop(client);
    let (mut client, over) = given_and_reset().await;
    client.write_all(b"more").await.unwrap();
    assert_eq!(over.await.unwrap(), Err(Stop::Failed(aborted)));
}
