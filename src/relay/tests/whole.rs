//! Whole tunnels, with real handshakes and broken ones.

use std::io;
use std::sync::OnceLock;

use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::hello::{ACCESS_DENIED, HelloReader, HelloStep, INTERNAL_ERROR};

pub(super) const NAME: &str = "contoso.azurecr.io";

pub(super) fn tls(version: &'static SupportedProtocolVersion) -> (TlsConnector, TlsAcceptor) {
    static MADE: OnceLock<rcgen::CertifiedKey<rcgen::KeyPair>> = OnceLock::new();
    let made = MADE.get_or_init(|| rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap());
    let certificate = made.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key.into())
        .unwrap();
    (TlsConnector::from(Arc::new(client)), TlsAcceptor::from(Arc::new(server)))
}

/// Reads the client's hello as the session does.
async fn hello(from: &mut (impl AsyncRead + Unpin)) -> Hello {
    let mut reader = HelloReader::new();
    let mut buffer = [0; 4096];
    loop {
        let read = from.read(&mut buffer).await.unwrap();
        assert!(read > 0);
        if let HelloStep::Complete(hello) = reader.feed(&buffer[..read]).unwrap() {
            return hello;
        }
    }
}

fn sides<C>(client: C, upstream: TcpStream) -> TunnelEnds<C> {
    TunnelEnds { client, upstream, terms: Box::new(idle(IDLE)) }
}

/// What became of a whole tunnel.
struct End {
    outcome: Outcome,
    up: Count,
    down: Count,
}

/// A tunnel whose client and server are at the other ends of what comes back.
async fn whole(stop: impl Future<Output = Stop> + Send + 'static) -> (Peers, JoinHandle<End>) {
    let (client, mut gate_client) = pair().await;
    let (gate_upstream, server) = pair().await;
    let over = tokio::spawn(async move {
        let relay = relay(2);
        let traffic = Traffic::default();
        let hello = Box::new(hello(&mut gate_client).await);
        let mut sides = sides(gate_client, gate_upstream);
        let carried = relay.carry_bare(&mut sides, hello, &traffic, pin!(stop)).await;
        let (up, down) = (traffic.up.count(), traffic.down.count());
        sides.closing(&carried).finish().await;
        End { outcome: carried.outcome, up, down }
    });
    (Peers { client, server }, over)
}

struct Peers {
    client: TcpStream,
    server: TcpStream,
}

/// A request, a download and an upload over TLS, closed in order.
async fn session(
    (connector, acceptor): (TlsConnector, TlsAcceptor),
    client: impl AsyncRead + AsyncWrite + Unpin,
    server: TcpStream,
    (up, down): (&[u8], &[u8]),
) {
    let client = async {
        let name = ServerName::try_from(NAME).unwrap();
        let mut client = connector.connect(name, client).await.unwrap();
        client.write_all(up).await.unwrap();
        client.flush().await.unwrap();
        let mut came = vec![0; down.len()];
        client.read_exact(&mut came).await.unwrap();
        assert!(came == down);
        client.shutdown().await.unwrap();
        let _ = client.read_to_end(&mut came).await;
    };
    let server = async {
        let mut server = acceptor.accept(server).await.unwrap();
        let mut came = vec![0; up.len()];
        server.read_exact(&mut came).await.unwrap();
        assert!(came == up);
        server.write_all(down).await.unwrap();
        let _ = server.read_to_end(&mut came).await;
        let _ = server.shutdown().await;
    };
    tokio::join!(client, server);
}

#[tokio::test]
async fn tls_passes_and_most_of_it_is_spliced() {
    let (up, down) = (noise(1, 2_000_000), noise(2, 6_000_000));
    for version in [&TLS12, &TLS13] {
        let (Peers { client, server }, over) = whole(pending()).await;
        session(tls(version), client, server, (&up, &down)).await;
        let end = over.await.unwrap();
        assert_eq!(end.outcome, Ok(Ending::Closed), "{version:?}");
        assert!(end.up.splice >= 1_900_000, "{version:?} {:?}", end.up);
        assert!(end.down.splice >= 5_500_000, "{version:?} {:?}", end.down);
    }
}

#[tokio::test]
async fn tls_behind_another_layer_is_copied() {
    let (up, down) = (noise(3, 700_000), noise(4, 2_000_000));
    for version in [&TLS12, &TLS13] {
        let (client, mut gate_client) = tokio::io::duplex(10_000);
        let (gate_upstream, server) = pair().await;
        let gate = async {
            let (relay, traffic) = (relay(2), Traffic::default());
            let hello = Box::new(hello(&mut gate_client).await);
            let mut sides = sides(gate_client, gate_upstream);
            let carried = relay.carry_layered(&mut sides, hello, &traffic, pin!(pending())).await;
            assert_eq!(carried.outcome, Ok(Ending::Closed), "{version:?}");
            sides.closing(&carried).finish().await;
            assert_eq!((traffic.up.count().splice, traffic.down.count().splice), (0, 0));
            assert!(traffic.total() > 2_700_000);
        };
        tokio::join!(gate, session(tls(version), client, server, (&up, &down)));
    }
}

/// A client's first flight.
fn first_flight() -> Vec<u8> {
    let name = ServerName::try_from(NAME).unwrap();
    let mut client = rustls::ClientConnection::new(tls(&TLS13).0.config().clone(), name).unwrap();
    let mut flight = Vec::new();
    client.write_tls(&mut flight).unwrap();
    flight
}

#[tokio::test]
async fn within_the_handshake_an_alert_tells() {
    let unaccepted = Stop::from(Reason::ServerHelloMalformed);
    let aborted = Failure { side: Side::Upstream, cause: Cause::UpstreamAborted };
    // What the server says before it closes, the outcome, and what the client reads.
    let cases: [(&[u8], Stop, [u8; 7]); 3] = [
        (b"SSH-2.0-OpenSSH_9.2\r\n", unaccepted.clone(), ACCESS_DENIED),
        (b"\x16\x03\x03\x00\x04\x0b\x00\x00\x00", unaccepted, ACCESS_DENIED),
        (b"", Stop::Failed(aborted), INTERNAL_ERROR),
    ];
    for (said, stop, alert) in cases {
        let (Peers { mut client, mut server }, over) = whole(pending()).await;
        client.write_all(&first_flight()).await.unwrap();
        let mut flight = vec![0; first_flight().len()];
        server.read_exact(&mut flight).await.unwrap();
        server.write_all(said).await.unwrap();
        server.shutdown().await.unwrap();
        assert_eq!(receive(&mut client).await, alert, "{stop}");
        drop(client);
        let end = over.await.unwrap();
        assert_eq!((end.outcome, end.down.total()), (Err(stop), 0));
    }
}

#[tokio::test]
async fn what_was_revoked_before_the_relay_sends_nothing() {
    let revoked = std::future::ready(Reason::PolicyRevoked.into());
    let (Peers { mut client, mut server }, over) = whole(revoked).await;
    client.write_all(&first_flight()).await.unwrap();
    assert_eq!(receive(&mut client).await, ACCESS_DENIED);
    drop(client);
    // It may be reset, which is as well.
    let mut came = Vec::new();
    let _ = server.read_to_end(&mut came).await;
    assert!(came.is_empty(), "{} bytes came to the server", came.len());
    let end = over.await.unwrap();
    assert_eq!((end.outcome, end.up.total()), (Err(Reason::PolicyRevoked.into()), 0));
}

#[tokio::test]
async fn a_stop_in_the_handshake_sends_an_alert_to_a_client_that_still_sends() {
    let (stop, stopped) = oneshot::channel();
    let stopped = async { stopped.await.unwrap() };
    let (Peers { mut client, mut server }, over) = whole(stopped).await;
    client.write_all(&first_flight()).await.unwrap();
    let mut flight = vec![0; first_flight().len()];
    server.read_exact(&mut flight).await.unwrap();
    // Unread bytes at the close would turn the alert into a reset.
    client.write_all(&[0; 100_000]).await.unwrap();
    stop.send(Reason::Draining.into()).unwrap();
    assert_eq!(receive(&mut client).await, ACCESS_DENIED);
    drop(client);
    assert_eq!(over.await.unwrap().outcome, Err(Reason::Draining.into()));
    let error = server.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_renegotiation_ends_the_client_in_order_and_resets_the_upstream() {
    let (connector, acceptor) = tls(&TLS12);
    let (Peers { client, server }, over) = whole(pending()).await;
    let name = ServerName::try_from(NAME).unwrap();
    let (client, server) = tokio::join!(connector.connect(name, client), acceptor.accept(server));
    let (mut client, mut server) = (client.unwrap().into_inner().0, server.unwrap());
    client.write_all(&record(22, 1, 300)).await.unwrap();
    // Nothing but the session's own tickets may come, then the end.
    receive(&mut client).await;
    drop(client);
    assert_eq!(over.await.unwrap().outcome, Err(Reason::Renegotiation.into()));
    let error = server.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_whole_tunnel_is_small() {
    let (client, mut gate_client) = pair().await;
    let (gate_upstream, _server) = pair().await;
    { client }.write_all(&first_flight()).await.unwrap();
    let hello = Box::new(hello(&mut gate_client).await);
    let traffic = Traffic::default();
    let relay = relay(0);
    let mut sides = sides(gate_client, gate_upstream);
    let stop = pin!(pending());
    let carried = relay.carry_bare(&mut sides, hello, &traffic, stop);
    let size = size_of_val(&carried);
    assert!(size <= 704, "{size} bytes");
}
