//! The mirror: clients speak HTTPS to the gate as to a registry, and each request is judged.
//!
//! ```text
//! accept -> PROXY header -> TLS -> admit -> requests, one after another
//! ```
//!
//! A connection is a session with a record of its own; a request has an audit line of its own. The
//! client's `Authorization` is for the gate and goes no further.

mod body;
mod connection;
mod guarded;
mod refuse;
mod request;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::either::Either;

use crate::account::{Arrival, AuditText, Open, Stage};
use crate::config::ListenerSpec;
use crate::forward::Forward;
use crate::limits::PendingSlot;
use crate::listen::proxy_protocol::{self, HeaderFault, NoHeader};
use crate::listen::tls::{self, ClientStream, NoTls};
use crate::policy::{Cause, ClientAddress, ClientIdentity, Denial, Failure, Reason, Side, Stop};
use crate::relay::{Closing, hear_out};
use crate::session::{Admission, Gate, Incoming};
use connection::{CLIENT_ABORTED, Connection, Proof, volume};
use guarded::Guarded;

/// The most bytes and lines of a request's head.
const LARGEST_HEAD: usize = 32 * 1024;
const MOST_HEADERS: usize = 64;

/// Bytes of answers that wait for the client to take them, beyond which nothing is added.
const LARGEST_BUFFER: usize = 64 * 1024;

/// How long a client may take to hear why it was refused.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Serves one connection, to its end. The runtime is the one in which the future is polled.
pub async fn run(incoming: Box<Incoming>, forward: Arc<Forward>) {
    let Incoming { gate, listener, admission, socket, peer, slot, accepted } = *incoming;
    let mut account = gate.account.open(Arrival {
        client: peer.ip(),
        listener: listener.name.clone(),
        accepted,
        first: Stage::Head,
    });
    let Ok(socket) = TcpStream::from_std(socket.into()) else {
        // The thread's epoll takes no more.
        let failure = Failure { side: Side::Gate, cause: Cause::Internal };
        account.close(&Err(failure.into()));
        return;
    };
    let identity = ClientIdentity::at(peer.ip());
    let arriving = Arriving { gate, listener, admission, identity, account, slot };
    Box::pin(arriving.serve(forward, socket)).await;
}

/// A connection that has not been admitted yet.
struct Arriving {
    gate: Arc<Gate>,
    listener: Arc<ListenerSpec>,
    admission: Admission,
    identity: ClientIdentity,
    account: Open,
    slot: PendingSlot,
}

impl Arriving {
    async fn serve(mut self, forward: Arc<Forward>, mut socket: TcpStream) {
        let set = self.gate.policy.borrow().clone();
        self.account.record.generation = set.generation();
        let by = Instant::now() + set.limits().head_timeout;
        if let Err(stop) = self.read_proxy_header(&mut socket, by).await {
            self.account.close(&Err(stop));
            return;
        }
        let (stream, proof) = match self.secure(socket, by).await {
            Ok(secured) => secured,
            Err(none) => return self.forgo_tls(none).await,
        };
        let mut limits = *set.limits();
        limits.open_sessions = limits.open_sessions.min(self.gate.max_sessions);
        let refusal = match self.admission {
            Admission::Draining => Some(Denial::with_remedy(Reason::Draining, "try again")),
            Admission::Open => None,
        };
        let admitted =
            self.gate.sessions.admit(self.account.record.client, &limits).and_then(|permit| {
                self.account.admit()?;
                Ok(permit)
            });
        let (permit, refusal) = match (admitted, refusal) {
            (Ok(permit), None) => (Some(permit), None),
            (Err(denial), None) | (_, Some(denial)) => (None, Some(denial)),
        };
        let Self { gate, listener, identity, mut account, slot, .. } = self;
        if refusal.is_none() {
            drop(slot);
        }
        account.record.stages.enter(Stage::Relay);
        let moved = Arc::new(AtomicU64::new(0));
        let seen = moved.clone();
        account.follow(Box::new(move || volume(&seen)));
        let connection = Connection {
            session: account.id(),
            gate,
            listener,
            forward,
            identity,
            proof,
            account: Mutex::new(account),
            permit: Mutex::new((permit, None)),
            refusal,
            requests: AtomicU64::new(0),
            moved,
        };
        drop(set);
        serve_requests(Arc::new(connection), stream).await;
    }

    /// Takes the client from the PROXY header, where the listener requires one.
    async fn read_proxy_header(&mut self, socket: &mut TcpStream, by: Instant) -> Result<(), Stop> {
        let Some(balancers) = &self.listener.balancers else { return Ok(()) };
        let ClientAddress(balancer) = self.identity.address;
        let invalid = |fault: HeaderFault| {
            Stop::from(Denial::with_remedy(Reason::ProxyHeaderInvalid, fault.to_string()))
        };
        if !balancers.iter().any(|network| network.contains(&balancer)) {
            return Err(invalid(HeaderFault::Stranger));
        }
        let read = tokio::select! {
            biased;
            read = proxy_protocol::header(socket, by) => read,
            () = self.slot.evicted() => return Err(evicted()),
        };
        let client = read.map_err(|none| match none {
            NoHeader::Refused(fault) => invalid(fault),
            NoHeader::Late => Reason::HeadTimeout.into(),
            NoHeader::Gone | NoHeader::Broken(_) => CLIENT_ABORTED.into(),
        })?;
        if let Some(client) = client {
            self.identity = ClientIdentity::at(client);
            self.account.record.client = client;
            self.slot.belongs_to(client);
            self.account.record.note("balancer", AuditText::new(&balancer.to_string()));
        }
        Ok(())
    }

    /// Takes the client's TLS handshake, where the listener speaks it.
    async fn secure(
        &mut self,
        socket: TcpStream,
        by: Instant,
    ) -> Result<(ClientStream, Option<Proof>), NoTls> {
        let Some(paths) = &self.listener.tls else { return Ok((Either::Left(socket), None)) };
        let mut every = self.gate.tls.clone();
        let Some(tls) = every.borrow_and_update().get(paths).cloned() else {
            let failure = Failure { side: Side::Gate, cause: Cause::Internal };
            return Err(NoTls::Ended { stop: failure.into(), socket: None });
        };
        self.account.record.stages.enter(Stage::Tls);
        let until = pin!(async {
            tokio::select! {
                () = sleep_until(by) => Reason::HeadTimeout.into(),
                () = self.slot.evicted() => evicted(),
            }
        });
        let (stream, certificate) = Box::pin(tls::accept(&tls, socket, until)).await?;
        let proof = certificate.map(|certificate| {
            let names = certificate.names();
            self.account.record.note("certificate", AuditText::new(&names.to_string()));
            self.identity.certificate = Some(Box::new(names));
            Proof { certificate, paths: paths.clone(), tls: Mutex::new(every) }
        });
        Ok((Either::Right(stream), proof))
    }

    /// Ends a connection that came to no TLS.
    async fn forgo_tls(mut self, none: NoTls) {
        let closing: Closing<ClientStream> = match none {
            NoTls::Gone => {
                self.account.close(&Err(CLIENT_ABORTED.into()));
                return;
            }
            NoTls::Clear(socket) => {
                let remedy = "this port speaks TLS; the mirror's URL must be https://";
                let stop = Stop::from(Denial::with_remedy(Reason::ProxyTls, remedy));
                let id = self.account.close(&Err(stop.clone()));
                Closing::with_word(Either::Left(socket), refuse::in_clear(&stop, id))
            }
            NoTls::Ended { stop, socket } => {
                self.account.close(&Err(stop));
                let Some(socket) = socket else { return };
                Closing::in_order(Either::Left(socket))
            }
            NoTls::Refused { stop, fault, socket } => {
                self.account.record.note("tls-fault", fault);
                self.account.close(&Err(stop));
                Closing::in_order(Either::Left(socket))
            }
        };
        let _: Result<(), _> = timeout(LAST_WORDS, async {
            if let Some(client) = closing.say().await {
                hear_out(client).await;
            }
        })
        .await;
    }
}

/// Serves requests until the client is done, or the gate ends.
async fn serve_requests(connection: Arc<Connection>, stream: ClientStream) {
    let limits = *connection.gate.policy.borrow().limits();
    let io = TokioIo::new(Guarded::new(stream, limits.idle_timeout));
    let shared = connection.clone();
    let service = service_fn(move |request| {
        let connection = shared.clone();
        async move { Ok::<_, Infallible>(request::respond(connection, request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_header_size(LARGEST_HEAD)
        .max_buf_size(LARGEST_BUFFER)
        .max_headers(MOST_HEADERS);
    let mut serving = pin!(http.serve_connection(io, service));
    let lifetime = pin!(sleep_until(Instant::now() + limits.session_lifetime));
    let mut lifetime = lifetime;
    let mut policy = connection.gate.policy.clone();
    let mut is_draining = false;
    let end = loop {
        tokio::select! {
            served = serving.as_mut() => break connection.end_of(served),
            () = connection.gate.draining.cancelled(), if !is_draining => {
                is_draining = true;
                serving.as_mut().graceful_shutdown();
            }
            () = lifetime.as_mut() => break Err(Reason::Lifetime.into()),
            changed = policy.changed() => if changed.is_err() {
                break Err(Reason::Draining.into());
            },
        }
    };
    connection.account().close(&end);
}

/// The end of a connection whose place was needed for another.
fn evicted() -> Stop {
    Denial::with_remedy(Reason::SessionLimit, "its place was needed for another").into()
}
