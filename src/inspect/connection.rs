//! A client's connection inside an inspected tunnel, as its requests share it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::stream::Violation;
use crate::account::{Moved, Open, Progress, SessionId, Volume};
use crate::config::ListenerSpec;
use crate::forward::Forward;
use crate::limits::Bounds;
use crate::policy::{Cleared, ClientIdentity, Denial, Ending, Reason, Stop, Target};
use crate::serve::{Delivery, end_of};
use crate::session::Gate;

/// A client's connection, as its requests share it.
pub(super) struct InspectedConnection {
    pub(super) gate: Arc<Gate>,
    pub(super) listener: Arc<ListenerSpec>,
    pub(super) client: ClientIdentity,
    /// Its own connections upstream.
    pub(super) forward: Forward,
    pub(super) cleared: Arc<Cleared>,
    pub(super) session: SessionId,
    account: Mutex<Open>,
    pub(super) bounds: Arc<Bounds>,
    /// Bytes of requests that count towards the upload budget.
    pub(super) asked: AtomicU64,
    requests: AtomicU64,
    /// Bytes of the bodies of requests.
    pub(super) up: Arc<AtomicU64>,
    /// What its client has got.
    pub(super) delivery: Arc<Delivery>,
}

impl InspectedConnection {
    pub(super) fn new(
        (gate, listener, client): (Arc<Gate>, Arc<ListenerSpec>, ClientIdentity),
        mut account: Open,
        cleared: Arc<Cleared>,
        bounds: Arc<Bounds>,
        forward: Forward,
    ) -> Self {
        let (up, delivery) = (Arc::new(AtomicU64::new(0)), Arc::new(Delivery::default()));
        let seen = (up.clone(), delivery.clone());
        account.follow(Box::new(move || Progress {
            volume: volume(&seen.0, &seen.1),
            stalled: seen.1.held(),
        }));
        Self {
            session: account.id(),
            gate,
            listener,
            client,
            forward,
            cleared,
            account: Mutex::new(account),
            bounds,
            asked: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            up,
            delivery,
        }
    }

    /// Returns the server of the tunnel.
    pub(super) fn target(&self) -> &Target {
        self.cleared.permit().allowed().target()
    }

    /// Fails if the audit has become full since the tunnel was admitted.
    pub(super) fn admit(&self) -> Result<(), Denial> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner).admit()
    }

    pub(super) fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// What the end of HTTP means.
    pub(super) fn end_of(
        &self,
        served: Result<(), hyper::Error>,
        violation: &Violation,
    ) -> Result<Ending, Stop> {
        if let Some(cut) = violation.get() {
            return Err(cut.reason().into());
        }
        let asked = self.requests.load(Ordering::Relaxed) > 0;
        end_of(served, asked, &self.delivery)
    }

    /// Writes the tunnel's record.
    pub(super) fn close(&self, end: &Result<Ending, Stop>) {
        let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        account.record.volume = volume(&self.up, &self.delivery);
        if self.bounds.were_exceeded() {
            account.record.would_deny.get_or_insert(Reason::UploadBudget);
        }
        account.close(end);
    }
}

fn volume(up: &AtomicU64, delivery: &Delivery) -> Volume {
    let moved = |copied: u64| Moved { spliced: 0, copied };
    Volume { up: moved(up.load(Ordering::Relaxed)), down: moved(delivery.moved()) }
}
