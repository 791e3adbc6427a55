//! Sends one query to one DNS server: over UDP, and over TCP if the answer is truncated.
//!
//! Each query uses its own socket, port and id, which an attacker would have to guess. hickory's
//! client is not used: it treats an error without a question as forged and a larger datagram as
//! malformed, and it does not support link-local servers.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};

use super::reply::{Extension, LARGEST_DATAGRAM, Question, Received};
use super::shortage::Shortage;

/// Why a query has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// The query timed out.
    Silent,
    /// The server is unreachable.
    Unreachable,
    /// The server answered with an error or an unreadable message.
    Failed,
    /// The gate has no descriptor, memory or port left.
    Shortage,
}

impl From<io::Error> for NoAnswer {
    fn from(error: io::Error) -> Self {
        if Shortage::of(&error).is_some() { Self::Shortage } else { Self::Unreachable }
    }
}

/// The parameters of a query.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueryParameters<'a> {
    pub(super) name: &'a Name,
    pub(super) family: RecordType,
    pub(super) extension: Extension,
}

impl QueryParameters<'_> {
    fn question(&self, extension: Extension) -> Question {
        Question::new(self.name, self.family, extension)
    }
}

/// Queries a server. The timeout is `step`, and again `step` for TCP.
///
/// A server that rejects the OPT record, or does not answer within half of `step`, is queried again
/// without it (RFC 6891 §7). Returns the answer and the query that it belongs to.
pub(super) async fn ask(
    server: SocketAddr,
    asked: QueryParameters<'_>,
    step: Duration,
) -> Result<(Message, Extension), NoAnswer> {
    let (received, extension) = over_udp(server, asked, step).await?;
    match received {
        Some(answer) => Ok((answer, extension)),
        None => {
            let over_tcp = over_tcp(server, QueryParameters { extension, ..asked });
            // The server answered before.
            timeout(step, over_tcp).await.unwrap_or(Err(NoAnswer::Failed))
        }
    }
}

/// Returns the answer over UDP; `None` if it must be queried over TCP.
async fn over_udp(
    server: SocketAddr,
    asked: QueryParameters<'_>,
    step: Duration,
) -> Result<(Option<Message>, Extension), NoAnswer> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // The kernel chooses a random port and drops datagrams from other addresses.
    let bound = UdpSocket::bind(any).await;
    let socket = bound.map_err(|error| match error.kind() {
        // All UDP ports are in use.
        io::ErrorKind::AddrInUse => NoAnswer::Shortage,
        _ => error.into(),
    })?;
    socket.connect(server).await?;
    let first = asked.question(asked.extension);
    send(&socket, &first).await?;
    let by = Instant::now() + step;
    let mut again = Some(Instant::now() + step / 2);
    let mut plain = None;
    let mut was_heard = false;
    let mut buffer = [0; LARGEST_DATAGRAM as usize + 1];
    loop {
        let received = match timeout_at(again.unwrap_or(by), socket.recv(&mut buffer)).await {
            Ok(received) => buffer.get(..received?).unwrap_or_default(),
            Err(_) if again.take().is_some() => {
                // An answer to either query is accepted.
                send(&socket, plain.get_or_insert_with(|| asked.question(Extension::Plain)))
                    .await?;
                continue;
            }
            Err(_) if was_heard => return Err(NoAnswer::Failed),
            Err(_) => return Err(NoAnswer::Silent),
        };
        let is_large = received.len() > LARGEST_DATAGRAM.into();
        let judged = [Some(&first), plain.as_ref()].into_iter().flatten().map(|question| {
            let judged = question.judge(received);
            (judged, question.extension)
        });
        let judged = judged.into_iter().find(|(judged, _)| !matches!(judged, Received::Foreign));
        match judged {
            None => {}
            Some((Received::Foreign, _)) => {}
            Some((_, extension)) if is_large => return Ok((None, extension)),
            Some((Received::Truncated, extension)) => return Ok((None, extension)),
            Some((Received::Answer(answer), extension)) => return Ok((Some(*answer), extension)),
            Some((Received::Malformed, _)) => was_heard = true,
            Some((Received::Objection, Extension::Edns)) => {
                was_heard = true;
                if plain.is_none() {
                    let question = plain.insert(asked.question(Extension::Plain));
                    send(&socket, question).await?;
                }
            }
            Some((Received::Objection | Received::Error, _)) => return Err(NoAnswer::Failed),
        }
    }
}

async fn send(socket: &UdpSocket, question: &Question) -> Result<(), NoAnswer> {
    let bytes = question.bytes().ok_or(NoAnswer::Failed)?;
    socket.send(&bytes).await?;
    Ok(())
}

async fn over_tcp(
    server: SocketAddr,
    asked: QueryParameters<'_>,
) -> Result<(Message, Extension), NoAnswer> {
    let shortage_or_failure = |error: io::Error| match NoAnswer::from(error) {
        NoAnswer::Shortage => NoAnswer::Shortage,
        _ => NoAnswer::Failed,
    };
    let mut extension = asked.extension;
    loop {
        // Each query uses a new connection, because a server that rejects one may close it.
        let connected = TcpStream::connect(server).await;
        let mut stream =
            connected.map_err(|error| shortage_or_failure(Shortage::explain(error, server)))?;
        let question = asked.question(extension);
        let bytes = exchange(&mut stream, &question).await.map_err(shortage_or_failure)?;
        match (question.judge(&bytes), extension) {
            (Received::Answer(answer), _) => return Ok((*answer, extension)),
            (Received::Objection, Extension::Edns) => extension = Extension::Plain,
            _ => return Err(NoAnswer::Failed),
        }
    }
}

/// TCP messages are prefixed with their length (RFC 1035 §4.2.2).
async fn exchange(stream: &mut TcpStream, question: &Question) -> io::Result<Vec<u8>> {
    let bytes = question.bytes().unwrap_or_default();
    let length = u16::try_from(bytes.len()).unwrap_or_default();
    stream.write_all(&[&length.to_be_bytes(), bytes.as_slice()].concat()).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
