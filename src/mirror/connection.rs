//! A client's connection to the mirror, as its requests share it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::account::{Moved, Open, Progress, SessionId, Volume};
use crate::config::ListenerSpec;
use crate::forward::Forward;
use crate::limits::SessionPermit;
use crate::policy::{Client, ClientIdentity, Denial, Ending, Stop};
use crate::serve::{Delivery, end_of};
use crate::session::{CertificateWatch, Gate};

/// A client's connection, as its requests share it.
pub(super) struct MirrorConnection {
    pub(super) gate: Arc<Gate>,
    pub(super) listener: Arc<ListenerSpec>,
    pub(super) forward: Arc<Forward>,
    /// Who connected; a user is known by request.
    pub(super) identity: ClientIdentity,
    /// Judged again where there is something new to judge it by.
    pub(super) certificate: Option<Mutex<Box<CertificateWatch>>>,
    pub(super) session: SessionId,
    pub(super) account: Mutex<Open>,
    /// Its place among the open sessions, and the group that it counts for.
    pub(super) permit: Mutex<(Option<SessionPermit>, Option<Arc<str>>)>,
    /// Why no request is served.
    pub(super) refusal: Option<Denial>,
    pub(super) requests: AtomicU64,
    /// What its client has got.
    pub(super) delivery: Arc<Delivery>,
}

impl MirrorConnection {
    /// Whether the client's certificate, if it has one, is still valid.
    pub(super) fn certificate_is_valid(&self) -> bool {
        let (Some(watch), Some(paths)) = (&self.certificate, &self.listener.tls) else {
            return true;
        };
        watch.lock().unwrap_or_else(PoisonError::into_inner).is_still_valid(paths)
    }

    /// When the connection must be judged again without a reload: at its end, or when the client's
    /// certificate expires before.
    pub(super) fn next_judgement(&self, end: Instant) -> Instant {
        let Some(watch) = &self.certificate else { return end };
        let left = watch.lock().unwrap_or_else(PoisonError::into_inner).until_expiry();
        left.map_or(end, |left| end.min(Instant::now() + left))
    }

    /// Counts the connection for its group of clients, at its first request as one of them.
    pub(super) fn admit_to_group(&self, client: &Client) -> Result<(), Denial> {
        let mut held = self.permit.lock().unwrap_or_else(PoisonError::into_inner);
        let (permit, group) = &mut *held;
        if group.as_ref() != Some(&client.name)
            && let Some(permit) = permit
        {
            self.gate.sessions.admit_to_group(permit, client)?;
            *group = Some(client.name.clone());
        }
        Ok(())
    }

    pub(super) fn account(&self) -> MutexGuard<'_, Open> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the end of HTTP means.
    pub(super) fn end_of(&self, served: Result<(), hyper::Error>) -> Result<Ending, Stop> {
        if let Some(denial) = &self.refusal {
            return Err(denial.clone().into());
        }
        let asked = self.requests.load(Ordering::Relaxed) > 0;
        end_of(served, asked, &self.delivery)
    }
}

/// How far the connection has come.
pub(super) fn progress(delivery: &Delivery) -> Progress {
    let down = Moved { spliced: 0, copied: delivery.moved() };
    Progress { volume: Volume { up: Moved::default(), down }, stalled: delivery.held() }
}
