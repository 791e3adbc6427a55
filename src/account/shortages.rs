//! Logs shortages of the gate's host. The audit line names the session, the log message the remedy.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use super::record::Record;
use super::text::AuditText;
use crate::policy::{Cause, Ending, Stop};

/// Minimum interval between two log messages about the same shortage.
const PAUSE: Duration = Duration::from_secs(60);

/// When each shortage was last logged.
#[derive(Debug, Default)]
pub(super) struct Shortages {
    ports: Mutex<Option<Instant>>,
    splice: AtomicBool,
}

impl Shortages {
    /// Logs the shortage that ended a session, if one did, at most once a minute; and once, that the
    /// kernel refuses splice(2).
    pub(super) fn note(&self, record: &Record, end: &Result<Ending, Stop>) {
        if record.splice_refused && !self.splice.swap(true, Ordering::Relaxed) {
            warn!(
                "the kernel refused splice(2), so layers are copied, which takes more CPU: gVisor \
                 and some seccomp profiles do this. Run the gate under runc, or allow splice in \
                 the seccomp profile; pullgate_splice_refused_total counts the sessions"
            );
        }
        let Err(Stop::Failed(failure)) = end else { return };
        if failure.cause != Cause::LocalPorts {
            return;
        }
        let now = Instant::now();
        let mut last = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| now.duration_since(last) >= PAUSE) {
            *last = Some(now);
            let target = record.target.as_ref().map_or("-", AuditText::as_str);
            warn!(
                target_host = target,
                "no local port is left for connections to the registry's address; widen \
                 net.ipv4.ip_local_port_range, or lower [limits] open-sessions"
            );
        }
    }
}
