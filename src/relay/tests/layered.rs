//! Tunnels with TLS to the gate on either side, over real sockets.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::SupportedProtocolVersion;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use tokio::io::ReadBuf;
use tokio_rustls::{client, server};
use tokio_util::either::Either;

use super::super::copy::{CopyState, MANY};
use super::budget::bounded;
use super::whole::{NAME, tls};
use super::*;
use crate::policy::{Budget, Enforcement};

type FromClient = Either<TcpStream, Box<server::TlsStream<TcpStream>>>;
type ToUpstream = Either<TcpStream, Box<client::TlsStream<TcpStream>>>;

/// A connection in TLS: the end that began it, and the other.
async fn tls_pair(
    version: &'static SupportedProtocolVersion,
) -> (client::TlsStream<TcpStream>, server::TlsStream<TcpStream>) {
    let (connector, acceptor) = tls(version);
    let (near, far) = pair().await;
    let name = ServerName::try_from(NAME).unwrap();
    let (near, far) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
    (near.unwrap(), far.unwrap())
}

/// Which sides speak TLS to the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InTls {
    Client,
    Upstream,
    Both,
}

/// A tunnel through a gate: its client, its server, and what becomes of it.
struct Through {
    client: Box<dyn End>,
    server: Box<dyn End>,
    traffic: Arc<Traffic>,
    over: JoinHandle<Outcome>,
}

trait End: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> End for T {}

async fn layered(
    (sides, version): (InTls, &'static SupportedProtocolVersion),
    relay: Arc<Relay>,
    traffic: Arc<Traffic>,
) -> Through {
    let (client, from_client): (Box<dyn End>, FromClient) = match sides {
        InTls::Upstream => {
            let (near, far) = pair().await;
            (Box::new(near), Either::Left(far))
        }
        InTls::Client | InTls::Both => {
            let (near, far) = tls_pair(version).await;
            (Box::new(near), Either::Right(Box::new(far)))
        }
    };
    let (to_upstream, server): (ToUpstream, Box<dyn End>) = match sides {
        InTls::Client => {
            let (near, far) = pair().await;
            (Either::Left(near), Box::new(far))
        }
        InTls::Upstream | InTls::Both => {
            let (near, far) = tls_pair(version).await;
            (Either::Right(Box::new(near)), Box::new(far))
        }
    };
    let over = tokio::spawn({
        let traffic = traffic.clone();
        let (mut client, mut upstream) = (from_client, to_upstream);
        async move {
            let terms = idle(IDLE);
            let (terms, stalls) = (&terms, &relay.stalls);
            let stop = pin!(pending::<Stop>());
            let life = TunnelContext { traffic: &traffic, terms, stalls, stop };
            relay.copy_both(&mut client, &mut upstream, open(), life).await
        }
    });
    Through { client, server, traffic, over }
}

async fn sent_in_pieces(mut to: impl AsyncWrite + Unpin, bytes: &[u8], piece: usize) {
    for piece in bytes.chunks(piece) {
        to.write_all(piece).await.unwrap();
        to.flush().await.unwrap();
    }
    to.shutdown().await.unwrap();
}

async fn received_whole(mut from: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_arrives_in_order_once() {
    // Bytes up, bytes down, bytes a write.
    let cases = [
        (0, 0, 1),
        (1, 1, 1),
        (100_000, 1_000_000, 1_400),
        (2_000_000, 2_000_000, 65_536),
        (2_000_000, 100, 16_384),
        (100, 2_000_000, MANY + 1),
    ];
    for sides in [InTls::Client, InTls::Upstream, InTls::Both] {
        for (version, batch) in [(&TLS12, Some(BATCH)), (&TLS13, Some(BATCH)), (&TLS13, None)] {
            for (seed, (up, down, piece)) in (1..).step_by(2).zip(cases) {
                let relay = Arc::new(Relay::new(RelaySettings { batch, ..settings(0) }));
                let tunnel = layered((sides, version), relay, Arc::default()).await;
                let (up, down) = (noise(seed, up), noise(seed + 1, down));
                let (from_server, to_server) = tokio::io::split(tunnel.client);
                let (from_client, to_client) = tokio::io::split(tunnel.server);
                let ((), (), came_up, came_down) = tokio::join!(
                    sent_in_pieces(to_server, &up, piece),
                    sent_in_pieces(to_client, &down, piece),
                    received_whole(from_client),
                    received_whole(from_server),
                );
                assert!(came_up == up && came_down == down, "{sides:?} {piece}");
                assert_eq!(tunnel.over.await.unwrap(), Ok(Ending::Closed));
                let copied = |bytes: &[u8]| Count { splice: 0, copy: bytes.len() as u64 };
                let Traffic { up: sent, down: received, .. } = &*tunnel.traffic;
                assert_eq!((sent.count(), received.count()), (copied(&up), copied(&down)));
            }
        }
    }
}

#[tokio::test]
async fn a_budget_holds_to_the_byte() {
    for (length, outcome) in
        [(50_000, Ok(Ending::Closed)), (50_001, Err(Reason::UploadBudget.into()))]
    {
        for piece in [100, 16_384, 50_001] {
            let traffic = bounded(Enforcement::Enforce);
            let tunnel = layered((InTls::Client, &TLS13), relay(0), traffic).await;
            let up = noise(1, length);
            let Through { client, mut server, over, .. } = tunnel;
            let (mut from_server, mut to_server) = tokio::io::split(client);
            let mut came = Vec::new();
            let pushing = async {
                for piece in up.chunks(piece) {
                    // The gate may have closed.
                    let _ = to_server.write_all(piece).await;
                }
                let _ = to_server.shutdown().await;
            };
            let serving = async {
                let _ = server.read_to_end(&mut came).await;
                let _ = server.shutdown().await;
            };
            let mut nothing = Vec::new();
            let closing = from_server.read_to_end(&mut nothing);
            let ((), (), _) = tokio::join!(pushing, serving, closing);
            assert_eq!(over.await.unwrap(), outcome, "{piece}");
            assert!(came == up[..length.min(50_000)], "{} came in pieces of {piece}", came.len());
        }
    }
}

#[tokio::test]
async fn what_comes_before_a_broken_record_arrives() {
    let (mut client, mut gate_client) = tls_pair(&TLS13).await;
    let (mut gate_upstream, server) = pair().await;
    // More than is read at once while a flow brings little.
    let bytes = noise(1, 200_000);
    client.write_all(&bytes).await.unwrap();
    client.get_mut().0.write_all(&record(23, 1, 100)).await.unwrap();
    let gate = async {
        let (relay, terms, traffic) = (relay(0), idle(IDLE), Traffic::default());
        let (terms, stalls) = (&terms, &relay.stalls);
        let stop = pin!(pending::<Stop>());
        let life = TunnelContext { traffic: &traffic, terms, stalls, stop };
        let over = relay.copy_both(&mut gate_client, &mut gate_upstream, open(), life).await;
        drop((gate_client, gate_upstream));
        over
    };
    let (over, came) = tokio::join!(gate, receive_what_comes(server));
    // As after a reset: it had got everything.
    assert_eq!(over, Ok(Ending::Closed));
    assert!(came == bytes, "{} came", came.len());
    let alert = client.read(&mut [0; 100]).await.unwrap_err().to_string();
    assert!(alert.contains("BadRecordMac"), "{alert}");
}

#[tokio::test]
async fn bulk_bytes_below_the_low_water_mark_arrive() {
    for ends in [false, true] {
        let relay = relay(0);
        let (mut from, mut server) = tls_pair(&TLS13).await;
        let (mut client, mut to) = tls_pair(&TLS13).await;
        let traffic = Traffic::default();
        let mut way = OneWay::<CopyState>::down(relay.now());
        way.wakeup.make_bulk(Pace::bulk(relay.now()), &relay, from.get_ref().0);
        server.write_all(b"a few bytes").await.unwrap();
        if ends {
            server.shutdown().await.unwrap();
        }
        let mut carried =
            pin!(poll_fn(|context| way.poll(context, &relay, &traffic, (&mut from, &mut to))));
        let read = async {
            let mut few = [0; 11];
            client.read_exact(&mut few).await.unwrap();
            assert_eq!(&few, b"a few bytes");
            if !ends {
                server.shutdown().await.unwrap();
            }
        };
        let (carried, ()) = tokio::join!(carried.as_mut(), read);
        assert!(carried.is_ok());
    }
}

#[tokio::test]
async fn a_look_moves_what_is_below_the_low_water_mark() {
    for in_tls in [false, true] {
        let relay = relay(0);
        let (mut from, mut server): (ToUpstream, Box<dyn End>) = if in_tls {
            let (near, far) = tls_pair(&TLS13).await;
            (Either::Right(Box::new(near)), Box::new(far))
        } else {
            let (near, far) = pair().await;
            (Either::Left(near), Box::new(far))
        };
        let (mut client, mut to) = tls_pair(&TLS13).await;
        let traffic = Traffic::default();
        let mut way = OneWay::<CopyState>::down(relay.now());
        way.wakeup.make_bulk(Pace::bulk(relay.now()), &relay, from.socket());
        server.write_all(&noise(1, 100_000)).await.unwrap();
        server.flush().await.unwrap();
        let read = async {
            let mut came = vec![0; 100_000];
            client.read_exact(&mut came).await.unwrap();
            assert!(came == noise(1, 100_000));
        };
        {
            let mut carried =
                pin!(poll_fn(|context| way.poll(context, &relay, &traffic, (&mut from, &mut to))));
            tokio::select! {
                carried = carried.as_mut() => panic!("it is over: {carried:?}"),
                () = read => {}
            }
        }
        // Had the look found nothing, the flow would be bulk no longer.
        assert_eq!(socket::low_water(from.socket()), 256 * 1024, "in TLS: {in_tls}");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_one_piece() {
    let (client, mut gate_client) = tls_pair(&TLS13).await;
    let (mut gate_upstream, server) = pair().await;
    SockRef::from(client.get_ref().0).set_recv_buffer_size(64 * 1024).unwrap();
    let bytes = noise(5, 64 * 1024 * 1024);
    let (relay, terms, traffic) = (relay(0), idle(IDLE), Traffic::default());
    {
        let (terms, stalls) = (&terms, &relay.stalls);
        let stop = pin!(pending::<Stop>());
        let life = TunnelContext { traffic: &traffic, terms, stalls, stop };
        let gate = relay.copy_both(&mut gate_client, &mut gate_upstream, open(), life);
        tokio::select! {
            over = gate => panic!("{over:?}"),
            sent = write_until_full(&server, &bytes) => assert!(sent < bytes.len(), "it stalls"),
        }
    }
    // Everything else is in the kernel, and less than all that was read before.
    let mut held = Vec::new();
    gate_client.get_mut().1.write_tls(&mut held).unwrap();
    assert!((1..=MANY + 1024).contains(&held.len()), "{} bytes", held.len());
}

/// A session in which records arrive without end, and none has content, as a KeyUpdate.
struct Endless;

impl TlsSession for Endless {
    fn feed(&mut self, _: &mut dyn io::Read) -> io::Result<usize> {
        Ok(22)
    }

    fn take(&mut self, _: &mut ReadBuf<'_>) -> io::Result<bool> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn check(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn has_read(&mut self) -> bool {
        true
    }

    fn write_to(&mut self, _: &mut dyn io::Write) -> io::Result<usize> {
        Ok(0)
    }

    fn accept_at_most(&mut self, _: usize) {}
}

/// A client with such a session.
struct EndlessEnd(TcpStream, Endless);

impl TunnelEnd for EndlessEnd {
    fn bare(&self) -> Option<&TcpStream> {
        Some(&self.0)
    }

    fn layer(&mut self) -> Layer<'_> {
        Layer::Tls(TlsEnd::new(&self.0, &mut self.1))
    }
}

impl AsyncRead for EndlessEnd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for EndlessEnd {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn records_without_content_keep_nobody_waiting() {
    let ((_client, near), (mut upstream, _server)) = (pair().await, pair().await);
    let mut client = EndlessEnd(near, Endless);
    for allowed in [1_000, 0] {
        let (relay, traffic) = (relay(0), Traffic::default());
        let budget = Budget { base_bytes: allowed, ratio_percent: 0, request_bytes: 0 };
        traffic.bounds.set(Some(budget), Enforcement::Enforce);
        let mut way = OneWay::<CopyState>::up(Flow::Open, None, relay.now());
        let turn = poll_fn(|context| {
            Poll::Ready(way.poll(context, &relay, &traffic, (&mut client, &mut upstream)))
        });
        assert!(turn.await.is_pending(), "its turn ends, with {allowed} bytes allowed");
    }
}
