//! Builds everything from the settings, starts it, waits for signals, drains.

mod accept;
mod bind;
mod descriptors;
mod listener;
pub mod sandbox;
mod signals;
mod status;
mod systemd;
mod workers;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{error, info, warn};

pub use bind::Inherited;

use crate::account::{Account, OnFull, Phase, Sink};
use crate::admin::{self, Admin, ListenerInfo};
use crate::config::{self, AdminAddress, AuditTarget, Files, Listener, Loaded, Mode, Settings};
use crate::dial::Resolver;
use crate::dns::{self, DnsServer, Sources};
use crate::limits::{Passwords, PendingConnections, Quotas, Sessions};
use crate::listen::http::connect::Accepted;
use crate::policy::{Enforcement, Fault};
use crate::relay::{self, Relay};
use crate::reload::{self, Reloader};
use crate::session::{Door, Gate, Welcome};
use accept::{Acceptor, Ending};
use bind::{Bound, Holding};
use descriptors::DescriptorBudget;
use listener::Ear;
use signals::{SignalEvent, Signals};
use systemd::Systemd;
use workers::Workers;

/// How long the audit may take to write its last lines.
const LAST_LINES: Duration = Duration::from_secs(5);

/// How long those may take who are told to come again, when all else has ended.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// How long sessions may take to end when they are ended at once.
const AT_ONCE: Duration = Duration::from_secs(1);

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
    reload: mpsc::Sender<oneshot::Sender<()>>,
    gate: Arc<Gate>,
    phase: watch::Sender<Phase>,
    workers: Workers,
    ending: Ending,
    /// Cancelled when the operator is to look elsewhere.
    looking: CancellationToken,
    /// Cancelled when open sessions may last no longer: there is no policy to be had any more.
    policing: CancellationToken,
    holding: Holding,
    /// Ends the threads of the sessions, when dropped.
    _dismissal: DropGuard,
    /// Ends what serves the gate beside the sessions, when dropped.
    _serving: DropGuard,
}

/// Runs the gate until a signal ends it: `pullgate run`.
///
/// # Errors
/// When addresses cannot be bound, or accounts cannot be kept; after the end, where no policy was to
/// be had any more.
pub async fn run(prepared: Prepared, inherited: Inherited) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let service_manager = Systemd::new()?;
    let running = start(prepared, inherited).await?;
    service_manager.ready(running.status());
    tokio::spawn(service_manager.clone().stay_alive(running.workers.clone()));
    let lost = loop {
        let told = tokio::select! {
            told = signals.next() => told,
            () = running.policy_lost() => break true,
        };
        match told {
            SignalEvent::End => break false,
            SignalEvent::ReopenAudit => {
                info!("SIGUSR1: reopening the audit");
                running.gate.account.reopen_audit();
                continue;
            }
            SignalEvent::Reload => {}
        }
        info!("SIGHUP: reading the configuration, reopening the audit");
        service_manager.reloading();
        running.gate.account.reopen_audit();
        running.reload().await;
        service_manager.ready(running.status());
    };
    running.end(&mut signals, &service_manager).await;
    if lost {
        bail!("what keeps the policy has ended: start the gate again, and report what it said");
    }
    Ok(())
}

/// A configuration that has been read and holds no fault.
#[derive(Debug)]
pub struct Prepared {
    main: PathBuf,
    files: Files,
    loaded: Loaded,
}

impl Prepared {
    /// Reads the configuration.
    ///
    /// # Errors
    /// Its faults.
    pub fn read(main: &Path) -> Result<Self, Faults> {
        let files = reload::read_files(main).map_err(Faults)?;
        let loaded = config::compile(&files, 1).map_err(Faults)?;
        Ok(Self { main: main.to_owned(), files, loaded })
    }

    /// Gives up what the process does not need for it, for good: call it while there is one thread.
    pub fn confine(&self) {
        sandbox::drop_privileges();
        sandbox::restrict_files(&self.main, &self.loaded.settings);
    }
}

/// Starts a gate in this runtime.
///
/// # Errors
/// When addresses cannot be bound, or accounts cannot be kept.
pub async fn start(prepared: Prepared, mut inherited: Inherited) -> anyhow::Result<Running> {
    let Prepared { main, files, loaded } = prepared;
    let Loaded { settings, policy, tls, warnings } = loaded;
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
    let bound = bind(&settings, &mut inherited)?;
    let answering = bind_answerer(&settings)?;
    let listeners: Vec<ListenerInfo> = bound.iter().map(|(_, info)| info.clone()).collect();
    let looked_at = look(&settings, &mut inherited)?;
    inherited.nothing_left()?;
    let (policy, policy_seen) = watch::channel(Arc::new(policy));
    let (tls, tls_seen) = watch::channel(Arc::new(tls));
    let serving = CancellationToken::new();
    let mut listening: Vec<SocketAddr> = listeners.iter().map(|info| info.address).collect();
    listening.extend(settings.answerer.iter().flat_map(|answerer| &answerer.addresses));
    let (own, own_seen) = watch::channel(Arc::new(status::own_addresses(&listening)));
    let sink = match &settings.audit {
        AuditTarget::StandardOutput => Sink::StandardOutput,
        AuditTarget::File(path) => Sink::File(path.clone()),
        AuditTarget::Syslog(path) => Sink::Syslog(path.clone()),
        AuditTarget::Journal(path) => Sink::Journal(path.clone()),
    };
    let on_full = match settings.on_full {
        config::OnFull::GoOn => OnFull::GoOn,
        config::OnFull::Stop => OnFull::Stop,
    };
    let account = Account::with(prometheus::Registry::new(), sink, on_full)?;
    let room = DescriptorBudget::new(descriptors::descriptors());
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
        sessions: Sessions::default(),
        shares: Quotas::default(),
        passwords: Passwords::new(threads / 2)?,
        accepted: Accepted::new()?,
        lobby: PendingConnections::new(room.lobby),
        most_sessions: room.sessions,
    });
    let reloader = Reloader::new(&main, &files, settings.clone(), policy, tls);
    let (phase, phase_seen) = watch::channel(Phase::Starting);
    let status = status::status(&gate, &settings, phase_seen, reloader.staleness(), &serving);
    let looking = serving.child_token();
    let admin = match looked_at {
        Some(socket) => {
            let address = socket.address();
            let listeners = listeners.clone();
            Admin { account, policy: policy_seen, status, listeners }
                .start(socket, looking.clone());
            if let Some(address) = address {
                info!("admin on {address}");
            }
            address
        }
        None => None,
    };
    listening.extend(admin);
    own.send_replace(Arc::new(status::own_addresses(&listening)));
    spawn_until(&serving, status::follow_own_addresses(own, listening));
    let (reload, asked) = mpsc::channel(1);
    let policing = serving.child_token();
    spawn_until(&policing, reloader.run(asked));
    let (workers, dismissal) = Workers::start(threads).context("no thread to serve with")?;
    gate.account.count_tasks_of(workers.runtimes());
    let ending = Ending::default();
    if let Some(answerer) = &settings.answerer {
        let answerer = DnsServer::new(answerer, gate.as_ref().into());
        for bound in answering {
            info!("answering DNS on {}", bound.address());
            spawn_until(&ending.begun, answerer.clone().serve(bound));
        }
    }
    let holding = bound.first().map_or(Holding::Alone, |(bound, _)| bound.holding);
    for (bound, info) in bound {
        let door = Door {
            address: info.address,
            name: info.address.to_string().into(),
            mode: info.mode,
            enforcement: info.enforcement,
            balancers: info.balancers,
            tls: info.tls,
            welcome: Welcome::Served,
        };
        let tls = if door.tls.is_some() { ", TLS" } else { "" };
        info!("listening on {} ({}{tls})", info.address, info.mode.code());
        let (gate, ending, holding) = (gate.clone(), ending.clone(), bound.holding);
        let listener = workers.within(|| Ear::new(bound.listen()?))?;
        let acceptor = Acceptor { listener, holding, gate, door, workers: workers.clone(), ending };
        workers.spawn_acceptor(acceptor.run());
    }
    phase.send_replace(Phase::Serving);
    Ok(Running {
        listeners,
        admin,
        reload,
        gate,
        phase,
        workers,
        ending,
        looking,
        policing,
        holding,
        _dismissal: dismissal,
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

    /// Reads the files anew, as SIGHUP does; returns when that is done, well or not.
    pub async fn reload(&self) {
        let (done, told) = oneshot::channel();
        if self.reload.send(done).await.is_ok() {
            let _ = told.await;
        }
    }

    /// Waits until no policy is to be had any more: what reads it has ended, which only a fault of
    /// ours or the gate's own end brings about. Open tunnels have been ended by then.
    async fn policy_lost(&self) {
        self.reload.closed().await;
        error!("what keeps the policy has ended: no session is allowed any more, the gate ends");
    }

    /// Stops taking sessions, lets the open ones end for as long as `patience`, then ends them.
    pub async fn stop(self, patience: Duration) {
        self.let_go();
        if timeout(patience, self.emptied()).await.is_err() {
            self.cut().await;
        }
        self.finish().await;
    }

    /// Stops as the settings say, unless another signal ends it at once.
    async fn end(self, signals: &mut Signals, service_manager: &Systemd) {
        let patience = self.gate.policy.borrow().limits().drain_timeout;
        let open = self.workers.sessions();
        info!(open, "ending: no new sessions; open ones have {} s", patience.as_secs());
        self.let_go();
        service_manager.stopping(format!("{open} sessions open"));
        let mut due = interval(systemd::ENDING);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut emptied = Box::pin(timeout(patience, self.emptied()));
        loop {
            tokio::select! {
                ended = &mut emptied => {
                    if ended.is_err() {
                        let open = self.workers.sessions();
                        warn!(open, "ending: the time is over for the sessions that are open");
                        self.cut().await;
                    }
                    break;
                }
                told = signals.next() => match told {
                    // The successor's audit is rotated at the same time.
                    SignalEvent::Reload | SignalEvent::ReopenAudit => {
                        self.gate.account.reopen_audit();
                    }
                    SignalEvent::End => {
                        warn!("ending at once");
                        let _ = timeout(AT_ONCE, self.cut()).await;
                        break;
                    }
                },
                _ = due.tick() => {
                    service_manager.stopping(format!("{} sessions open", self.workers.sessions()));
                }
            }
        }
        drop(emptied);
        self.finish().await;
    }

    /// Takes no session more. Where somebody else serves, the operator looks there from now on.
    fn let_go(&self) {
        self.phase.send_replace(Phase::Draining);
        self.ending.begun.cancel();
        if self.holding != Holding::Alone {
            self.looking.cancel();
        }
    }

    /// Waits until no session can come any more, and none is open.
    async fn emptied(&self) {
        self.ending.taking.close();
        self.ending.taking.wait().await;
        self.workers.emptied().await;
    }

    /// Ends the open sessions; each says its last word within bounds of its own.
    async fn cut(&self) {
        self.policing.cancel();
        self.emptied().await;
    }

    async fn finish(self) {
        self.ending.over.cancel();
        self.ending.turned_away.close();
        let _ = timeout(LAST_WORDS, self.ending.turned_away.wait()).await;
        let account = self.gate.account.clone();
        // It waits for the audit's own thread.
        let _ = tokio::task::spawn_blocking(move || account.finish(LAST_LINES)).await;
    }

    fn status(&self) -> String {
        let generation = self.gate.policy.borrow().generation();
        format!("serving, policy generation {generation}")
    }
}

/// Binds every listener before any is served: all or none.
fn bind(
    settings: &Settings,
    inherited: &mut Inherited,
) -> anyhow::Result<Vec<(Bound, ListenerInfo)>> {
    let mut bound = Vec::with_capacity(settings.listeners.len());
    for Listener { mode, address, enforcement, balancers, tls } in &settings.listeners {
        let socket = Bound::new(*address, *mode, inherited, settings.conduct.ports)
            .map_err(|error| with_capability(error, *address))
            .with_context(|| format!("cannot listen on {address}"))?;
        let address = socket.address()?;
        let (enforcement, balancers) = (*enforcement, balancers.clone());
        let (mode, tls) = (*mode, tls.clone());
        let info = ListenerInfo { mode, address, enforcement, balancers, tls };
        bound.push((socket, info));
    }
    if bound.is_empty() {
        bail!("the configuration has no [[listen]]");
    }
    Ok(bound)
}

/// Binds what the answerer is asked on.
fn bind_answerer(settings: &Settings) -> anyhow::Result<Vec<dns::Bound>> {
    let addresses = settings.answerer.iter().flat_map(|answerer| &answerer.addresses);
    let bind = |address: &SocketAddr| {
        bind::both_transports(*address, settings.conduct.ports)
            .map(|(udp, tcp)| dns::Bound::new(*address, udp, tcp))
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

/// Where the operator looks in: bound like the listeners, or made beside them.
fn look(settings: &Settings, inherited: &mut Inherited) -> anyhow::Result<Option<admin::Socket>> {
    let Some(address) = &settings.admin else { return Ok(None) };
    let ports = settings.conduct.ports;
    let socket = match address {
        AdminAddress::Tcp(address) => Bound::new(*address, Mode::Connect, inherited, ports)
            .and_then(Bound::listen_here)
            .and_then(admin::Socket::tcp),
        AdminAddress::Unix(path) => match inherited.unix(path) {
            Some(listener) => admin::Socket::inherited(listener),
            None => admin::Socket::unix(path, ports),
        },
    };
    socket.map(Some).context("the admin listener")
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
    use super::*;

    #[tokio::test]
    async fn a_gate_whose_policy_is_lost_knows_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pullgate.toml");
        std::fs::create_dir(folder.path().join("registries.d")).unwrap();
        let text = "[[listen]]\nmode = \"connect\"\naddress = \"127.0.0.1:0\"\n\
                    [policy]\ndeny-all = true\n[audit]\npath = \"audit.jsonl\"\n";
        std::fs::write(&file, text).unwrap();
        let running = start(Prepared::read(&file).unwrap(), Inherited::default()).await.unwrap();
        running.reload().await;
        let mut lost = Box::pin(running.policy_lost());
        let now = std::future::poll_fn(|context| {
            std::task::Poll::Ready(lost.as_mut().poll(context).is_ready())
        });
        assert!(!now.await, "it is kept");
        // As a panic in it would.
        running.policing.cancel();
        lost.await;
        assert_eq!(running.gate.policy.has_changed().ok(), None, "and its sessions are told");
        running.stop(Duration::ZERO).await;
    }
}
