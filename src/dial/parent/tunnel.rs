//! One CONNECT to one address of a parent: look its name up, connect, ask, read the answer.

use std::io;
use std::net::SocketAddr;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::answer::{AnswerReader, AnswerStep, ConnectAnswer, Malformed};
use super::request::proxy_header;
use super::trip::Trip;
use crate::dial::Upstream;
use crate::dial::connect::connect_parent;
use crate::policy::{Cause, Failure, Parent, ParentAddress, ParentHost, ParentTls};

/// This many bytes of an answer are looked at, at once.
const CHUNK: usize = 1024;

/// By when an attempt must have come how far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// The connection, TLS included.
    pub(super) connect: Instant,
    /// The answer to CONNECT.
    pub(super) answer: Instant,
}

/// Why no tunnel was opened.
pub(super) enum NoTunnel {
    /// The address cannot be reached.
    Unreachable(String),
    /// It accepted the connection, and gave no answer.
    Silent(String),
    /// Its answer is none.
    Malformed(Malformed),
    /// There are no credentials for it.
    Credentials(String),
    /// It answered, and not with 2xx.
    Answered(ConnectAnswer),
    /// The gate itself lacks something.
    Ours(Failure),
}

/// An attempt at one address.
pub(super) struct ParentTunnel<'a> {
    pub(super) parent: &'a Parent,
    pub(super) address: &'a ParentAddress,
    pub(super) trip: &'a Trip<'a>,
}

impl ParentTunnel<'_> {
    /// Connects, sends the request in one write, and reads the answer to its last byte.
    pub(super) async fn open(&self, request: &[u8], times: Times) -> Result<Upstream, NoTunnel> {
        let late = |_| NoTunnel::Unreachable("did not accept the connection in time".to_owned());
        let mut socket = self.connect(times.connect).await?;
        let header = self.parent.proxy_protocol.then(|| proxy_header(self.trip.caller));
        let mut header = header.unwrap_or_default();
        let mut upstream = match &self.parent.tls {
            None => {
                header.extend_from_slice(request);
                Either::Left(socket)
            }
            Some(tls) => {
                let shaken = async {
                    socket.write_all(&header).await?;
                    self.handshake(tls, socket).await
                };
                let stream = timeout_at(times.connect, shaken).await.map_err(late)?;
                let stream = stream.map_err(|error| tls_failed(&error))?;
                header = request.to_vec();
                Either::Right(Box::new(stream))
            }
        };
        let asked = async {
            upstream.write_all(&header).await.map_err(|_| closed())?;
            upstream.flush().await.map_err(|_| closed())?;
            match &mut upstream {
                Either::Left(socket) => answer_of_socket(socket).await,
                Either::Right(stream) => answer_of_tls(stream).await,
            }
        };
        let silent = |_| NoTunnel::Silent("did not answer in time".to_owned());
        let answer = timeout_at(times.answer, asked).await.map_err(silent)??;
        match answer.status {
            200..=299 => Ok(upstream),
            _ => Err(NoTunnel::Answered(answer)),
        }
    }

    async fn connect(&self, by: Instant) -> Result<TcpStream, NoTunnel> {
        let found = match self.address.host() {
            ParentHost::Ip(ip) => vec![SocketAddr::new(*ip, self.address.port())],
            ParentHost::Name(_) => {
                let found = self.trip.resolver.resolve_parent(self.trip.set, self.address, by);
                found.await.map_err(unreachable)?
            }
        };
        let Some(permit) = self.trip.set.judge_parent(&found, self.trip.own) else {
            let why = "is at the gate's own or a forbidden address".to_owned();
            return Err(NoTunnel::Unreachable(why));
        };
        let (socket, _) = connect_parent(&permit, by).await.map_err(unreachable)?;
        Ok(socket)
    }

    async fn handshake(
        &self,
        tls: &ParentTls,
        socket: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = match (&tls.server_name, self.address.host()) {
            (Some(name), _) => name.clone(),
            (None, ParentHost::Ip(ip)) => ServerName::from(*ip),
            (None, ParentHost::Name(name)) => {
                ServerName::try_from(name.as_str().to_owned()).map_err(io::Error::other)?
            }
        };
        TlsConnector::from(tls.client.clone()).connect(name, socket).await
    }
}

/// Why an address cannot be reached, or what the gate lacks.
fn unreachable(failure: Failure) -> NoTunnel {
    NoTunnel::Unreachable(match failure.cause {
        Cause::LocalPorts | Cause::Internal => return NoTunnel::Ours(failure),
        Cause::NameNotFound => "has no address in DNS".to_owned(),
        Cause::LookupFailed => "could not be looked up: DNS failed".to_owned(),
        Cause::LookupTimeout => "could not be looked up: DNS did not answer".to_owned(),
        Cause::ConnectRefused => "refused the connection".to_owned(),
        Cause::ConnectTimeout => "did not accept the connection in time".to_owned(),
        _ => "cannot be reached".to_owned(),
    })
}

/// A parent that closes without an answer may be ending: another may serve.
fn closed() -> NoTunnel {
    NoTunnel::Silent("closed the connection without an answer".to_owned())
}

fn incomplete(reader: &AnswerReader) -> NoTunnel {
    if reader.has_begun() { NoTunnel::Malformed(Malformed::Incomplete) } else { closed() }
}

/// Reads an answer from a bare socket, and no byte more: what follows is the tunnel's, and stays in
/// the socket for splice.
async fn answer_of_socket(socket: &mut TcpStream) -> Result<ConnectAnswer, NoTunnel> {
    let mut reader = AnswerReader::default();
    let mut chunk = [0; CHUNK];
    loop {
        let seen = socket.peek(&mut chunk).await.map_err(|_| incomplete(&reader))?;
        let bytes = chunk.get(..seen).unwrap_or_default();
        if bytes.is_empty() {
            return Err(incomplete(&reader));
        }
        let step = reader.feed(bytes).map_err(NoTunnel::Malformed)?;
        let used = match &step {
            AnswerStep::NeedMore => seen,
            AnswerStep::Complete { used, .. } => *used,
        };
        // It has been seen, so it is there.
        let taken = chunk.get_mut(..used).unwrap_or_default();
        socket.read_exact(taken).await.map_err(|_| incomplete(&reader))?;
        if let AnswerStep::Complete { answer, .. } = step {
            return Ok(answer);
        }
    }
}

/// Reads an answer from TLS. What follows stays in the buffer of the TLS library.
async fn answer_of_tls(stream: &mut TlsStream<TcpStream>) -> Result<ConnectAnswer, NoTunnel> {
    let mut reader = AnswerReader::default();
    loop {
        let bytes = stream.fill_buf().await.map_err(|error| match reader.has_begun() {
            // In TLS 1.3 a server rejects the client's certificate after the client's handshake.
            false if is_of_tls(&error) => tls_failed(&error),
            _ => incomplete(&reader),
        })?;
        if bytes.is_empty() {
            return Err(incomplete(&reader));
        }
        let seen = bytes.len();
        match reader.feed(bytes).map_err(NoTunnel::Malformed)? {
            AnswerStep::NeedMore => stream.consume(seen),
            AnswerStep::Complete { answer, used } => {
                stream.consume(used);
                return Ok(answer);
            }
        }
    }
}

fn tls_failed(error: &io::Error) -> NoTunnel {
    let of_tls = error.get_ref().and_then(|error| error.downcast_ref());
    NoTunnel::Unreachable(match of_tls {
        // Short, because phrases are.
        Some(rustls::Error::AlertReceived(alert)) => format!("failed in TLS: alert {alert:?}"),
        _ => format!("failed in TLS: {}", printable(error)),
    })
}

/// Returns whether an error is one of TLS, not of the connection.
fn is_of_tls(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    inner.is_some()
}

/// An error's text without what does not belong into a line.
fn printable(error: &io::Error) -> String {
    let text = error.to_string();
    text.chars().map(|one| if matches!(one, ' '..='~') { one } else { '?' }).take(100).collect()
}
