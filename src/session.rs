//! The story of one connection, told top to bottom; each step lives elsewhere.
//!
//! ```text
//! arrive -> target -> judge the name -> resolve -> judge the addresses -> dial -> accept (200)
//!        -> ClientHello -> judge the hello -> relay -> record
//! ```
//!
//! Where a balancer stands before the gate, its PROXY header comes first and says who arrived.
//! The rights grow with it: `Allowed` to look up, `Permit` to dial, `Cleared` to relay. Whatever
//! ends it early is a [`Stop`], recorded once and then told to the client: as an HTTP answer before
//! `200`, as a TLS alert after it. On a transparent listener the hello comes first, its name is the
//! target, and every refusal is an alert.

mod refuse;
mod relay;

use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::sync::Arc;

use bytes::Bytes;
use ipnet::IpNet;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::either::Either;
use tracing::info;

use crate::account::{Account, Arrival, AuditText, Open, Stage};
use crate::config::{Capture, Mode, TlsOfListeners, TlsPaths};
use crate::dial::{self, Resolver};
use crate::hello::Hello;
use crate::limits::{Passwords, PendingConnections, PendingSlot, Quotas, SessionPermit, Sessions};
use crate::listen::http::answer::shown;
use crate::listen::http::authorization::Authorization;
use crate::listen::http::connect::{self, Accepted};
use crate::listen::intake::{self, Arrived, NoHead};
use crate::listen::proxy_protocol::{self, HeaderFault};
use crate::listen::tls::{self, ClientStream, NoTls};
use crate::listen::transparent::original_destination;
use crate::policy::{
    Allowed, Cause, Cleared, ClientAddress, ClientIdentity, Denial, Enforcement, Failure, HTTPS,
    Login, OwnAddresses, Permit, PolicySet, Reason, Side, Stop, Target,
};
use crate::relay::Relay;
use refuse::{asked_to_leave, evicted, no_hello, no_proxy_header, proxy_header_invalid};
use relay::Proof;

/// What every session shares.
#[derive(Debug)]
pub struct Gate {
    /// The policy in force. When its sender is gone, open sessions may last no longer.
    pub policy: watch::Receiver<Arc<PolicySet>>,
    /// The gate's own place in the network.
    pub own: watch::Receiver<Arc<OwnAddresses>>,
    /// TLS of the listeners.
    pub tls: watch::Receiver<Arc<TlsOfListeners>>,
    /// Looks allowed names up.
    pub resolver: Arc<Resolver>,
    /// Moves bytes.
    pub relay: Relay,
    /// Counts the sessions that are open, and how fast they begin.
    pub sessions: Sessions,
    /// What tunnels share.
    pub shares: Quotas,
    /// Checks passwords.
    pub passwords: Passwords,
    /// What is said to clients whose CONNECT is accepted.
    pub accepted: Accepted,
    /// Where connections wait until their head has come.
    pub lobby: Arc<PendingConnections>,
    /// How many sessions the process has descriptors for, whatever the limits say.
    pub most_sessions: usize,
    /// Keeps the accounts.
    pub account: Arc<Account>,
}

/// A listener, as its sessions know it.
#[derive(Debug, Clone)]
pub struct Door {
    /// Where it is bound.
    pub address: SocketAddr,
    /// The same, for accounts.
    pub name: Arc<str>,
    /// How clients come to it.
    pub mode: Mode,
    /// Its own enforcement, where it has one.
    pub enforcement: Option<Enforcement>,
    /// The networks that must send a PROXY header, where one is required.
    pub balancers: Option<Vec<IpNet>>,
    /// TLS towards clients, where it is spoken.
    pub tls: Option<TlsPaths>,
    /// What it has for those who come.
    pub welcome: Welcome,
}

/// What becomes of those who come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Welcome {
    /// They are served.
    Served,
    /// They are told to come again: the gate is ending.
    TurnedAway,
}

/// One connection that came in.
struct Session {
    gate: Arc<Gate>,
    door: Arc<Door>,
    asker: ClientIdentity,
    proof: Option<Proof>,
    account: Open,
    /// Its place in the lobby, until it has one among the open sessions.
    place: Option<PendingSlot>,
    /// Its place among the open sessions.
    permit: Option<SessionPermit>,
    /// Subscribed before the snapshot was taken, so that no reload falls between.
    policy: watch::Receiver<Arc<PolicySet>>,
    set: Arc<PolicySet>,
}

/// An upstream that was dialled, and the right by which.
struct Reached {
    permit: Permit,
    upstream: TcpStream,
    address: SocketAddr,
}

/// A tunnel that may be relayed.
struct Tunnel {
    client: ClientStream,
    upstream: TcpStream,
    address: SocketAddr,
    cleared: Cleared,
    hello: Box<Hello>,
}

/// A connection that has come, before the thread is reached that serves it.
struct Come {
    gate: Arc<Gate>,
    door: Arc<Door>,
    socket: OwnedFd,
    peer: SocketAddr,
    place: PendingSlot,
    accepted: std::time::Instant,
}

/// Serves one connection, to its end. The runtime is the one in which the future is polled.
///
/// What a session needs at a time is all that it keeps: the set-up's memory is freed before the
/// relay's is taken, so that an idle tunnel is small. And its own thread takes the memory: to free
/// what another one took, both would have to wait for each other.
pub fn serve(
    gate: Arc<Gate>,
    door: Arc<Door>,
    socket: OwnedFd,
    peer: SocketAddr,
    place: PendingSlot,
) -> impl Future<Output = ()> + Send + 'static {
    let accepted = std::time::Instant::now();
    let come = Box::new(Come { gate, door, socket, peer, place, accepted });
    async move {
        if let Some(relaying) = set_up(*come).await {
            relaying.await;
        }
    }
}

/// What is still to be carried out.
type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// From the first byte to the relay, which is still to be carried out.
fn set_up(come: Come) -> Later<Option<Later<()>>> {
    let Come { gate, door, socket, peer, place, accepted } = come;
    let mut session = Session::begin(gate, door, peer, place, accepted);
    // A socket belongs to the runtime in which it is made.
    match TcpStream::from_std(socket.into()) {
        Ok(socket) => Box::pin(session.open(socket)),
        Err(_) => {
            // The thread's epoll takes no more.
            let ended = session.lose(INTERNAL);
            Box::pin(ready(ended))
        }
    }
}

/// Sends what is to be said to a client.
async fn send(client: &mut ClientStream, said: &[u8]) -> io::Result<()> {
    client.write_all(said).await?;
    client.flush().await
}

impl Session {
    fn begin(
        gate: Arc<Gate>,
        door: Arc<Door>,
        peer: SocketAddr,
        place: PendingSlot,
        accepted: std::time::Instant,
    ) -> Self {
        let mut policy = gate.policy.clone();
        let set = policy.borrow_and_update().clone();
        let mut account = gate.account.open(Arrival {
            client: peer.ip(),
            listener: door.name.clone(),
            accepted,
            first: match door.mode {
                Mode::Connect => Stage::Head,
                Mode::Transparent(_) => Stage::Hello,
            },
        });
        account.generation = set.generation();
        let (asker, place) = (ClientIdentity::at(peer.ip()), Some(place));
        Self { gate, door, asker, proof: None, account, place, permit: None, policy, set }
    }

    /// From the first byte to the relay, which is still to be carried out.
    // Not `async fn`, which would keep the session twice.
    fn open(self, socket: TcpStream) -> impl Future<Output = Option<Later<()>>> + Send {
        let mut session = self;
        async move {
            let tunnel = session.tunnel(socket).await?;
            Some(Box::pin(session.relay(tunnel)) as Later<()>)
        }
    }

    /// From the first byte to a tunnel that may be relayed.
    async fn tunnel(&mut self, mut socket: TcpStream) -> Option<Tunnel> {
        let limits = self.set.limits();
        let by = Instant::now()
            + match self.door.mode {
                Mode::Connect => limits.head_timeout,
                Mode::Transparent(_) => limits.hello_timeout,
            };
        if let Err(stop) = self.look_behind_balancer(&mut socket, by).await {
            return self.spurn(socket, stop).await;
        }
        match self.door.mode {
            Mode::Connect => self.set_up(socket, by).await,
            Mode::Transparent(capture) => self.set_up_transparent(socket, capture, by).await,
        }
    }

    /// Takes the client from the PROXY header, where the listener requires one.
    async fn look_behind_balancer(
        &mut self,
        socket: &mut TcpStream,
        by: Instant,
    ) -> Result<(), Stop> {
        let Some(balancers) = &self.door.balancers else { return Ok(()) };
        let ClientAddress(balancer) = self.asker.address;
        if !balancers.iter().any(|network| network.contains(&balancer)) {
            return Err(proxy_header_invalid(HeaderFault::Stranger));
        }
        let read = tokio::select! {
            biased;
            read = proxy_protocol::header(socket, by) => read,
            () = evicted(&mut self.place) => return Err(asked_to_leave()),
        };
        let client = read.map_err(|none| no_proxy_header(&none, self.door.mode))?;
        if let Some(client) = client {
            self.asker = ClientIdentity::at(client);
            self.account.client = client;
            self.account.note("balancer", AuditText::new(&balancer.to_string()));
        }
        Ok(())
    }

    /// Takes the client's TLS handshake, where the listener speaks it.
    async fn secure(&mut self, socket: TcpStream, by: Instant) -> Result<ClientStream, NoTls> {
        let Some(paths) = &self.door.tls else { return Ok(Either::Left(socket)) };
        let mut every = self.gate.tls.clone();
        let Some(tls) = every.borrow_and_update().get(paths).cloned() else {
            let stop = INTERNAL.into();
            return Err(NoTls::Ended { stop, socket: Some(socket) });
        };
        self.account.stages.enter(Stage::Tls);
        let until = pin!(async {
            tokio::select! {
                () = sleep_until(by) => Reason::HeadTimeout.into(),
                () = evicted(&mut self.place) => asked_to_leave(),
            }
        });
        // In a box: it is large, and most listeners have none.
        let (stream, certificate) = Box::pin(tls::accept(&tls, socket, until)).await?;
        if let Some(certificate) = certificate {
            let names = certificate.names();
            self.account.note("certificate", AuditText::new(&names.to_string()));
            self.asker.certificate = Some(Box::new(names));
            self.proof = Some(Proof { certificate, tls: every });
        }
        self.account.stages.enter(Stage::Head);
        Ok(Either::Right(stream))
    }

    /// From the first byte to a tunnel that may be relayed, of a client that asks with CONNECT.
    /// Whoever is refused was told, and recorded.
    async fn set_up(&mut self, socket: TcpStream, by: Instant) -> Option<Tunnel> {
        let mut socket = match self.secure(socket, by).await {
            Ok(socket) => socket,
            Err(none) => return self.forgo_tls(none).await,
        };
        let arrived = tokio::select! {
            biased;
            arrived = intake::head(&mut socket, by) => arrived,
            () = evicted(&mut self.place) => Err(NoHead::AskedOut),
        };
        let Arrived { head, bytes } = match arrived {
            Ok(arrived) => arrived,
            Err(none) => return self.turn_away(socket, none).await,
        };
        let mut bytes = Bytes::from(bytes);
        let request = bytes.split_to(head.length);
        let Reached { permit, upstream, address } =
            match self.reach(&head.target, &bytes, head.authorization).await {
                Ok(reached) => reached,
                Err(stop) => {
                    let answer = |response| connect::answer(request, response);
                    return self.refuse(socket, &shown(&head.target), stop, answer).await;
                }
            };
        let accepted = self.gate.accepted.in_version(head.version);
        if send(&mut socket, accepted).await.is_err() {
            return self.lose(CLIENT_ABORTED);
        }
        match self.clear(&mut socket, &bytes, permit).await {
            Ok((cleared, hello)) => {
                let hello = Box::new(hello);
                Some(Tunnel { client: socket, upstream, address, cleared, hello })
            }
            Err(stop) => {
                // It need not wait for the client to go.
                drop(upstream);
                self.cut(socket, stop).await
            }
        }
    }

    /// The same, of a client that knows of no gate: its hello names the target.
    async fn set_up_transparent(
        &mut self,
        socket: TcpStream,
        capture: Capture,
        by: Instant,
    ) -> Option<Tunnel> {
        let headed = original_destination(&socket, capture, self.door.address);
        if let Some(to) = headed {
            self.account.head_for(to);
        }
        let mut socket = Either::Left(socket);
        self.asker.login = Login::Impossible;
        let read = tokio::select! {
            biased;
            read = intake::hello(&mut socket, &[], by) => read.map_err(|none| no_hello(&none)),
            () = evicted(&mut self.place) => Err(asked_to_leave()),
        };
        let hello = match read {
            Ok(hello) => hello,
            Err(stop) => return self.cut(socket, stop).await,
        };
        let name = hello.facts.server_name().clone();
        self.account.sni = Some(AuditText::of_name(&name));
        // The port is judged like any other; of who came by itself HTTPS is meant.
        let target = Target { name, port: headed.map_or(HTTPS, |headed| headed.port()) };
        let Reached { permit, upstream, address } = match self.reach(&target, &[], None).await {
            Ok(reached) => reached,
            Err(stop) => return self.cut(socket, stop).await,
        };
        match self.set.judge_hello(permit, hello.facts.server_name()) {
            Ok(cleared) => {
                let hello = Box::new(hello);
                Some(Tunnel { client: socket, upstream, address, cleared, hello })
            }
            Err(denial) => self.cut(socket, denial.into()).await,
        }
    }

    /// Takes the user whose password a client has sent, where a client is known by one at all.
    async fn prove(&mut self, authorization: Option<Authorization>) -> Result<(), Denial> {
        let credentials = match authorization {
            _ if self.set.users().is_empty() => return Ok(()),
            Some(Authorization::Basic(credentials)) => credentials,
            Some(Authorization::Broken) => {
                let remedy = "user and password are malformed";
                return Err(Denial::with_remedy(Reason::CredentialsRequired, remedy));
            }
            Some(Authorization::Other) | None => return Ok(()),
        };
        let by = Instant::now() + self.set.limits().head_timeout;
        let ClientAddress(from) = self.asker.address;
        let checking = self.gate.passwords.check(self.set.users(), credentials, from, by);
        let user = Box::pin(checking).await?;
        self.account.note("user", AuditText::new(&user.name));
        self.asker.login = Login::Proved(Box::new(user));
        Ok(())
    }

    /// From a target to its upstream.
    async fn reach(
        &mut self,
        target: &Target,
        early: &[u8],
        authorization: Option<Authorization>,
    ) -> Result<Reached, Stop> {
        self.account.ask_for(target);
        // It may have been waited for while the policy changed.
        self.set = self.policy.borrow_and_update().clone();
        self.account.generation = self.set.generation();
        if self.door.welcome == Welcome::TurnedAway {
            return Err(Denial::with_remedy(Reason::Draining, "try again").into());
        }
        let mut limits = *self.set.limits();
        limits.open_sessions = limits.open_sessions.min(self.gate.most_sessions);
        self.permit = Some(self.gate.sessions.admit(self.account.client, &limits)?);
        self.account.admit()?;
        self.place = None;
        if early.first().is_some_and(|first| *first != TLS_HANDSHAKE) {
            return Err(Denial::with_remedy(Reason::NotTls, "only TLS passes").into());
        }
        self.prove(authorization).await?;
        let enforcement = self.enforcement(&self.set);
        self.account.client_name = self.set.group_of(&self.asker).map(|one| one.name.clone());
        let allowed = self.set.judge_name(target, &self.asker, enforcement)?;
        self.account.allow(&allowed);
        if let (Some(client), Some(permit)) = (allowed.client(), &mut self.permit) {
            self.gate.sessions.admit_to_group(permit, client)?;
        }
        self.spare(&allowed, enforcement)?;

        self.account.stages.enter(Stage::Resolve);
        let by = Instant::now() + self.set.limits().dial_timeout;
        let answer = self.gate.resolver.resolve(&self.set, &allowed, by).await?;
        let stale = (answer.origin == dial::Origin::Stale).then(|| allowed.clone());
        if stale.is_some() {
            self.account.took_stale_answer();
        }
        let permit = self.vet(allowed, &answer.addresses)?;

        self.account.stages.enter(Stage::Dial);
        let (permit, upstream, address) = match (dial::connect(&permit, by).await, stale) {
            (Ok((upstream, address)), _) => (permit, upstream, address),
            (Err(failure), Some(allowed)) if is_gone(failure) => {
                Box::pin(self.dial_anew(allowed, by)).await?
            }
            (Err(failure), _) => return Err(failure.into()),
        };
        self.account.upstream = Some(address);
        Ok(Reached { permit, upstream, address })
    }

    /// Judges the addresses that an allowed name resolved to.
    fn vet(&mut self, allowed: Allowed, found: &[SocketAddr]) -> Result<Permit, Denial> {
        let own = self.gate.own.borrow().clone();
        self.account.compare_headed(found, &own);
        match self.set.judge_addresses(allowed, found, &own) {
            Ok(vetted) => {
                self.account.drop_addresses(vetted.dropped);
                Ok(vetted.permit)
            }
            Err(none) => {
                self.account.drop_addresses(none.dropped);
                Err(none.denial)
            }
        }
    }

    /// Waits for DNS where a stale address did not accept the connection, and dials what it says.
    async fn dial_anew(
        &mut self,
        allowed: Allowed,
        by: Instant,
    ) -> Result<(Permit, TcpStream, SocketAddr), Stop> {
        let name = &allowed.target().name;
        info!(%name, "nobody is left at the address of an expired DNS answer; DNS is waited for");
        let answer = self.gate.resolver.resolve_anew(&self.set, &allowed, by).await?;
        let permit = self.vet(allowed, &answer.addresses)?;
        let (upstream, address) = dial::connect(&permit, by).await?;
        Ok((permit, upstream, address))
    }

    /// From an accepted CONNECT to a hello that names its host.
    async fn clear(
        &mut self,
        client: &mut ClientStream,
        early: &[u8],
        permit: Permit,
    ) -> Result<(Cleared, Hello), Stop> {
        self.account.stages.enter(Stage::Hello);
        let by = Instant::now() + self.set.limits().hello_timeout;
        let hello = intake::hello(client, early, by).await.map_err(|none| no_hello(&none))?;
        let (name, asked) = (hello.facts.server_name(), &permit.allowed().target().name);
        // They are the same as a rule, and the one that was asked for stays.
        self.account.sni = Some(AuditText::of_name(if name == asked { asked } else { name }));
        let cleared = self.set.judge_hello(permit, name)?;
        Ok((cleared, hello))
    }

    /// Refuses a client that has nothing left to send.
    fn spare(&mut self, allowed: &Allowed, enforcement: Enforcement) -> Result<(), Denial> {
        let spent = relay::hour(&self.gate, allowed).is_some_and(|hour| hour.left() == 0);
        match enforcement {
            Enforcement::Enforce if spent => {
                let remedy = "its client has nothing left for this hour";
                Err(Denial::with_remedy(Reason::UploadBudget, remedy))
            }
            Enforcement::Enforce | Enforcement::Report => Ok(()),
        }
    }

    fn enforcement(&self, set: &PolicySet) -> Enforcement {
        self.door.enforcement.unwrap_or(set.rules().enforcement)
    }
}

/// Whether the connection failed since nobody is left at the address.
fn is_gone(failure: Failure) -> bool {
    [Cause::ConnectRefused, Cause::ConnectUnreachable].contains(&failure.cause)
}

/// The content type of a TLS handshake record (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 22;

const INTERNAL: Failure = Failure { side: Side::Gate, cause: Cause::Internal };

const CLIENT_ABORTED: Failure = Failure { side: Side::Client, cause: Cause::ClientAborted };
