//! rustls' own client and server, driven in memory through the reader, the guard and the watch.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, RootCertStore, ServerConfig,
    ServerConnection, SupportedProtocolVersion,
};

use crate::cases::cut;
use crate::cases::drafts::NAME;
use crate::hello::{Guard, HEADER, HelloReader, HelloStep, Onward, Output, RecordWatch};

/// What the two are set to.
struct Pair {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Groups {
    Shared,
    /// The server does not take the group that the client sends a share of.
    OnlyTheClientsSecond,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ClientCertificate {
    None,
    Asked,
}

impl Pair {
    fn new(
        version: &'static SupportedProtocolVersion,
        groups: Groups,
        certificate: ClientCertificate,
    ) -> Self {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
        let chain = vec![made.cert.der().clone()];
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(chain[0].clone()).unwrap();
        let roots = Arc::new(roots);

        let mut provider = default_provider();
        provider.kx_groups = match groups {
            Groups::Shared => vec![kx_group::X25519],
            Groups::OnlyTheClientsSecond => vec![kx_group::SECP256R1],
        };
        let provider = Arc::new(provider);
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[version])
            .unwrap();
        let builder = match certificate {
            ClientCertificate::None => builder.with_no_client_auth(),
            ClientCertificate::Asked => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(roots.clone(), provider)
                    .allow_unauthenticated()
                    .build()
                    .unwrap(),
            ),
        };
        let server = builder.with_single_cert(chain.clone(), key.clone_key()).unwrap();

        let mut provider = default_provider();
        provider.kx_groups = vec![kx_group::X25519, kx_group::SECP256R1];
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .unwrap()
            .with_root_certificates(roots);
        let mut client = match certificate {
            ClientCertificate::None => builder.with_no_client_auth(),
            ClientCertificate::Asked => builder.with_client_auth_cert(chain, key).unwrap(),
        };
        client.resumption = Resumption::in_memory_sessions(8);
        Self { client: Arc::new(client), server: Arc::new(server) }
    }

    /// One session through the gate: a request, a reply, and what the two say of it.
    fn session(&self, request: &[u8], seed: u64) -> (ProtocolVersion, HandshakeKind) {
        let name = ServerName::try_from(NAME).unwrap();
        let mut client = ClientConnection::new(self.client.clone(), name).unwrap();
        let mut server = ServerConnection::new(self.server.clone()).unwrap();
        let mut gate = Gate::Hello(HelloReader::new());
        client.set_buffer_limit(None);
        client.writer().write_all(request).unwrap();
        let mut received = Vec::new();
        let mut answered = Vec::new();
        let mut idle = 0;
        while idle < 3 {
            let mut up = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut up).unwrap();
            }
            let mut passed = Output::default();
            for chunk in cut(&up, seed) {
                gate.client(chunk, &mut passed);
            }
            deliver(&passed.to_server, |bytes| {
                server.read_tls(bytes).unwrap();
                server.process_new_packets().unwrap();
                let _ = server.reader().read_to_end(&mut received);
            });
            if received.len() == request.len() && answered.is_empty() && server.wants_read() {
                server.writer().write_all(b"well received").unwrap();
                answered.push(0);
            }
            let mut down = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut down).unwrap();
            }
            let mut passed = Output::default();
            for chunk in cut(&down, seed) {
                gate.server(chunk, &mut passed);
            }
            let mut reply = Vec::new();
            deliver(&passed.to_client, |bytes| {
                client.read_tls(bytes).unwrap();
                client.process_new_packets().unwrap();
                let _ = client.reader().read_to_end(&mut reply);
            });
            answered.extend(reply);
            idle = if up.is_empty() && down.is_empty() { idle + 1 } else { 0 };
        }
        assert_eq!(received, request);
        assert_eq!(answered, b"\0well received");
        assert!(matches!(gate, Gate::Through { .. }), "the guard is done");
        (server.protocol_version().unwrap(), server.handshake_kind().unwrap())
    }
}

fn deliver(mut bytes: &[u8], mut to: impl FnMut(&mut &[u8])) {
    while !bytes.is_empty() {
        to(&mut bytes);
    }
}

/// The gate as a relay would drive it.
enum Gate {
    Hello(HelloReader),
    Guarded(Box<Guard>),
    Through { upload: Option<Upload> },
}

struct Upload {
    watch: RecordWatch,
    header: Vec<u8>,
}

impl Gate {
    fn client(&mut self, bytes: &[u8], out: &mut Output) {
        match self {
            Self::Hello(reader) => {
                if let HelloStep::Complete(hello) = reader.feed(bytes).unwrap() {
                    assert_eq!(hello.facts.server_name().as_str(), NAME);
                    out.to_server.extend(hello.raw);
                    *self = Self::Guarded(Box::new(Guard::new(hello.facts)));
                }
            }
            Self::Guarded(guard) => {
                assert!(!guard.is_servers_turn());
                guard.client(bytes, out).unwrap();
                self.go_on();
            }
            Self::Through { upload: None } => out.to_server.extend(bytes),
            Self::Through { upload: Some(upload) } => upload.pass(bytes, &mut out.to_server),
        }
    }

    fn server(&mut self, bytes: &[u8], out: &mut Output) {
        match self {
            Self::Hello(_) => panic!("the server speaks first"),
            Self::Guarded(guard) => {
                guard.server(bytes, out).unwrap();
                self.go_on();
            }
            Self::Through { .. } => out.to_client.extend(bytes),
        }
    }

    fn go_on(&mut self) {
        let Self::Guarded(guard) = self else { return };
        match guard.onward() {
            None => {}
            Some(Onward::Free) => *self = Self::Through { upload: None },
            Some(Onward::Records(watch)) => {
                *self = Self::Through { upload: Some(Upload { watch, header: Vec::new() }) };
            }
        }
    }
}

impl Upload {
    fn pass(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let left = self.watch.payload_left();
            if left > 0 {
                let (payload, rest) = bytes.split_at(left.min(bytes.len()));
                out.extend(payload);
                self.watch.moved(payload.len());
                bytes = rest;
                continue;
            }
            self.header.push(bytes[0]);
            bytes = &bytes[1..];
            if let Ok(header) = <[u8; HEADER]>::try_from(self.header.as_slice()) {
                self.watch.header(header).unwrap();
                out.append(&mut self.header);
            }
        }
    }
}

#[test]
fn real_peers_pass() {
    use ClientCertificate::{Asked, None};
    use Groups::{OnlyTheClientsSecond, Shared};
    use ProtocolVersion::{TLSv1_2, TLSv1_3};
    let long = vec![b'x'; 100_000];
    for (version, groups, certificate, expected) in [
        (&TLS13, Shared, None, (TLSv1_3, HandshakeKind::Full)),
        (&TLS13, Shared, Asked, (TLSv1_3, HandshakeKind::Full)),
        (&TLS13, OnlyTheClientsSecond, None, {
            (TLSv1_3, HandshakeKind::FullWithHelloRetryRequest)
        }),
        (&TLS12, Shared, None, (TLSv1_2, HandshakeKind::Full)),
        (&TLS12, Shared, Asked, (TLSv1_2, HandshakeKind::Full)),
        (&TLS12, OnlyTheClientsSecond, None, (TLSv1_2, HandshakeKind::Full)),
    ] {
        for (seed, request) in [&b"GET /v2/ HTTP/1.1"[..], &long].into_iter().enumerate() {
            let pair = Pair::new(version, groups, certificate);
            assert_eq!(pair.session(request, seed as u64), expected);
            let (again, kind) = pair.session(request, seed as u64 + 10);
            assert_eq!(again, expected.0);
            assert_eq!(kind, HandshakeKind::Resumed);
        }
    }
}
