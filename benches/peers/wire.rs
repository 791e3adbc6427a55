//! The bytes between client and origin: a real ClientHello, a matching ServerHello, and then
//! prepared records of type 23, so that bulk transfers need no cryptography.
//!
//! The client's first record is an [`Order`], which defines the purpose of the connection. The same
//! orders are used inside real TLS.

use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

/// Allowed host for small requests and pushes.
pub const LOGIN: &str = "contoso.azurecr.io";
/// Allowed host for layers. pullgate applies an upload budget to it.
pub const DATA: &str = "contoso.eastus.data.azurecr.io";

/// With this ALPN protocol, a hello requests prepared records instead of real TLS.
const READY_MADE: &[u8] = b"ready-made";

/// The header of a TLS record, in bytes.
const HEADER: usize = 5;
/// Offset of the session id in a hello: after the record header, the message header, the version
/// and the random.
const SESSION_ID: usize = HEADER + 4 + 2 + 32;
/// The payload of a full record: 16 KiB plus the overhead of TLS 1.3.
const FULL: usize = 16 * 1024 + 17;
/// Number of full records per buffer.
const BATCH: usize = 64;
/// Size of the origin's first flight besides its ServerHello (certificates and so on), in bytes.
const CERTIFICATES: usize = 2_500;

const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// The TLS version of the records after the hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// The gate checks no records after the ServerHello.
    Tls13,
    /// The gate checks every record of the upload.
    Tls12,
}

/// A ClientHello made by rustls.
#[derive(Debug, Clone)]
pub struct Hello {
    /// The host in its SNI.
    pub host: &'static str,
    pub framing: Framing,
    pub bytes: Vec<u8>,
}

impl Hello {
    pub fn new(host: &'static str, framing: Framing) -> anyhow::Result<Self> {
        let versions: &[&'static SupportedProtocolVersion] = match framing {
            Framing::Tls13 => rustls::ALL_VERSIONS,
            Framing::Tls12 => &[&rustls::version::TLS12],
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = vec![READY_MADE.to_vec()];
        let name = ServerName::try_from(host)?;
        let mut connection = ClientConnection::new(Arc::new(config), name)?;
        let mut bytes = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut bytes)?;
        }
        Ok(Self { host, framing, bytes })
    }

    /// Size of the origin's answer, in bytes.
    pub fn answer_length(&self) -> usize {
        first_flight(&self.bytes).len()
    }
}

/// Whether the tunnel after this hello uses prepared records.
pub fn is_ready_made(hello: &[u8]) -> bool {
    hello.windows(READY_MADE.len()).any(|part| part == READY_MADE)
}

/// The version that an origin chooses: the highest offered one.
pub fn framing(hello: &[u8]) -> Framing {
    match supported_versions(hello) {
        Some(versions) if versions.chunks(2).any(|version| version == [3, 4]) => Framing::Tls13,
        _ => Framing::Tls12,
    }
}

/// Returns the content of an extension of the hello. rustls shuffles the extensions.
fn supported_versions(hello: &[u8]) -> Option<&[u8]> {
    const SUPPORTED_VERSIONS: [u8; 2] = [0, 43];
    let (_, rest) = vector8(hello.get(SESSION_ID..)?)?;
    let (_, rest) = vector16(rest)?; // cipher suites
    let (_, rest) = vector8(rest)?; // compression methods
    let (mut extensions, _) = vector16(rest)?;
    while let Some((kind, rest)) = extensions.split_first_chunk::<2>() {
        let (content, rest) = vector16(rest)?;
        if *kind == SUPPORTED_VERSIONS {
            return vector8(content).map(|(versions, _)| versions);
        }
        extensions = rest;
    }
    None
}

/// Splits off a vector with a one-byte length.
fn vector8(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

/// Splits off a vector with a two-byte length.
fn vector16(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

fn record(kind: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&[kind, 3, 3]);
    out.extend_from_slice(&u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(payload);
}

/// Returns an origin's answer to a hello.
pub fn first_flight(hello: &[u8]) -> Vec<u8> {
    let session_id = vector8(hello.get(SESSION_ID..).unwrap_or_default());
    let session_id = session_id.map(|(session_id, _)| session_id).unwrap_or_default();
    let mut body = vec![3, 3];
    body.extend_from_slice(&[0x5a; 32]);
    let mut out = Vec::new();
    match framing(hello) {
        Framing::Tls13 => {
            body.push(session_id.len() as u8);
            body.extend_from_slice(session_id);
            body.extend_from_slice(&[0x13, 0x01, 0]);
            let mut extensions = vec![0, 43, 0, 2, 3, 4, 0, 51, 0, 36, 0, 29, 0, 32];
            extensions.extend_from_slice(&[0x77; 32]);
            body.extend_from_slice(&(extensions.len() as u16).to_be_bytes());
            body.extend_from_slice(&extensions);
            record(HANDSHAKE, &message(2, &body), &mut out);
            record(CHANGE_CIPHER_SPEC, &[1], &mut out);
            record(APPLICATION_DATA, &[0x11; CERTIFICATES], &mut out);
        }
        Framing::Tls12 => {
            body.extend_from_slice(&[0, 0xc0, 0x2f, 0]);
            record(HANDSHAKE, &message(2, &body), &mut out);
            record(HANDSHAKE, &message(11, &[0x11; CERTIFICATES]), &mut out);
            record(HANDSHAKE, &message(14, &[]), &mut out);
        }
    }
    out
}

/// Returns the client's last flight of the handshake.
pub fn second_flight(framing: Framing) -> Vec<u8> {
    let mut out = Vec::new();
    match framing {
        Framing::Tls13 => {
            record(CHANGE_CIPHER_SPEC, &[1], &mut out);
            record(APPLICATION_DATA, &[0x22; 53], &mut out);
        }
        Framing::Tls12 => {
            record(HANDSHAKE, &message(16, &[0x22; 33]), &mut out);
            record(CHANGE_CIPHER_SPEC, &[1], &mut out);
            record(HANDSHAKE, &[0x22; 40], &mut out);
        }
    }
    out
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut message = vec![kind];
    message.extend_from_slice(length.get(1..).unwrap_or_default());
    message.extend_from_slice(body);
    message
}

/// Returns consecutive full records.
pub fn full_records() -> Vec<u8> {
    records(FULL)
}

/// Returns as many bytes of records with this payload.
pub fn records(payload: usize) -> Vec<u8> {
    let count = BATCH * (HEADER + FULL) / (HEADER + payload);
    let mut out = Vec::with_capacity(count * (HEADER + payload));
    for _ in 0..count {
        record(APPLICATION_DATA, &vec![0x33; payload], &mut out);
    }
    out
}

/// What a connection is for, from now until the next order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Answer with one record of this many bytes.
    Answer(u16),
    /// Like `Answer`, but with low latency from now on: in a thread of the connection.
    Attend,
    /// Send this many bytes (`u64::MAX`: unlimited) at this many per second (0: unpaced).
    Send { bytes: u64, pace: u64 },
    /// Count received bytes until the end.
    Take,
}

/// An order's record has as much payload as a small request.
const ORDER: usize = 256;

impl Order {
    /// The payload.
    pub fn payload(self) -> [u8; ORDER] {
        let (kind, first, second) = match self {
            Self::Answer(length) => (1, u64::from(length), 0),
            Self::Attend => (2, 0, 0),
            Self::Send { bytes, pace } => (3, bytes, pace),
            Self::Take => (4, 0, 0),
        };
        let mut payload = [0x44; ORDER];
        let words = std::iter::once(kind).chain(first.to_be_bytes()).chain(second.to_be_bytes());
        payload.iter_mut().zip(words).for_each(|(slot, byte)| *slot = byte);
        payload
    }

    /// As a record.
    pub fn record(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + ORDER);
        record(APPLICATION_DATA, &self.payload(), &mut out);
        out
    }

    pub fn parse(payload: &[u8]) -> io::Result<Self> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let (kind, rest) = payload.split_first().ok_or_else(invalid)?;
        let (first, rest) = rest.split_first_chunk::<8>().ok_or_else(invalid)?;
        let (second, _) = rest.split_first_chunk::<8>().ok_or_else(invalid)?;
        let (first, second) = (u64::from_be_bytes(*first), u64::from_be_bytes(*second));
        match kind {
            1 => Ok(Self::Answer(first as u16)),
            2 => Ok(Self::Attend),
            3 => Ok(Self::Send { bytes: first, pace: second }),
            4 => Ok(Self::Take),
            _ => Err(invalid()),
        }
    }

    /// Size of an order inside real TLS, in bytes.
    pub const LENGTH: usize = ORDER;
}

/// Returns one application data record with `length` bytes of payload.
pub fn answer(length: u16) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + usize::from(length));
    record(APPLICATION_DATA, &vec![0x55; usize::from(length)], &mut out);
    out
}

/// Returns the size of an answer on the wire, in bytes.
pub fn answer_length(length: u16) -> usize {
    HEADER + usize::from(length)
}
