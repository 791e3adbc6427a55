//! The handshake bytes that rustls sends as client and as server.

use std::sync::Arc;

use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

/// Returns a TLS 1.3 hello for `name`, with `padding` bytes of padding in its ALPN, and a server's
/// answer to it.
pub fn flights(name: &'static str, padding: usize) -> (Vec<u8>, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = &[&rustls::version::TLS13];
    let client = ClientConfig::builder_with_provider(provider.clone());
    let client = client.with_protocol_versions(versions).unwrap();
    let mut client = client.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    client.alpn_protocols = vec![vec![b'x'; 128]; padding / 128];
    let server = ServerConfig::builder_with_provider(provider);
    let server = server.with_protocol_versions(versions).unwrap().with_no_client_auth();
    let server = server.with_single_cert(vec![made.cert.der().clone()], key.into()).unwrap();

    let name = ServerName::try_from(name).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let (mut hello, mut answer) = (Vec::new(), Vec::new());
    client.write_tls(&mut hello).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    server.read_tls(&mut hello.as_slice()).unwrap();
    server.process_new_packets().unwrap();
    while server.wants_write() {
        server.write_tls(&mut answer).unwrap();
    }
    (hello, answer)
}
