//! The PROXY protocol, versions 1 and 2: the client address from a load balancer.
//!
//! The header precedes everything else of a connection. Exactly its bytes are read, because the
//! rest belongs to the next reader. A library parses it; the listener decides which peers may send
//! one. Specification: HAProxy's `proxy-protocol.txt`.

use std::io;
use std::net::IpAddr;

use proxy_protocol_rs::{AddressFamily, Command, ParseError, ProxyInfo, TransportProtocol};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// Maximum size of a header, in bytes. A certificate in an extension fits.
const LARGEST: usize = 16 * 1024;

/// Number of bytes that are peeked at once. Headers without extensions have at most 107.
const CHUNK: usize = 1024;

/// Why a header is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// The peer is not in the networks that may send one.
    #[error("its sender is not in proxy-protocol-from")]
    Stranger,
    /// The first bytes are not a header.
    #[error("there is none")]
    Absent,
    /// An invalid version, command, address, extension or checksum.
    #[error("it is malformed")]
    Malformed,
    /// It exceeds 16 KiB.
    #[error("it is too large")]
    TooLarge,
    /// Its client cannot have connected over TCP: a Unix socket or a datagram.
    #[error("it is not for a TCP connection")]
    NotTcp,
}

/// Why no header was read.
#[derive(Debug)]
pub enum NoHeader {
    /// It is invalid.
    Refused(HeaderFault),
    /// It timed out.
    Late,
    /// The peer closed before the end.
    Gone,
    /// The connection failed.
    Broken(io::Error),
}

/// Reads a header and returns the client address; `None` if the balancer connects for itself, as in
/// health checks.
///
/// # Errors
/// Why none was read. The caller notifies the peer.
pub async fn header(socket: &mut TcpStream, by: Instant) -> Result<Option<IpAddr>, NoHeader> {
    let mut read = Vec::new();
    loop {
        let known = read.len();
        read.resize(known + CHUNK, 0);
        let tail = read.get_mut(known..).unwrap_or_default();
        let seen = match timeout_at(by, socket.peek(tail)).await {
            Err(_) => return Err(NoHeader::Late),
            Ok(Err(error)) => return Err(NoHeader::Broken(error)),
            Ok(Ok(0)) => return Err(NoHeader::Gone),
            Ok(Ok(seen)) => seen,
        };
        read.truncate(known + seen);
        // While it is incomplete, all peeked bytes belong to the header.
        let step = step(&read).map_err(NoHeader::Refused)?;
        let own = match &step {
            HeaderStep::NeedMore => seen,
            HeaderStep::Complete { length, .. } => length.saturating_sub(known),
        };
        let taken = read.get_mut(known..known + own).unwrap_or_default();
        // The bytes were peeked, so they can be read.
        socket.read_exact(taken).await.map_err(NoHeader::Broken)?;
        if let HeaderStep::Complete { client, .. } = step {
            return Ok(client);
        }
    }
}

/// The result of the bytes so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeaderStep {
    NeedMore,
    Complete { client: Option<IpAddr>, length: usize },
}

fn step(bytes: &[u8]) -> Result<HeaderStep, HeaderFault> {
    match proxy_protocol_rs::parse(bytes) {
        Ok((info, length)) => Ok(HeaderStep::Complete { client: client(&info)?, length }),
        Err(ParseError::Incomplete) if bytes.len() < LARGEST => Ok(HeaderStep::NeedMore),
        Err(ParseError::Incomplete) => Err(HeaderFault::TooLarge),
        Err(ParseError::NotProxyProtocol) => Err(HeaderFault::Absent),
        Err(_) => Err(HeaderFault::Malformed),
    }
}

fn client(info: &ProxyInfo) -> Result<Option<IpAddr>, HeaderFault> {
    let Some(transport) = info.transport.filter(|_| info.command == Command::Proxy) else {
        return Ok(None);
    };
    let over_ip = matches!(transport.family, AddressFamily::Inet | AddressFamily::Inet6);
    if !over_ip || transport.protocol != TransportProtocol::Stream {
        return Err(HeaderFault::NotTcp);
    }
    info.source_ip().map(|ip| Some(ip.to_canonical())).ok_or(HeaderFault::NotTcp)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

    /// A header of version 2.
    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[0x20 | command, family], &length, body].concat()
    }

    fn v4_body(more: &[u8]) -> Vec<u8> {
        [&[10, 0, 0, 7, 10, 0, 0, 1, 0xc0, 0, 1, 0xbb], more].concat()
    }

    fn v6_body() -> Vec<u8> {
        let client = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
        [client, [1; 16]].concat().into_iter().chain([0xc0, 0, 1, 0xbb]).collect()
    }

    fn headers() -> Vec<(Vec<u8>, Option<&'static str>)> {
        vec![
            (b"PROXY TCP4 10.0.0.7 10.0.0.1 49152 443\r\n".to_vec(), Some("10.0.0.7")),
            (b"PROXY TCP6 fd00::7 fd00::1 49152 443\r\n".to_vec(), Some("fd00::7")),
            (b"PROXY TCP6 ::ffff:10.0.0.7 ::1 49152 443\r\n".to_vec(), Some("10.0.0.7")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN fd00::7 fd00::1 1 2\r\n".to_vec(), None),
            (v2(1, 0x11, &v4_body(&[])), Some("10.0.0.7")),
            (v2(1, 0x11, &v4_body(&[0xee, 0, 2, 1, 2])), Some("10.0.0.7")),
            (v2(1, 0x21, &v6_body()), Some("fd00::7")),
            (v2(0, 0x00, &[]), None),
            (v2(0, 0x11, &v4_body(&[])), None),
        ]
    }

    #[test]
    fn headers_and_their_clients() {
        for (bytes, expected) in headers() {
            let client = expected.map(|text| text.parse().unwrap());
            let whole = HeaderStep::Complete { client, length: bytes.len() };
            assert_eq!(step(&bytes), Ok(whole), "{}", bytes.escape_ascii());
            for cut in 1..bytes.len() {
                assert_eq!(
                    step(&bytes[..cut]),
                    Ok(HeaderStep::NeedMore),
                    "{}",
                    bytes.escape_ascii()
                );
            }
            let with_more = [&bytes, &b"\x16\x03\x01"[..]].concat();
            assert_eq!(step(&with_more), Ok(whole), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn what_is_none() {
        use HeaderFault::*;
        let mut sum = v2(1, 0x11, &v4_body(&[3, 0, 4, 1, 2, 3, 4]));
        let cases: &[(&[u8], HeaderFault)] = &[
            (b"CONNECT contoso.azurecr.io:443 HTTP/1.1\r\n\r\n", Absent),
            (b"\x16\x03\x01\x02\x00\x01", Absent),
            (b"PROXY\r\n", Absent),
            (b"\r\n\r\n\0\r\nQUIX\n", Absent),
            (b"PROXY TCP4 10.0.0.7 10.0.0.1 49152\r\n", Malformed),
            (b"PROXY TCP4 10.0.0.7 10.0.0.1 49152 443 1\r\n", Malformed),
            (b"PROXY TCP4 fd00::7 fd00::1 49152 443\r\n", Malformed),
            (b"PROXY TCP4 10.0.0.7 10.0.0.1 65536 443\r\n", Malformed),
            (b"PROXY UDP4 10.0.0.7 10.0.0.1 49152 443\r\n", Malformed),
            (&[b'P'; 200], Absent),
            (&[&b"PROXY TCP4 "[..], &[b'1'; 200]].concat(), Malformed),
            (&v2(2, 0x11, &v4_body(&[])), Malformed),
            (&v2(1, 0x11, &[10, 0, 0, 7]), Malformed),
            (&v2(1, 0x41, &v4_body(&[])), Malformed),
            (&v2(1, 0x11, &v4_body(&[0xee, 0, 9, 1])), Malformed),
            (&v2(1, 0x12, &v4_body(&[])), NotTcp),
            (&v2(1, 0x31, &[b'/'; 216]), NotTcp),
            (&sum, Malformed),
        ];
        for (bytes, expected) in cases {
            assert_eq!(step(bytes), Err(*expected), "{}", bytes.escape_ascii());
        }
        // A header that says it is longer than we read is not waited for to its end.
        sum.truncate(16);
        sum[14..16].fill(0xff);
        sum.resize(LARGEST, 0);
        assert_eq!(step(&sum), Err(TooLarge));
    }

    /// Sends `first`, then, once that was looked at, `rest`; and what follows the header.
    async fn sent(first: &[u8], rest: &[u8]) -> (Result<Option<IpAddr>, NoHeader>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(at), listener.accept());
        let (mut client, mut socket) = (client.unwrap(), accepted.unwrap().0);
        let by = Instant::now() + Duration::from_secs(60);
        client.write_all(first).await.unwrap();
        let ended = {
            let mut reading = std::pin::pin!(header(&mut socket, by));
            let early = tokio::select! {
                biased;
                early = &mut reading => Some(early),
                () = tokio::task::yield_now() => None,
            };
            client.write_all(rest).await.unwrap();
            client.shutdown().await.unwrap();
            match early {
                Some(ended) => ended,
                None => reading.await,
            }
        };
        let mut left = Vec::new();
        socket.read_to_end(&mut left).await.unwrap();
        (ended, left)
    }

    #[tokio::test]
    async fn what_follows_a_header_stays_in_the_socket() {
        let hello = [0x16; 3000];
        for (bytes, expected) in headers() {
            let expected: Option<IpAddr> = expected.map(|text| text.parse().unwrap());
            for cut in [0, 1, 7, bytes.len() - 1, bytes.len()] {
                let (first, rest) = bytes.split_at(cut);
                let (client, left) = sent(first, &[rest, &hello].concat()).await;
                assert_eq!(client.unwrap(), expected, "{}", bytes.escape_ascii());
                assert!(left == hello, "{}", bytes.escape_ascii());
            }
        }
        let large = v2(1, 0x11, &v4_body(&[&[0xee, 0x20, 0][..], &[7; 0x2000]].concat()));
        let (client, left) = sent(&large[..2000], &[&large[2000..], &hello].concat()).await;
        assert!(client.unwrap().is_some() && left == hello);
    }

    #[tokio::test]
    async fn half_a_header_is_none() {
        let (ended, _) = sent(b"PROXY TC", b"").await;
        assert!(matches!(ended, Err(NoHeader::Gone)), "{ended:?}");
        let (ended, _) = sent(b"", b"").await;
        assert!(matches!(ended, Err(NoHeader::Gone)), "{ended:?}");
        let (ended, left) = sent(b"\x16\x03\x01", b"").await;
        assert!(matches!(ended, Err(NoHeader::Refused(HeaderFault::Absent))), "{ended:?}");
        assert_eq!(left, b"\x16\x03\x01");
    }

    proptest! {
        #[test]
        fn nothing_panics_and_a_verdict_stands(
            which in 0..headers().len(),
            changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..4),
            tail in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut bytes = [headers()[which].0.clone(), tail].concat();
            for (at, byte) in changes {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            let whole = step(&bytes);
            for cut in 0..bytes.len() {
                match step(&bytes[..cut]) {
                    Ok(HeaderStep::NeedMore) => {}
                    // Whatever is said of a part holds for the whole.
                    verdict => prop_assert_eq!(verdict, whole),
                }
            }
        }
    }
}
