//! The sockets of the DNS server: UDP, and a bounded number of TCP connections.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::query::{ClientQuestion, LARGEST, Transport, Unfit};
use super::{Bound, DnsServer, Next};
use crate::account::QueryResult;
use crate::policy::{Allowed, PolicySet};

/// Maximum number of connections, in total and per client. Further ones are closed at once. Answers
/// are small, so few clients use TCP.
const CONNECTIONS: usize = 64;
const CONNECTIONS_PER_CLIENT: usize = 8;

/// Maximum lifetime of a connection.
const LONGEST: Duration = Duration::from_secs(20);

/// Idle timeout of a connection (RFC 7766 §6.2.3).
const IDLE: Duration = Duration::from_secs(5);

/// Pause after an error of accept or receive.
const BACKOFF: Duration = Duration::from_millis(50);

impl DnsServer {
    /// Serves the sockets of one address until it is dropped.
    pub async fn serve(self: Arc<Self>, bound: Bound) {
        let Bound { address, udp, tcp } = bound;
        let listener: Arc<str> = address.to_string().into();
        tokio::join!(
            self.clone().serve_datagrams(Arc::new(udp), listener.clone()),
            self.serve_connections(tcp, listener),
        );
    }

    async fn serve_datagrams(self: Arc<Self>, socket: Arc<UdpSocket>, listener: Arc<str>) {
        let mut bytes = [0; LARGEST];
        loop {
            let (length, peer) = match socket.recv_from(&mut bytes).await {
                Ok(received) => received,
                Err(error) => {
                    // An ICMP error of an earlier datagram, or an error of the system.
                    warn!(%error, %listener, "cannot receive");
                    tokio::time::sleep(BACKOFF).await;
                    continue;
                }
            };
            let client = peer.ip().to_canonical();
            if !self.may_ask(client) {
                continue;
            }
            let received = bytes.get(..length).unwrap_or_default();
            match self.consider(received, client, &listener, Transport::Udp) {
                Considered::Nothing => {}
                Considered::Answer(answer) => send(&socket, &answer, peer),
                Considered::Later(later) => {
                    let Ok(place) = self.under_way.clone().try_acquire_owned() else {
                        self.count(QueryResult::Limited);
                        continue;
                    };
                    let (server, socket, listener) =
                        (self.clone(), socket.clone(), listener.clone());
                    tokio::spawn(async move {
                        let answer =
                            server.find_out(*later, client, &listener, Transport::Udp).await;
                        send(&socket, &answer, peer);
                        drop(place);
                    });
                }
            }
        }
    }

    async fn serve_connections(self: Arc<Self>, listener: TcpListener, name: Arc<str>) {
        let places = Arc::new(Places::default());
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, listener = %name, "cannot accept");
                    tokio::time::sleep(BACKOFF).await;
                    continue;
                }
            };
            let client = peer.ip().to_canonical();
            let Some(place) = places.take(client) else {
                self.count(QueryResult::Limited);
                continue;
            };
            let (server, name) = (self.clone(), name.clone());
            tokio::spawn(async move {
                server.serve_connection(stream, peer, &name).await;
                drop(place);
            });
        }
    }

    /// Answers queries of a connection until the client stops or exceeds its rate.
    async fn serve_connection(&self, mut stream: TcpStream, peer: SocketAddr, listener: &Arc<str>) {
        let client = peer.ip().to_canonical();
        let end = Instant::now() + LONGEST;
        loop {
            let by = end.min(Instant::now() + IDLE);
            let Ok(Some(message)) = timeout_at(by, read(&mut stream)).await else { return };
            if !self.may_ask(client) {
                return;
            }
            let answer = match self.consider(&message, client, listener, Transport::Tcp) {
                Considered::Nothing => return,
                Considered::Answer(answer) => answer,
                Considered::Later(later) => {
                    self.find_out(*later, client, listener, Transport::Tcp).await
                }
            };
            let Ok(length) = u16::try_from(answer.len()) else { return };
            let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
            let written = timeout_at(end, stream.write_all(&framed)).await;
            if !matches!(written, Ok(Ok(()))) {
                return;
            }
        }
    }

    /// Judges a message, and answers it unless it needs a look-up.
    fn consider(
        &self,
        message: &[u8],
        client: IpAddr,
        listener: &Arc<str>,
        transport: Transport,
    ) -> Considered {
        let question = match ClientQuestion::read(message) {
            Ok(question) => question,
            Err(unfit) => {
                self.count(QueryResult::Malformed);
                return match unfit {
                    Unfit::Silence => Considered::Nothing,
                    Unfit::Answer(answer) => Considered::Answer(answer),
                };
            }
        };
        match self.judge(&question, client, listener) {
            Next::Answer(reply) => {
                self.count_reply(&reply);
                Considered::Answer(question.answer(&reply, transport))
            }
            Next::LookUp(set, allowed) => {
                Considered::Later(Box::new(Later { question, set, allowed }))
            }
        }
    }

    async fn find_out(
        &self,
        later: Later,
        client: IpAddr,
        listener: &Arc<str>,
        transport: Transport,
    ) -> Vec<u8> {
        let Later { question, set, allowed } = later;
        let reply = self.look_up(&question, client, listener, &set, allowed).await;
        self.count_reply(&reply);
        question.answer(&reply, transport)
    }
}

/// The result of a message.
enum Considered {
    /// No answer is sent.
    Nothing,
    Answer(Vec<u8>),
    Later(Box<Later>),
}

/// A name to resolve, and the policy that allowed it.
struct Later {
    question: ClientQuestion,
    set: Arc<PolicySet>,
    allowed: Allowed,
}

/// Sends a datagram. Drops it if the socket buffer is full, because clients retry.
fn send(socket: &UdpSocket, answer: &[u8], peer: SocketAddr) {
    let _ = socket.try_send_to(answer, peer);
}

/// Reads a message with its length prefix (RFC 1035 §4.2.2); `None` at the end or if it is invalid.
async fn read(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let length = usize::from(stream.read_u16().await.ok()?);
    let mut message = vec![0; Some(length).filter(|length| *length <= LARGEST)?];
    stream.read_exact(&mut message).await.ok()?;
    Some(message)
}

/// The open connections.
#[derive(Debug, Default)]
struct Places(Mutex<HashMap<IpAddr, usize>>);

/// An open connection; removed when dropped.
struct Place {
    places: Arc<Places>,
    client: IpAddr,
}

impl Places {
    fn take(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = open.values().sum();
        let own = open.get(&client).copied().unwrap_or_default();
        if all >= CONNECTIONS || own >= CONNECTIONS_PER_CLIENT {
            return None;
        }
        open.insert(client, own + 1);
        Some(Place { places: self.clone(), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        match open.get_mut(&self.client) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(open.remove(&self.client)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_few_and_shared_out() {
        let places = Arc::new(Places::default());
        let client = |last: u8| IpAddr::from([10, 0, 0, last]);
        let held: Vec<_> = (0..20).filter_map(|_| places.take(client(1))).collect();
        assert_eq!(held.len(), CONNECTIONS_PER_CLIENT);
        let others: Vec<_> = (2..100)
            .flat_map(|last| [places.take(client(last)), places.take(client(last))])
            .collect();
        assert_eq!(others.iter().flatten().count(), CONNECTIONS - CONNECTIONS_PER_CLIENT);
        drop(held);
        assert!(places.take(client(1)).is_some());
        drop(others);
        assert!(places.0.lock().unwrap().is_empty());
    }
}
