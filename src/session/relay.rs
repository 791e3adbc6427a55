//! The long phase of a session: its bytes are moved until a side is done, or until a reload takes
//! away what it was permitted.

use std::pin::pin;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::either::Either;

use super::{Gate, Session, Tunnel};
use crate::account::{Moved, Stage, Volume};
use crate::config::{TlsOfListeners, TlsPaths};
use crate::limits::{Bounds, RateOwner, Throttle, UploadQuota};
use crate::listen::tls::ClientCertificate;
use crate::policy::{Allowed, Enforcement, Reason, Stop};
use crate::relay::{Count, Traffic, TunnelEnds};

/// A client's certificate, and what it is judged by after a reload.
pub(super) struct Proof {
    pub(super) certificate: ClientCertificate,
    /// Seen when the certificate was judged.
    pub(super) tls: watch::Receiver<Arc<TlsOfListeners>>,
}

impl Proof {
    /// Judges it again, where there is something new to judge it by.
    fn still_stands(&mut self, paths: &TlsPaths) -> bool {
        if !self.tls.has_changed().unwrap_or(false) {
            return true;
        }
        let every = self.tls.borrow_and_update().clone();
        every.get(paths).is_some_and(|tls| self.certificate.judge_by(tls).is_ok())
    }
}

impl Session {
    /// Moves the bytes until somebody ends it.
    ///
    /// Not `async fn`, and taken apart ahead of the future: one keeps its arguments and what they
    /// are moved to side by side, for as long as the tunnel lives.
    pub(super) fn relay(mut self, tunnel: Tunnel) -> impl Future<Output = ()> + Send {
        self.account.stages.enter(Stage::Relay);
        let allowed = tunnel.cleared.permit().allowed();
        let bounds = Bounds::within(hour(&self.gate, allowed), rates(&self.gate, allowed));
        let traffic = Arc::new(Traffic::within(bounds));
        bound(&traffic, allowed, self.enforcement(&self.set));
        let seen = traffic.clone();
        self.account.follow(Box::new(move || volume(&seen)));
        let Self { gate, door, asker, mut proof, mut account, permit, mut policy, set, place: _ } =
            self;
        let Tunnel { client: socket, upstream, address, cleared, hello } = tunnel;
        let (second_hello, idle) = (set.limits().hello_timeout, set.limits().idle_timeout);
        drop(set);
        let mut sides = match socket {
            Either::Left(client) => {
                Either::Left(TunnelEnds { client, upstream, second_hello, idle })
            }
            Either::Right(client) => {
                Either::Right(TunnelEnds { client, upstream, second_hello, idle })
            }
        };
        let began = Instant::now();
        async move {
            let revoked = pin!(async {
                loop {
                    let set = policy.borrow_and_update().clone();
                    let enforcement = door.enforcement.unwrap_or(set.rules().enforcement);
                    let own = gate.own.borrow().clone();
                    let permit = cleared.permit();
                    match set.still_stands(permit, address, &asker, enforcement, &own) {
                        Ok(allowed) => {
                            bound(&traffic, &allowed, enforcement);
                            // For all tunnels that keep them.
                            drop((hour(&gate, &allowed), rates(&gate, &allowed)));
                        }
                        Err(denial) => return Stop::from(denial),
                    }
                    let end = began + set.limits().session_lifetime;
                    drop((set, own));
                    if let (Some(proof), Some(paths)) = (&mut proof, &door.tls)
                        && !proof.still_stands(paths)
                    {
                        return Reason::PolicyRevoked.into();
                    }
                    tokio::select! {
                        changed = policy.changed() => if changed.is_err() {
                            return Reason::Draining.into();
                        },
                        () = sleep_until(end) => return Reason::Lifetime.into(),
                    }
                }
            });
            let relay = &gate.relay;
            let carried = match &mut sides {
                Either::Left(bare) => relay.carry(&cleared, bare, hello, &traffic, revoked).await,
                Either::Right(wrapped) => {
                    let carried = relay.carry_wrapped(&cleared, wrapped, hello, &traffic, revoked);
                    // It is the larger, and few need it.
                    Box::pin(carried).await
                }
            };
            let closing = match sides {
                Either::Left(bare) => bare.closing(&carried).map(Either::Left),
                Either::Right(wrapped) => wrapped.closing(&carried).map(Either::Right),
            };
            account.volume = volume(&traffic);
            if traffic.bounds.were_exceeded() {
                account.would_deny.get_or_insert(Reason::UploadBudget);
            }
            account.close(&carried.outcome);
            // The place among the open sessions is held until the client is gone.
            closing.finish().await;
            drop(permit);
        }
    }
}

/// The hour in which the client's uploads count, bounded or not.
pub(super) fn hour(gate: &Gate, allowed: &Allowed) -> Option<Arc<UploadQuota>> {
    let client = allowed.client()?;
    Some(gate.shares.upload_quota(&client.name, client.limits.upload_bytes_per_hour))
}

/// The rates that downloads keep: the client's, and the registry's.
fn rates(gate: &Gate, allowed: &Allowed) -> Vec<Arc<Throttle>> {
    let of_client = allowed.client().and_then(|client| {
        let limit = client.limits.download_bytes_per_second;
        gate.shares.throttle(RateOwner::Client, &client.name, limit)
    });
    let of_registry = allowed.grant().and_then(|grant| {
        gate.shares.throttle(RateOwner::Registry, &grant.registry, grant.download_bytes_per_second)
    });
    of_client.into_iter().chain(of_registry).collect()
}

/// Sets what the policy allows to go up.
fn bound(traffic: &Traffic, allowed: &Allowed, enforcement: Enforcement) {
    traffic.bounds.set(allowed.grant().and_then(|grant| grant.upload), enforcement);
}

fn volume(traffic: &Traffic) -> Volume {
    let moved = |count: Count| Moved { spliced: count.splice, copied: count.copy };
    Volume { up: moved(traffic.up.count()), down: moved(traffic.down.count()) }
}
