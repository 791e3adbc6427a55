//! rustls clients and servers on both sides of a running gate: TLS 1.2 and 1.3, key shares of
//! post-quantum size, hellos of 13 KiB, and a legal second hello.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::crypto::{ActiveKeyExchange, SharedSecret, SupportedKxGroup};
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, Error, HandshakeKind, NamedGroup, RootCertStore, ServerConfig,
    SupportedProtocolVersion,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::cases::drafts::NAME;
use crate::site::{CONNECT, Feeding, PATIENT, Site, on_a_site};

/// A group with the name and sizes of X25519MLKEM768: X25519 after padding bytes.
#[derive(Debug)]
struct HybridSized;

/// Size of an ML-KEM-768 encapsulation key and of a ciphertext, in bytes (FIPS 203, table 3).
const ENCAPSULATION_KEY: usize = 1184;
const CIPHERTEXT: usize = 1088;

struct Exchange {
    x25519: Box<dyn ActiveKeyExchange>,
    share: Vec<u8>,
}

impl Exchange {
    fn behind(filler: usize) -> Result<Self, Error> {
        let x25519 = kx_group::X25519.start()?;
        let share = [&vec![0x5a; filler], x25519.pub_key()].concat();
        Ok(Self { x25519, share })
    }
}

impl SupportedKxGroup for HybridSized {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        Ok(Box::new(Exchange::behind(ENCAPSULATION_KEY)?))
    }

    fn start_and_complete(
        &self,
        client: &[u8],
    ) -> Result<rustls::crypto::CompletedKeyExchange, Error> {
        let exchange = Exchange::behind(CIPHERTEXT)?;
        let pub_key = exchange.share.clone();
        let secret = exchange.x25519.complete(&client[ENCAPSULATION_KEY..])?;
        Ok(rustls::crypto::CompletedKeyExchange { group: self.name(), pub_key, secret })
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519MLKEM768
    }
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, server: &[u8]) -> Result<SharedSecret, Error> {
        self.x25519.complete(&server[CIPHERTEXT..])
    }

    fn pub_key(&self) -> &[u8] {
        &self.share
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519MLKEM768
    }
}

type Groups = Vec<&'static dyn SupportedKxGroup>;

struct Pair {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
}

fn pair(version: &'static SupportedProtocolVersion, client: Groups, server: Groups) -> Pair {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider =
        |kx_groups| Arc::new(rustls::crypto::CryptoProvider { kx_groups, ..default_provider() });
    let mut connects = ClientConfig::builder_with_provider(provider(client))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    connects.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut accepts = ServerConfig::builder_with_provider(provider(server))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key.into())
        .unwrap();
    accepts.alpn_protocols = vec![b"http/1.1".to_vec()];
    Pair { connector: Arc::new(connects).into(), acceptor: Arc::new(accepts).into() }
}

impl Pair {
    /// Adds 52 protocols of 255 bytes, which makes the hello about 13 KiB larger.
    fn with_a_long_hello(self) -> Self {
        let mut connects = self.connector.config().as_ref().clone();
        let invented = (0..52_u8).map(|number| vec![number; 255]);
        connects.alpn_protocols.extend(invented);
        connects.resumption = Resumption::disabled();
        Self { connector: Arc::new(connects).into(), acceptor: self.acceptor }
    }

    /// Runs a session with 100 kB in each direction. Returns the kind of handshake.
    async fn session(&self, site: &Site, to: SocketAddr) -> HandshakeKind {
        let mut client = site.client(to).await;
        if to == site.connect {
            client.send(CONNECT.as_bytes(), Feeding::Whole).await;
            assert!(client.head().await.starts_with("HTTP/1.1 200 "));
        }
        let serving = async {
            let upstream = site.dialled().await;
            let mut tls = self.acceptor.accept(upstream.stream).await.unwrap();
            let mut request = vec![0; 100_000];
            tls.read_exact(&mut request).await.unwrap();
            assert!(request.iter().all(|byte| *byte == b'q'));
            tls.write_all(&[b'a'; 100_000]).await.unwrap();
            tls.shutdown().await.unwrap();
        };
        let asking = async {
            let name = ServerName::try_from(NAME).unwrap();
            let mut tls = self.connector.connect(name, client.stream).await.unwrap();
            tls.write_all(&[b'q'; 100_000]).await.unwrap();
            let mut reply = Vec::new();
            tls.read_to_end(&mut reply).await.unwrap();
            assert_eq!(reply, [b'a'; 100_000]);
            tls.get_ref().1.handshake_kind().unwrap()
        };
        tokio::join!(asking, serving).0
    }
}

#[test]
fn rustls_passes_with_every_key_share_and_size_of_hello() {
    use HandshakeKind::{Full, FullWithHelloRetryRequest, Resumed};
    let (x25519, p256) = (kx_group::X25519, kx_group::SECP256R1);
    on_a_site(PATIENT, async |site| {
        for (case, pair, expected) in [
            ("1.2", pair(&TLS12, vec![x25519], vec![x25519]), Full),
            ("1.3", pair(&TLS13, vec![x25519], vec![x25519]), Full),
            ("1.3, retried", pair(&TLS13, vec![x25519, p256], vec![p256]), {
                FullWithHelloRetryRequest
            }),
            ("hybrid", pair(&TLS13, vec![&HybridSized, x25519], vec![&HybridSized]), Full),
            ("hybrid, retried", pair(&TLS13, vec![&HybridSized, x25519], vec![x25519]), {
                FullWithHelloRetryRequest
            }),
        ] {
            assert_eq!(pair.session(&site, site.connect).await, expected, "{case}");
            assert_eq!(pair.session(&site, site.transparent).await, Resumed, "{case}");
            let long = pair.with_a_long_hello();
            for to in [site.connect, site.transparent] {
                assert_eq!(long.session(&site, to).await, expected, "{case}, 13 KiB");
            }
        }
        let lines = site.close().await;
        assert_eq!(lines.len(), 20);
        for line in lines.values() {
            assert_eq!(line["outcome"], "relayed", "{line}");
            assert!(line["bytes-up"].as_u64().unwrap() > 100_000, "{line}");
        }
    });
}
