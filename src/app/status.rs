//! What changes beside the sessions: the machine's own addresses, and how the gate stands.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::spawn_until;
use crate::account::{Phase, Status};
use crate::config::Settings;
use crate::dial;
use crate::policy::{Enforcement, OwnAddresses, PolicySet};
use crate::reload::Staleness;
use crate::session::Gate;

/// How often the machine's own addresses are read anew: interfaces come and go.
const OWN_ADDRESSES: Duration = Duration::from_secs(30);

/// The machine's own addresses as they are now, and where the gate listens.
pub(super) fn own_addresses(listening: &[SocketAddr]) -> OwnAddresses {
    OwnAddresses { interfaces: dial::interfaces(), listeners: listening.to_vec() }
}

/// Reads the machine's own addresses anew from time to time.
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

/// Puts together how the gate stands, whenever a part of it changes.
pub(super) fn status(
    gate: &Gate,
    settings: &Settings,
    mut phase: watch::Receiver<Phase>,
    mut stale: watch::Receiver<Staleness>,
    serving: &CancellationToken,
) -> watch::Receiver<Status> {
    let mut policy = gate.policy.clone();
    let own: Vec<Option<Enforcement>> =
        settings.listeners.iter().map(|listener| listener.enforcement).collect();
    let most = gate.most_sessions;
    let now = move |policy: &PolicySet, phase: Phase, stale: &Staleness| {
        let everywhere = policy.rules().enforcement;
        let reports = own.iter().any(|one| one.unwrap_or(everywhere) == Enforcement::Report);
        Status {
            phase,
            generation: policy.generation(),
            stale: stale.0.clone(),
            open_sessions_limit: policy.limits().open_sessions.min(most),
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
