//! State that changes at run time: the machine's own addresses and the status of the gate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::drain::DrainPhase;
use crate::account::{self, ParentStatus, Status};
use crate::config::{self, Settings};
use crate::dial;
use crate::policy::{Enforcement, OwnAddresses, PolicySet};
use crate::reload::Staleness;
use crate::session::Gate;

/// Interval of reading the machine's own addresses, because interfaces change.
const OWN_ADDRESSES: Duration = Duration::from_secs(30);

/// The current addresses of the machine, and the listen addresses.
pub(super) fn own_addresses(listening: &[SocketAddr]) -> OwnAddresses {
    OwnAddresses { interfaces: dial::interfaces(), listeners: listening.to_vec() }
}

/// Re-reads the machine's own addresses periodically.
pub(super) async fn follow_own_addresses(
    own: watch::Sender<Arc<OwnAddresses>>,
    listening: Vec<SocketAddr>,
) {
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

/// Returns the status of the gate, and the task that updates it.
pub(super) fn status(
    gate: &Gate,
    settings: &Settings,
    mut phase: watch::Receiver<DrainPhase>,
    mut stale: watch::Receiver<Staleness>,
) -> (watch::Receiver<Status>, impl Future<Output = ()> + Send + 'static) {
    let mut policy = gate.policy.clone();
    let listeners = settings.listeners.clone();
    let max_sessions = gate.max_sessions;
    let (tls, authority) = (gate.tls.clone(), gate.authority.clone());
    let dialler = gate.dialler.clone();
    let mut parents = dialler.parent_changes();
    let now = move |policy: &PolicySet, phase: DrainPhase, stale: &Staleness| {
        let default = policy.rules().enforcement;
        let reports =
            listeners.iter().any(|one| one.enforcement.unwrap_or(default) == Enforcement::Report);
        let parents = policy.rules().parents.iter().map(|parent| ParentStatus {
            name: parent.name.clone(),
            is_up: dialler.is_up(parent),
            trouble: dialler.trouble(parent),
        });
        let expiry = authority.borrow().as_ref().map(|authority| authority.expiry());
        Status {
            parents: parents.collect(),
            phase: phase.into(),
            generation: policy.generation(),
            stale: stale.0.clone(),
            open_sessions_limit: policy.limits().open_sessions.min(max_sessions),
            enforcement: if reports { Enforcement::Report } else { Enforcement::Enforce },
            // Renewed ahead of the policy.
            certificates: config::expiries(&tls.borrow(), expiry)
                .into_iter()
                .map(|expiry| (expiry.path.display().to_string(), expiry.last_second))
                .collect(),
        }
    };
    let fresh = move |policy: &mut watch::Receiver<Arc<PolicySet>>,
                      phase: &mut watch::Receiver<DrainPhase>,
                      stale: &mut watch::Receiver<Staleness>| {
        now(&policy.borrow_and_update(), *phase.borrow_and_update(), &stale.borrow_and_update())
    };
    let (sender, receiver) = watch::channel(fresh(&mut policy, &mut phase, &mut stale));
    let work = async move {
        loop {
            let gone = tokio::select! {
                changed = policy.changed() => changed.is_err(),
                changed = phase.changed() => changed.is_err(),
                changed = stale.changed() => changed.is_err(),
                changed = parents.changed() => changed.is_err(),
            };
            if gone {
                return;
            }
            sender.send_replace(fresh(&mut policy, &mut phase, &mut stale));
        }
    };
    (receiver, work)
}

impl From<DrainPhase> for account::Phase {
    fn from(phase: DrainPhase) -> Self {
        match phase {
            DrainPhase::Starting => Self::Starting,
            DrainPhase::Serving => Self::Serving,
            DrainPhase::Draining | DrainPhase::Terminating | DrainPhase::Over => Self::Draining,
        }
    }
}
