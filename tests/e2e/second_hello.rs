//! The second-hello attack against a real server: the first ClientHello names the allowed host and
//! has a key share that the server cannot use; the server sends a HelloRetryRequest; the second
//! ClientHello names another host. OpenSSL and nginx accept that.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::harness::{Blobs, Lab, PATIENCE, Policy};

const ALLOWED: &str = "contoso.eastus.data.azurecr.io";
const OTHER: &str = "fabrikam.eastus.data.azurecr.io";

pub const SECP521R1: u16 = 0x0019;
pub const X25519: u16 = 0x001d;

pub const ALERT: u8 = 21;
pub const HANDSHAKE: u8 = 22;
pub const ACCESS_DENIED: u8 = 49;

/// RFC 8446, section 4.1.3: a ServerHello with this random is a HelloRetryRequest.
pub const RETRY: [u8; 4] = [0xcf, 0x21, 0xad, 0x74];

#[test]
pub fn a_second_hello_with_another_name_is_cut() {
    let lab = Lab::new(Blobs::DataEndpoint);
    // Without the gate, the server continues with the other name.
    let mut direct = TcpStream::connect((ALLOWED, 443)).unwrap();
    assert_retried(&mut direct, ALLOWED);
    direct.write_all(&hello(OTHER, X25519)).unwrap();
    let (kind, answer) = record(&mut direct);
    assert!(kind == HANDSHAKE && answer[6..10] != RETRY, "the attack works on the server");

    let gate = lab.gate(&Policy::of(&["contoso"]));
    let mut gated = tunnel(ALLOWED);
    assert_retried(&mut gated, ALLOWED);
    gated.write_all(&hello(OTHER, X25519)).unwrap();
    let (kind, answer) = record(&mut gated);
    assert_eq!((kind, answer), (ALERT, vec![2, ACCESS_DENIED]));
    assert_eq!(gated.read(&mut [0; 1]).unwrap(), 0, "closed in order");
    let line = gate.audited(&[("reason", "second-hello-mismatch")]);
    assert_eq!(line["outcome"], "denied", "{line}");

    // With the same name, the client is legal.
    let mut honest = tunnel(ALLOWED);
    assert_retried(&mut honest, ALLOWED);
    honest.write_all(&hello(ALLOWED, X25519)).unwrap();
    let (kind, answer) = record(&mut honest);
    assert!(kind == HANDSHAKE && answer[6..10] != RETRY, "{kind}: {answer:02x?}");
}

/// Sends the first hello and reads the HelloRetryRequest.
#[track_caller]
pub fn assert_retried(stream: &mut TcpStream, name: &str) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&hello(name, SECP521R1)).unwrap();
    let (kind, answer) = record(stream);
    assert!(kind == HANDSHAKE && answer[6..10] == RETRY, "{kind}: {answer:02x?}");
    // The ChangeCipherSpec that OpenSSL sends for middlebox compatibility.
    assert_eq!(record(stream), (20, vec![1]));
}

/// Opens a tunnel to a host through the gate.
#[track_caller]
pub fn tunnel(host: &str) -> TcpStream {
    let mut stream = TcpStream::connect("127.0.0.1:3128").unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend_from_slice(&byte);
    }
    assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head));
    stream
}

pub fn record(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut header = [0; 5];
    stream.read_exact(&mut header).unwrap();
    let mut body = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
    stream.read_exact(&mut body).unwrap();
    (header[0], body)
}

/// Builds a TLS 1.3 ClientHello in one record, with one key share.
pub fn hello(name: &str, share: u16) -> Vec<u8> {
    hello_with(name, share, &[], &[])
}

/// The same, with cipher suites and extensions beside the usual ones.
pub fn hello_with(name: &str, share: u16, suites: &[u8], more: &[(u16, &[u8])]) -> Vec<u8> {
    let server_name = sized16(&[&[0], sized16(&[name.as_bytes()]).as_slice()]);
    let groups = [SECP521R1, X25519].map(u16::to_be_bytes).concat();
    let signatures = [0x0403, 0x0804, 0x0401, 0x0503, 0x0805].map(u16::to_be_bytes).concat();
    let key = vec![9; if share == X25519 { 32 } else { 133 }];
    let entry = [share.to_be_bytes().as_slice(), &sized16(&[&key])].concat();
    let extensions: Vec<Vec<u8>> = [
        extension(0, &server_name),
        extension(10, &sized16(&[&groups])),
        extension(13, &sized16(&[&signatures])),
        extension(43, &[2, 3, 4]),
        extension(51, &sized16(&[&entry])),
    ]
    .into_iter()
    .chain(more.iter().map(|(kind, body)| extension(*kind, body)))
    .collect();
    let extensions = extensions.concat();
    let session = [&[32], [7; 32].as_slice()].concat();
    let suites = sized16(&[&[0x13, 0x01, 0x13, 0x02, 0x13, 0x03], suites]);
    let body = [[3, 3].as_slice(), &[5; 32], &session, &suites, &[1, 0], &sized16(&[&extensions])]
        .concat();
    let handshake = [[1, 0].as_slice(), &sized16(&[&body])].concat();
    [[HANDSHAKE, 3, 1].as_slice(), &sized16(&[&handshake])].concat()
}

fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    [kind.to_be_bytes().as_slice(), &sized16(&[body])].concat()
}

fn sized16(parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [u16::try_from(body.len()).unwrap().to_be_bytes().as_slice(), &body].concat()
}
