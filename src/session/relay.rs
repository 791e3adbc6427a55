//! The relay phase of a session, until one side closes or a reload revokes the tunnel.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::either::Either;

use super::gate::Gate;
use super::state::{CertificateWatch, Session, Tunnel};
use crate::account::{Moved, Progress, Stage, Volume};
use crate::config::ListenerSpec;
use crate::limits::{Bounds, RateOwner, Throttle, UploadQuota};
use crate::policy::{
    Allowed, Cleared, ClientIdentity, Denial, Enforcement, PolicySet, Reason, Stop,
};
use crate::relay::{Count, Traffic, TunnelEnds, TunnelTerms};

impl Session {
    /// Relays until the tunnel ends, and writes its record.
    ///
    /// Not `async fn`, and its arguments are destructured outside the future: see `future_size`.
    pub(super) fn relay(
        mut self: Box<Self>,
        tunnel: Box<Tunnel>,
    ) -> impl Future<Output = ()> + Send {
        self.account.record.stages.enter(Stage::Relay);
        let allowed = tunnel.cleared.permit().allowed();
        let traffic = Arc::new(Traffic::within(self.bounds(allowed)));
        let seen = traffic.clone();
        self.account.follow(Box::new(move || progress(&seen)));
        let terms = terms(&self.gate, &self.policy, self.account.record.client);
        let Self {
            gate, listener, client, certificate, mut account, permit, policy_updates, ..
        } = *self;
        let Tunnel { client: socket, upstream, address, cleared, hello } = *tunnel;
        let mut ends = match (socket, upstream) {
            (Either::Left(client), Either::Left(upstream)) => {
                Either::Left(TunnelEnds { client, upstream, terms })
            }
            (client, upstream) => Either::Right(TunnelEnds { client, upstream, terms }),
        };
        let mut watch =
            RevocationWatch::new((gate, listener), client, certificate, policy_updates, address);
        async move {
            let gate = watch.gate.clone();
            let revoked = pin!(watch.revoked(&cleared, &traffic.bounds));
            let relay = &gate.relay;
            let outcome = match &mut ends {
                Either::Left(bare) => relay.carry(&cleared, bare, hello, &traffic, revoked).await,
                Either::Right(layered) => {
                    let carried = relay.carry_wrapped(&cleared, layered, hello, &traffic, revoked);
                    // In a box: it is the larger of the two, and few tunnels need it.
                    Box::pin(carried).await
                }
            };
            let closing = match ends {
                Either::Left(bare) => bare.closing(&outcome).map(Either::Left),
                Either::Right(layered) => layered.closing(&outcome),
            };
            account.record.volume = volume(&traffic);
            account.record.splice_refused = traffic.splice_was_refused();
            if traffic.bounds.were_exceeded() {
                account.record.would_deny.get_or_insert(Reason::UploadBudget);
            }
            account.close(&outcome.outcome);
            // The session counts as open until the client has gone.
            closing.finish().await;
            drop(permit);
        }
    }

    /// Creates the limits of a tunnel.
    pub(super) fn bounds(&self, allowed: &Allowed) -> Bounds {
        let quota = upload_quota(&self.gate, allowed);
        let bounds = Bounds::within(quota, download_rates(&self.gate, allowed));
        set_upload_budget(&bounds, allowed, self.enforcement());
        bounds
    }
}

/// The state for judging an open tunnel after a reload.
pub struct RevocationWatch {
    gate: Arc<Gate>,
    listener: Arc<ListenerSpec>,
    client: ClientIdentity,
    certificate: Option<Box<CertificateWatch>>,
    policy_updates: watch::Receiver<Arc<PolicySet>>,
    address: Option<SocketAddr>,
    began: Instant,
}

impl RevocationWatch {
    pub(super) fn new(
        (gate, listener): (Arc<Gate>, Arc<ListenerSpec>),
        client: ClientIdentity,
        certificate: Option<Box<CertificateWatch>>,
        policy_updates: watch::Receiver<Arc<PolicySet>>,
        address: Option<SocketAddr>,
    ) -> Self {
        let began = Instant::now();
        Self { gate, listener, client, certificate, policy_updates, address, began }
    }

    /// Resolves with the reason when the tunnel must end.
    pub async fn revoked(&mut self, cleared: &Cleared, bounds: &Bounds) -> Stop {
        loop {
            if let Err(denial) = self.judge_again(cleared, bounds) {
                return denial.into();
            }
            let due = self.next_judgement();
            tokio::select! {
                changed = self.policy_updates.changed() => if changed.is_err() {
                    return Reason::Draining.into();
                },
                () = sleep_until(due) => {}
            }
        }
    }

    /// Returns when the tunnel must be judged again without a reload: at the end of its lifetime,
    /// or when the client certificate expires before.
    fn next_judgement(&self) -> Instant {
        let end = self.began + self.policy_updates.borrow().limits().session_lifetime;
        let expiry = self.certificate.as_ref().and_then(|watch| watch.until_expiry());
        expiry.map_or(end, |left| end.min(Instant::now() + left))
    }

    /// Judges the tunnel by the current policy and certificates, and applies their limits.
    fn judge_again(&mut self, cleared: &Cleared, bounds: &Bounds) -> Result<(), Denial> {
        let policy = self.policy_updates.borrow_and_update().clone();
        if self.began.elapsed() >= policy.limits().session_lifetime {
            return Err(Denial::new(Reason::Lifetime));
        }
        let enforcement = self.listener.enforcement.unwrap_or(policy.rules().enforcement);
        let own = self.gate.own.borrow().clone();
        let permit = cleared.permit();
        let allowed = policy.still_stands(permit, self.address, &self.client, enforcement, &own)?;
        set_upload_budget(bounds, &allowed, enforcement);
        // Reading them updates the limits for all tunnels that share them.
        drop((upload_quota(&self.gate, &allowed), download_rates(&self.gate, &allowed)));
        if let (Some(certificate), Some(paths)) = (&mut self.certificate, &self.listener.tls)
            && !certificate.is_still_valid(paths)
        {
            return Err(Denial::new(Reason::PolicyRevoked));
        }
        Ok(())
    }
}

/// Returns what a tunnel of a client is subject to.
fn terms(gate: &Gate, policy: &PolicySet, client: IpAddr) -> Box<TunnelTerms> {
    let limits = policy.limits();
    Box::new(TunnelTerms {
        second_hello: limits.hello_timeout,
        idle: limits.idle_timeout,
        stall: limits.stall_timeout,
        second_hellos: Some(gate.sessions.second_hellos(client)),
        client,
    })
}

/// Returns the hourly upload quota of the client, limited or not; `None` for a client without a
/// group.
pub(super) fn upload_quota(gate: &Gate, allowed: &Allowed) -> Option<Arc<UploadQuota>> {
    let client = allowed.client()?;
    Some(gate.quotas.upload_quota(&client.name, client.limits.upload_bytes_per_hour))
}

/// Returns the download rates of the client group and the registry.
pub fn download_rates(gate: &Gate, allowed: &Allowed) -> Vec<Arc<Throttle>> {
    let of_client = allowed.client().and_then(|client| {
        let limit = client.limits.download_bytes_per_second;
        gate.quotas.throttle(RateOwner::Client, &client.name, limit)
    });
    let of_registry = allowed.grant().and_then(|grant| {
        gate.quotas.throttle(RateOwner::Registry, &grant.registry, grant.download_bytes_per_second)
    });
    of_client.into_iter().chain(of_registry).collect()
}

/// Applies the upload budget of the registry.
fn set_upload_budget(bounds: &Bounds, allowed: &Allowed, enforcement: Enforcement) {
    bounds.set(allowed.grant().and_then(|grant| grant.upload), enforcement);
}

fn progress(traffic: &Traffic) -> Progress {
    Progress { volume: volume(traffic), stalled: traffic.held() }
}

fn volume(traffic: &Traffic) -> Volume {
    let moved = |count: Count| Moved { spliced: count.splice, copied: count.copy };
    Volume { up: moved(traffic.up.count()), down: moved(traffic.down.count()) }
}
