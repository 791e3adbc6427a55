//! Builds everything from the settings, starts it, waits for signals, drains.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::account::{Account, Phase, Sink, Status};
use crate::admin::{Admin, ListenerInfo};
use crate::answerer::{Answerer, Bound, Sources};
use crate::config::{self, AuditTarget, Capture, Listener, Loaded, Mode, Settings};
use crate::dial::{self, Resolver};
use crate::listen::lobby::Lobby;
use crate::listen::transparent::accept_foreign;
use crate::policy::{Enforcement, Fault, OwnAddresses, PolicySet};
use crate::relay::{self, Hours, Relay};
use crate::reload::{self, Reloader, Staleness};
use crate::session::{self, Door, Gate};

/// How long open sessions may go on after the first signal to end.
const DRAIN: Duration = Duration::from_secs(30);

/// How long the audit may take to write its last lines.
const LAST_LINES: Duration = Duration::from_secs(5);

/// How often the machine's own addresses are read anew: interfaces come and go.
const OWN_ADDRESSES: Duration = Duration::from_secs(30);

/// How long accepting pauses when no connection can be had: no descriptor, no memory.
const BACKOFF: Duration = Duration::from_millis(50);

/// How often the log says so, while it lasts.
const TOLD_AGAIN: Duration = Duration::from_secs(10);

/// Connections that the kernel queues for a listener.
const BACKLOG: i32 = 4096;

/// Faults of the configuration, as an error that names every one.
#[derive(Debug, thiserror::Error)]
#[error("the configuration has {} fault(s):\n{}", .0.len(), lines(.0))]
pub struct Faults(pub Vec<Fault>);

fn lines(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("  {fault}")).collect::<Vec<_>>().join("\n")
}

/// A gate that runs.
#[derive(Debug)]
pub struct Running {
    listeners: Vec<ListenerInfo>,
    admin: Option<SocketAddr>,
    reload: mpsc::Sender<()>,
    gate: Arc<Gate>,
    phase: watch::Sender<Phase>,
    accepting: CancellationToken,
    sessions: TaskTracker,
    /// Ends what serves the gate beside the sessions, when dropped.
    _serving: tokio_util::sync::DropGuard,
}

/// Runs the gate until a signal ends it: `pullgate run`.
///
/// # Errors
/// Faults of the configuration, and addresses that cannot be bound.
pub async fn run(config: &Path) -> anyhow::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let running = start(config).await?;
    loop {
        tokio::select! {
            _ = hangup.recv() => {
                info!("SIGHUP: reading the configuration, reopening the audit");
                running.gate.account.reopen_audit();
                running.reload();
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    let open = running.sessions.len();
    info!(open, "ending: no new sessions; open ones have {} s", DRAIN.as_secs());
    tokio::select! {
        () = running.stop(DRAIN) => {}
        _ = terminate.recv() => warn!("ending at once"),
        _ = interrupt.recv() => warn!("ending at once"),
    }
    Ok(())
}

/// Starts a gate in this runtime.
///
/// # Errors
/// Faults of the configuration, and addresses that cannot be bound.
pub async fn start(config: &Path) -> anyhow::Result<Running> {
    let files = reload::read_files(config).map_err(Faults)?;
    let Loaded { settings, policy, tls, warnings } = config::compile(&files, 1).map_err(Faults)?;
    for warning in warnings {
        warn!("{warning}");
    }
    let everywhere = policy.rules().enforcement;
    for Listener { address, enforcement, .. } in &settings.listeners {
        if enforcement.unwrap_or(everywhere) == Enforcement::Report {
            warn!(
                "{address} only reports: what the policy would deny passes, and is recorded as \
                 would-deny"
            );
        }
    }
    let bound = bind(&settings)?;
    let answering = bind_answerer(&settings)?;
    let listeners: Vec<ListenerInfo> = bound.iter().map(|(_, info)| info.clone()).collect();
    let (policy, policy_seen) = watch::channel(Arc::new(policy));
    let (tls, tls_seen) = watch::channel(Arc::new(tls));
    let serving = CancellationToken::new();
    let mut listening: Vec<SocketAddr> = listeners.iter().map(|info| info.address).collect();
    listening.extend(settings.answerer.iter().flat_map(|answerer| &answerer.addresses));
    let (own, own_seen) = watch::channel(Arc::new(own_addresses(&listening)));
    let sink = match &settings.audit {
        AuditTarget::StandardOutput => Sink::StandardOutput,
        AuditTarget::File(path) => Sink::File(path.clone()),
    };
    let account = Account::new(prometheus::Registry::new(), sink)?;
    let room = Room::new(descriptors());
    if policy_seen.borrow().limits().open_sessions > room.sessions {
        info!("the limit of open files (RLIMIT_NOFILE) allows {} open sessions", room.sessions);
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let gate = Arc::new(Gate {
        resolver: Arc::new(Resolver::new(&policy_seen.borrow().rules().dns_servers)),
        relay: Relay::new(relay::Settings { batch: settings.batch, pipes: threads }),
        policy: policy_seen.clone(),
        own: own_seen,
        tls: tls_seen,
        account: account.clone(),
        hours: Hours::default(),
        lobby: Lobby::new(room.lobby),
        most_sessions: room.sessions,
        halt: CancellationToken::new(),
    });
    let reloader = Reloader::new(config, &files, settings.clone(), policy, tls);
    let (phase, phase_seen) = watch::channel(Phase::Starting);
    let status = status(&gate, &settings, phase_seen, reloader.staleness(), &serving);
    let admin = match &settings.admin {
        Some(address) => {
            let admin = Admin {
                account,
                policy: policy_seen,
                status,
                listeners: listeners.clone(),
                address: address.clone(),
            };
            let bound = admin.start(serving.clone()).await.context("the admin listener")?;
            if let Some(address) = bound {
                info!("admin on {address}");
            }
            Some(bound)
        }
        None => None,
    };
    listening.extend(admin.flatten());
    own.send_replace(Arc::new(own_addresses(&listening)));
    spawn_until(&serving, follow_own_addresses(own, listening));
    let (reload, asked) = mpsc::channel(1);
    spawn_until(&serving, reloader.run(asked));
    let accepting = CancellationToken::new();
    let sessions = TaskTracker::new();
    if let Some(answerer) = &settings.answerer {
        let answerer = Answerer::new(answerer, gate.as_ref().into());
        for bound in answering {
            info!("answering DNS on {}", bound.address());
            spawn_until(&accepting, answerer.clone().serve(bound));
        }
    }
    for (listener, info) in bound {
        let door = Door {
            address: info.address,
            name: info.address.to_string().into(),
            mode: info.mode,
            enforcement: info.enforcement,
            balancers: info.balancers,
            tls: info.tls,
        };
        let tls = if door.tls.is_some() { ", TLS" } else { "" };
        info!("listening on {} ({}{tls})", info.address, info.mode.code());
        let accept = accept(listener, gate.clone(), Arc::new(door), sessions.clone());
        spawn_until(&accepting, accept);
    }
    phase.send_replace(Phase::Serving);
    Ok(Running {
        listeners,
        admin: admin.flatten(),
        reload,
        gate,
        phase,
        accepting,
        sessions,
        _serving: serving.drop_guard(),
    })
}

impl Running {
    /// What is listened on, with the ports that were found.
    #[must_use]
    pub fn listeners(&self) -> &[ListenerInfo] {
        &self.listeners
    }

    /// Where the admin listener is, where it is on TCP.
    #[must_use]
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Asks for a reload, as SIGHUP does.
    pub fn reload(&self) {
        // A full channel holds such a request already.
        let _ = self.reload.try_send(());
    }

    /// Stops accepting, lets the open sessions end for as long as `patience`, then ends them.
    pub async fn stop(self, patience: Duration) {
        self.phase.send_replace(Phase::Draining);
        self.accepting.cancel();
        self.sessions.close();
        if tokio::time::timeout(patience, self.sessions.wait()).await.is_err() {
            self.gate.halt.cancel();
            // Each says its last word within bounds of its own.
            self.sessions.wait().await;
        }
        let account = self.gate.account.clone();
        // It waits for the audit's own thread.
        let _ = tokio::task::spawn_blocking(move || account.finish(LAST_LINES)).await;
    }
}

/// Binds every listener before any is served: all or none.
fn bind(settings: &Settings) -> anyhow::Result<Vec<(TcpListener, ListenerInfo)>> {
    let mut bound = Vec::with_capacity(settings.listeners.len());
    for Listener { mode, address, enforcement, balancers, tls } in &settings.listeners {
        let listener = listen(*address, *mode)
            .map_err(|error| with_capability(error, *address))
            .with_context(|| format!("cannot listen on {address}"))?;
        let address = listener.local_addr()?;
        let (enforcement, balancers) = (*enforcement, balancers.clone());
        let (mode, tls) = (*mode, tls.clone());
        let info = ListenerInfo { mode, address, enforcement, balancers, tls };
        bound.push((listener, info));
    }
    if bound.is_empty() {
        bail!("the configuration has no [[listen]]");
    }
    Ok(bound)
}

/// Binds what the answerer is asked on.
fn bind_answerer(settings: &Settings) -> anyhow::Result<Vec<Bound>> {
    let addresses = settings.answerer.iter().flat_map(|answerer| &answerer.addresses);
    let bind = |address: &SocketAddr| {
        listen(*address, Mode::Connect)
            .and_then(|tcp| Bound::new(*address, tcp))
            .map_err(|error| with_capability(error, *address))
            .with_context(|| format!("cannot answer DNS on {address}"))
    };
    addresses.map(bind).collect()
}

/// Says which capability a port takes, where that is what is missing.
fn with_capability(error: io::Error, address: SocketAddr) -> io::Error {
    let is_bare = error.raw_os_error().is_some();
    if !(is_bare && error.kind() == io::ErrorKind::PermissionDenied && address.port() < 1024) {
        return error;
    }
    io::Error::new(
        error.kind(),
        "ports below 1024 take the capability CAP_NET_BIND_SERVICE: give it to the process \
         (AmbientCapabilities=CAP_NET_BIND_SERVICE in its unit), or choose another port",
    )
}

fn listen(address: SocketAddr, mode: Mode) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    socket.set_reuse_address(true)?;
    if mode == Mode::Transparent(Capture::Tproxy) {
        accept_foreign(&socket, address)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

impl From<&Gate> for Sources {
    fn from(gate: &Gate) -> Self {
        Self {
            policy: gate.policy.clone(),
            own: gate.own.clone(),
            resolver: gate.resolver.clone(),
            account: gate.account.clone(),
        }
    }
}

/// How many descriptors the process may have; the soft limit is raised to the hard one first.
fn descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let soft = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    soft.and_then(|soft| usize::try_from(soft).ok()).unwrap_or(1 << 20)
}

/// How the descriptors are shared out: connections that have not said a word hold one, sessions
/// two, and DNS, the admin listener, the audit and the pipes live on a reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Room {
    lobby: usize,
    sessions: usize,
}

impl Room {
    fn new(descriptors: usize) -> Self {
        let reserve = 128 + descriptors / 128;
        let lobby = (descriptors / 16).clamp(8, 16_384);
        let sessions = descriptors.saturating_sub(reserve + lobby) / 2;
        Self { lobby, sessions: sessions.max(1) }
    }
}

/// Accepts connections until cancelled, each into a task of its own.
async fn accept(listener: TcpListener, gate: Arc<Gate>, door: Arc<Door>, sessions: TaskTracker) {
    let mut told: Option<Instant> = None;
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                prepare(&socket);
                sessions.spawn(session::serve(gate.clone(), door.clone(), socket, peer));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // Out of descriptors or memory: trying at once would spin.
                if told.is_none_or(|at| at.elapsed() >= TOLD_AGAIN) {
                    warn!(%error, listener = %door.name, "cannot accept");
                    told = Some(Instant::now());
                }
                tokio::time::sleep(BACKOFF).await;
            }
        }
    }
}

fn prepare(socket: &TcpStream) {
    // A socket that refuses the option is served without it.
    let _ = socket.set_nodelay(true);
}

/// Errors of accept(2) that concern the connection which was to be accepted, not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, PermissionDenied};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | PermissionDenied)
}

/// The machine's own addresses as they are now, and where the gate listens.
fn own_addresses(listening: &[SocketAddr]) -> OwnAddresses {
    OwnAddresses { interfaces: dial::interfaces(), listeners: listening.to_vec() }
}

/// Reads the machine's own addresses anew from time to time.
async fn follow_own_addresses(own: watch::Sender<Arc<OwnAddresses>>, listening: Vec<SocketAddr>) {
    loop {
        tokio::time::sleep(OWN_ADDRESSES).await;
        let fresh = own_addresses(&listening);
        own.send_if_modified(|known| {
            let changed = **known != fresh;
            if changed {
                *known = Arc::new(fresh);
            }
            changed
        });
    }
}

/// Puts together how the gate stands, whenever a part of it changes.
fn status(
    gate: &Gate,
    settings: &Settings,
    mut phase: watch::Receiver<Phase>,
    mut stale: watch::Receiver<Staleness>,
    serving: &CancellationToken,
) -> watch::Receiver<Status> {
    let mut policy = gate.policy.clone();
    let own: Vec<Option<Enforcement>> =
        settings.listeners.iter().map(|listener| listener.enforcement).collect();
    let now = move |policy: &PolicySet, phase: Phase, stale: &Staleness| {
        let everywhere = policy.rules().enforcement;
        let reports = own.iter().any(|one| one.unwrap_or(everywhere) == Enforcement::Report);
        Status {
            phase,
            generation: policy.generation(),
            stale: stale.0.clone(),
            enforcement: if reports { Enforcement::Report } else { Enforcement::Enforce },
        }
    };
    let first =
        now(&policy.borrow_and_update(), *phase.borrow_and_update(), &stale.borrow_and_update());
    let (sender, receiver) = watch::channel(first);
    spawn_until(serving, async move {
        loop {
            let gone = tokio::select! {
                changed = policy.changed() => changed.is_err(),
                changed = phase.changed() => changed.is_err(),
                changed = stale.changed() => changed.is_err(),
            };
            if gone {
                return;
            }
            let fresh = now(
                &policy.borrow_and_update(),
                *phase.borrow_and_update(),
                &stale.borrow_and_update(),
            );
            sender.send_replace(fresh);
        }
    });
    receiver
}

/// Runs something beside the sessions until the token is cancelled.
fn spawn_until(token: &CancellationToken, work: impl Future<Output = ()> + Send + 'static) {
    let token = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = token.cancelled() => {}
            () = work => {}
        }
    });
}

#[cfg(test)]
mod tests {
    use super::Room;

    #[test]
    fn descriptors_suffice_for_what_they_are_shared_out_to() {
        for descriptors in [256, 1024, 20_000, 1 << 20] {
            let Room { lobby, sessions } = Room::new(descriptors);
            assert!(lobby + 2 * sessions + 128 <= descriptors, "{descriptors}");
        }
        assert!(Room::new(20_000).sessions >= 9_000);
    }
}
