//! The process: binds all addresses, starts, waits for signals, drains.

mod accept;
mod bind;
mod build;
mod descriptors;
mod drain;
mod inherited;
mod prepared;
pub mod sandbox;
mod signals;
mod status;
mod systemd;
mod workers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use anyhow::bail;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{error, info, warn};

pub use inherited::Inherited;
pub use prepared::{Faults, Prepared};

use crate::account::Status;
use crate::admin::{self, Admin};
use crate::config::{ListenerSpec, Loaded, Settings};
use crate::dns::{self, DnsServer};
use crate::listen::listener::{BoundSocket, Listener, Sharing};
use crate::reload::Reloader;
use crate::session::Gate;
use accept::Acceptor;
use bind::BoundSockets;
use build::Inputs;
use drain::{Drain, DrainPhase};
use signals::{SignalEvent, Signals};
use systemd::Systemd;
use workers::Workers;

/// Timeout for writing the last audit lines.
const AUDIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Timeout for connections that are rejected at the end, after everything else has ended.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(3);

/// Timeout for sessions to end after a second signal.
const TERMINATION_TIMEOUT: Duration = Duration::from_secs(1);

/// A running gate.
#[derive(Debug)]
pub struct Running {
    listeners: Vec<Arc<ListenerSpec>>,
    admin: Option<SocketAddr>,
    reload: mpsc::Sender<oneshot::Sender<()>>,
    gate: Arc<Gate>,
    workers: Workers,
    drain: Drain,
    /// Ends the worker threads when dropped.
    _threads: DropGuard,
    /// Ends the background tasks when dropped.
    _background: DropGuard,
}

/// Runs the gate until a signal ends it: `pullgate run`.
///
/// # Errors
/// If an address cannot be bound or the audit cannot be written, or, at the end, if the policy was
/// lost.
pub async fn run(prepared: Prepared, inherited: Inherited) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let service_manager = Systemd::new()?;
    let running = start(prepared, inherited).await?;
    service_manager.ready(running.status());
    tokio::spawn(service_manager.clone().stay_alive(running.workers.clone()));
    let mut meanwhile = None;
    let is_policy_lost = loop {
        let event = match meanwhile.take() {
            Some(event) => event,
            None => tokio::select! {
                event = signals.next() => event,
                () = running.policy_lost() => break true,
            },
        };
        match event {
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
        // A file system that does not answer must not hold up the signal that ends the gate.
        tokio::select! {
            () = running.reload() => {}
            event = signals.next() => meanwhile = Some(event),
        }
        service_manager.ready(running.status());
    };
    running.end(&mut signals, &service_manager).await;
    if is_policy_lost {
        bail!("the task that keeps the policy has ended: restart the gate, and report the log");
    }
    Ok(())
}

/// Starts a gate in this runtime.
///
/// # Errors
/// If an address cannot be bound or the audit cannot be written.
pub async fn start(prepared: Prepared, mut inherited: Inherited) -> anyhow::Result<Running> {
    prepared.log_warnings();
    let Prepared { main, files, loaded, roots } = prepared;
    let Loaded { settings, policy, tls, authority, .. } = loaded;
    let bound = BoundSockets::bind(&settings, &mut inherited)?;
    let admin = bound.admin.as_ref().and_then(admin::Socket::address);
    let mut addresses = bound.addresses();
    addresses.extend(admin);
    let (policy, policy_seen) = watch::channel(Arc::new(policy));
    let (tls, tls_seen) = watch::channel(Arc::new(tls));
    let (authority, authority_seen) = watch::channel(authority);
    let (own, own_seen) = watch::channel(Arc::new(status::own_addresses(&addresses)));
    let inputs = Inputs {
        policy: policy_seen,
        own: own_seen,
        tls: tls_seen,
        authority: authority_seen,
        roots,
    };
    let (gate, workers, threads) = build::gate(&settings, inputs)?;
    let reloader = Reloader::new(&main, &files, settings.clone(), policy, tls, authority);
    let drain = Drain::new();
    let background = CancellationToken::new();
    let until_end = || background.clone().cancelled_owned();
    let (status, keep_status) =
        status::status(&gate, &settings, drain.phases(), reloader.staleness());
    spawn_until(until_end(), keep_status);
    spawn_until(until_end(), status::follow_own_addresses(own, addresses));
    let draining = gate.draining.clone();
    spawn_until(until_end(), cancel_after(drain.reached(DrainPhase::Draining), draining));
    let (reload, reloads) = mpsc::channel(1);
    spawn_until(drain.reached(DrainPhase::Terminating), reloader.run(reloads));

    let listeners: Vec<_> = bound.listeners.iter().map(|(spec, _)| spec.clone()).collect();
    let sharing = bound.sharing();
    if let Some(socket) = bound.admin {
        let until = background.child_token();
        if sharing != Sharing::Exclusive {
            // The successor listens on the same address.
            spawn_until(
                until_end(),
                cancel_after(drain.reached(DrainPhase::Draining), until.clone()),
            );
        }
        serve_admin(socket, until, &gate, status, &listeners);
    }
    serve_dns(&settings, bound.dns, &gate, &drain);
    serve_sessions(bound.listeners, &gate, &workers, &drain)?;
    drain.enter(DrainPhase::Serving);
    Ok(Running {
        listeners,
        admin,
        reload,
        gate,
        workers,
        drain,
        _threads: threads,
        _background: background.drop_guard(),
    })
}

impl Running {
    /// Returns the listeners with their bound ports.
    #[must_use]
    pub fn listeners(&self) -> &[Arc<ListenerSpec>] {
        &self.listeners
    }

    /// Returns the address of the admin listener; `None` if it is not on TCP.
    #[must_use]
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Reloads the files, as SIGHUP does. Returns when finished, successful or not.
    pub async fn reload(&self) {
        let (done, is_done) = oneshot::channel();
        if self.reload.send(done).await.is_ok() {
            let _ = is_done.await;
        }
    }

    /// Waits until the policy is gone: the reload task has ended, because of a bug or because the
    /// gate ended. Open tunnels were closed before.
    async fn policy_lost(&self) {
        self.reload.closed().await;
        error!("the task that keeps the policy has ended: no session is allowed, the gate ends");
    }

    /// Stops accepting sessions, waits at most `patience` for open ones, then closes them.
    pub async fn stop(self, patience: Duration) {
        self.drain.enter(DrainPhase::Draining);
        if timeout(patience, self.drained()).await.is_err() {
            self.terminate().await;
        }
        self.finish().await;
    }

    /// Stops as configured, or immediately on another signal.
    async fn end(self, signals: &mut Signals, service_manager: &Systemd) {
        let patience = self.gate.policy.borrow().limits().drain_timeout;
        let open = self.workers.sessions();
        info!(open, "ending: no new sessions; open ones have {} s", patience.as_secs());
        self.drain.enter(DrainPhase::Draining);
        service_manager.stopping(format!("{open} sessions open"));
        let mut due = interval(systemd::ENDING);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut drained = Box::pin(timeout(patience, self.drained()));
        loop {
            tokio::select! {
                ended = &mut drained => {
                    if ended.is_err() {
                        let open = self.workers.sessions();
                        warn!(open, "ending: drain-timeout-ms is over, open sessions are ended");
                        self.terminate().await;
                    }
                    break;
                }
                event = signals.next() => match event {
                    // A rotation also affects the successor's audit.
                    SignalEvent::Reload | SignalEvent::ReopenAudit => {
                        self.gate.account.reopen_audit();
                    }
                    SignalEvent::End => {
                        warn!("ending at once");
                        let _ = timeout(TERMINATION_TIMEOUT, self.terminate()).await;
                        break;
                    }
                },
                _ = due.tick() => {
                    service_manager.stopping(format!("{} sessions open", self.workers.sessions()));
                }
            }
        }
        drop(drained);
        self.finish().await;
    }

    /// Waits until no session can start and none is open.
    async fn drained(&self) {
        self.drain.no_new_sessions().await;
        self.workers.emptied().await;
    }

    /// Closes the open sessions. Each notifies its client, within its own timeout.
    async fn terminate(&self) {
        self.drain.enter(DrainPhase::Terminating);
        self.drained().await;
    }

    /// Ends everything else and writes the last audit lines.
    async fn finish(self) {
        self.drain.enter(DrainPhase::Over);
        let _ = timeout(REFUSAL_TIMEOUT, self.drain.all_refused()).await;
        let account = self.gate.account.clone();
        // Waits for the audit thread.
        let _ = tokio::task::spawn_blocking(move || account.finish(AUDIT_TIMEOUT)).await;
    }

    fn status(&self) -> String {
        let generation = self.gate.policy.borrow().generation();
        format!("serving, policy generation {generation}")
    }
}

fn serve_admin(
    socket: admin::Socket,
    until: CancellationToken,
    gate: &Gate,
    status: watch::Receiver<Status>,
    listeners: &[Arc<ListenerSpec>],
) {
    if let Some(address) = socket.address() {
        info!("admin on {address}");
    }
    let (account, policy) = (gate.account.clone(), gate.policy.clone());
    let (listeners, started) = (listeners.to_vec(), Instant::now());
    Admin { account, policy, status, listeners, started }.start(socket, until);
}

fn serve_dns(settings: &Settings, bound: Vec<dns::Bound>, gate: &Gate, drain: &Drain) {
    let Some(answerer) = &settings.answerer else { return };
    let server = DnsServer::new(answerer, gate.into());
    for bound in bound {
        info!("answering DNS on {}", bound.address());
        spawn_until(drain.reached(DrainPhase::Draining), server.clone().serve(bound));
    }
}

/// Listens, now that nothing else can fail.
fn serve_sessions(
    bound: Vec<(Arc<ListenerSpec>, BoundSocket)>,
    gate: &Arc<Gate>,
    workers: &Workers,
    drain: &Drain,
) -> anyhow::Result<()> {
    for (spec, socket) in bound {
        let tls = if spec.tls.is_some() { ", TLS" } else { "" };
        info!("listening on {} ({}{tls})", spec.address, spec.mode.code());
        let listener = workers.within(|| Listener::new(spec, socket))?;
        let (gate, drain) = (gate.clone(), drain.clone());
        let acceptor = Acceptor { listener, gate, workers: workers.clone(), drain };
        workers.spawn_acceptor(acceptor.run());
    }
    Ok(())
}

/// Runs a background task until `until` resolves.
fn spawn_until(
    until: impl Future<Output = ()> + Send + 'static,
    work: impl Future<Output = ()> + Send + 'static,
) {
    tokio::spawn(async move {
        tokio::select! {
            () = until => {}
            () = work => {}
        }
    });
}

async fn cancel_after(event: impl Future<Output = ()>, token: CancellationToken) {
    event.await;
    token.cancel();
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
        running.drain.enter(DrainPhase::Terminating);
        lost.await;
        assert_eq!(running.gate.policy.has_changed().ok(), None, "and its sessions see it");
        running.stop(Duration::ZERO).await;
    }
}
