//! The audit: JSON lines to standard output, a file or a log service, written by a separate thread.
//!
//! Sessions only put lines into a bounded queue, so a slow disk or a full pipe does not block them.
//! Lines that cannot be written stay in the queue and are retried. Lines that do not fit are
//! dropped and counted, in the metric and in a line of their own. Denials have a separate share of
//! the queue. The id of a line is given to the client only after the queue has accepted the line.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use prometheus::IntCounter;
use serde::Serialize;

use super::audit_field::Field;
use super::audit_line::LostLine;
use super::clock::Timestamp;
use super::dedup::{Dedup, DenialKey};
use super::id::SessionId;
use super::record::{Outcome, Record, SessionEnd};
use super::sink::Outlet;
use super::stage::Stage;

/// Size of each share of the queue, in bytes: about 8,000 lines of sessions, and the same for
/// denials.
const QUEUE: usize = 4 << 20;

/// How long the writer waits for more lines, so that one wake-up and one write(2) serve many.
const LINGER: Duration = Duration::from_millis(20);

/// Number of queued bytes from which the writer does not wait.
const PLENTY: usize = 64 << 10;

/// Delay before a failed write is retried.
const AGAIN: Duration = Duration::from_secs(1);

/// Initial capacity for a line, in bytes. Most lines are shorter.
const LINE: usize = 768;

/// The handle of the audit. When it is dropped, the writer writes all lines and ends.
#[derive(Debug)]
pub(super) struct Audit {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<QueueState>,
    /// Wakes the writer.
    work: Condvar,
    /// Wakes the thread that waits for the writer to end.
    ended: Condvar,
    dropped: IntCounter,
    /// The last write failed.
    failing: AtomicBool,
}

#[derive(Debug, Default)]
struct QueueState {
    pending: Vec<u8>,
    /// Number of queued bytes that are denials.
    denials: usize,
    folds: Dedup,
    lost: Lost,
    reopen: Reopen,
    life: WriterState,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Reopen {
    #[default]
    No,
    Asked,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum WriterState {
    #[default]
    Writing,
    Closing,
    Ended,
}

/// Lines dropped since the last report.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Lost {
    lines: u64,
    denials: u64,
}

impl Audit {
    /// Starts the writer.
    ///
    /// # Errors
    /// If the system cannot create a thread.
    pub(super) fn start(outlet: Outlet, dropped: IntCounter) -> io::Result<Self> {
        let shared = Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            ended: Condvar::new(),
            dropped,
            failing: AtomicBool::new(false),
        };
        let shared = Arc::new(shared);
        let writer = Writer { shared: shared.clone(), outlet };
        std::thread::Builder::new().name("audit".into()).spawn(move || writer.run())?;
        Ok(Self { shared })
    }

    /// Queues the line of a session, or counts it under the first line of its group. Returns the id
    /// that the audit has; `None` if the line was dropped.
    pub(super) fn take(&self, record: &Record, verdict: SessionEnd) -> Option<SessionId> {
        let denied = verdict.outcome == Outcome::Denied;
        let is_probe = verdict.outcome == Outcome::Failed && record.is_silent();
        // Relayed sessions have individual byte counts, so each has its own line.
        let folding = is_probe || (denied && !record.stages.reached(Stage::Relay));
        let kind = verdict.reason.filter(|_| folding);
        let kind = kind.map(|reason| DenialKey::of(record, verdict.outcome, reason));
        self.take_line(&record.line(verdict), record, denied, kind)
    }

    /// Takes a line, or counts it under the first of its kind. `record`: whose line it is, or, for a
    /// request, what its repetitions are summed up by.
    pub(super) fn take_line(
        &self,
        line: &impl Serialize,
        record: &Record,
        is_denial: bool,
        kind: Option<DenialKey>,
    ) -> Option<SessionId> {
        if let Some(kind) = &kind
            && let Some(first) = self.shared.lock().folds.repeat(kind, record.started)
        {
            return Some(first);
        }
        let share = if is_denial { Share::Denials } else { Share::Sessions };
        let mut bytes = Vec::with_capacity(LINE);
        let written = serde_json::to_writer(&mut bytes, line);
        let mut state = self.shared.lock();
        if written.is_err() || !self.shared.push(&mut state, &bytes, share) {
            state.lost.lines += 1;
            state.lost.denials += u64::from(is_denial);
            drop(state);
            self.shared.dropped.inc();
            return None;
        }
        if let Some(kind) = kind {
            state.folds.open(kind, record, Instant::now());
        }
        Some(record.id)
    }

    /// Whether lines cannot be written now.
    pub(super) fn is_failing(&self) -> bool {
        self.shared.failing.load(Ordering::Relaxed)
    }

    /// Returns whether session lines may soon be dropped: writing fails, or half of their share of
    /// the queue is used. Denials have a separate share, so they cannot block sessions.
    pub(super) fn is_full(&self) -> bool {
        self.is_failing() || self.shared.lock().used(Share::Sessions) >= QUEUE / 2
    }

    /// Reopens the file, for example after a rotation.
    pub(super) fn reopen(&self) {
        self.shared.lock().reopen = Reopen::Asked;
        self.shared.work.notify_one();
    }

    /// Closes every deduplication group, writes queued lines and ends the writer. Gives up after
    /// `patience`. Blocks the thread.
    pub(super) fn finish(&self, patience: Duration) {
        let mut state = self.shared.lock();
        if state.life == WriterState::Writing {
            state.life = WriterState::Closing;
        }
        self.shared.work.notify_one();
        let waited = self
            .shared
            .ended
            .wait_timeout_while(state, patience, |state| state.life != WriterState::Ended);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.life != WriterState::Ended {
            tracing::warn!(bytes = state.pending.len(), "the audit's last lines are not written");
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if state.life == WriterState::Writing {
            state.life = WriterState::Closing;
            self.shared.work.notify_one();
        }
    }
}

/// A share of the queue, of [`QUEUE`] bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Share {
    Sessions,
    Denials,
}

impl QueueState {
    /// Returns the number of bytes in use of a share.
    fn used(&self, share: Share) -> usize {
        match share {
            Share::Sessions => self.pending.len() - self.denials,
            Share::Denials => self.denials,
        }
    }
}

impl Shared {
    /// Returns the state. It is consistent between any two statements, even after a panic.
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a line if there is room, and wakes the writer if needed.
    #[must_use]
    fn push(&self, state: &mut QueueState, line: &[u8], share: Share) -> bool {
        let bytes = line.len() + 1;
        if state.used(share) + bytes > QUEUE || state.life == WriterState::Ended {
            return false;
        }
        let before = state.pending.len();
        let after = before + bytes;
        if share == Share::Denials {
            state.denials += bytes;
        }
        state.pending.extend_from_slice(line);
        state.pending.push(b'\n');
        // Waking costs a system call, so it happens once per batch, and again when the batch is
        // large.
        if before == 0 || (before < PLENTY && after >= PLENTY) {
            self.work.notify_one();
        }
        true
    }
}

/// The writer thread.
struct Writer {
    shared: Arc<Shared>,
    outlet: Outlet,
}

impl Writer {
    fn run(mut self) {
        let mut batch = Vec::new();
        loop {
            let (lost, reopen, life) =
                if batch.is_empty() { self.next(&mut batch) } else { self.again() };
            if reopen == Reopen::Asked {
                self.outlet.reopen();
            }
            if lost != Lost::default() {
                let line = LostLine {
                    time: Field::Written(Timestamp(SystemTime::now())),
                    dropped: lost.lines,
                    dropped_denied: lost.denials,
                };
                if serde_json::to_writer(&mut batch, &line).is_ok() {
                    batch.push(b'\n');
                }
            }
            if !batch.is_empty() {
                let left = self.outlet.write(&batch).len();
                self.shared.failing.store(left > 0, Ordering::Relaxed);
                batch.drain(..batch.len() - left);
                batch.shrink_to(PLENTY);
            }
            let mut state = self.shared.lock();
            if life == WriterState::Closing && (state.pending.is_empty() || !batch.is_empty()) {
                self.count_unwritten(&batch);
                self.count_unwritten(&state.pending);
                state.pending.clear();
                state.denials = 0;
                state.life = WriterState::Ended;
                self.shared.ended.notify_all();
                return;
            }
        }
    }

    /// Waits for work, and swaps the queued lines for an empty batch.
    fn next(&self, batch: &mut Vec<u8>) -> (Lost, Reopen, WriterState) {
        let shared = &*self.shared;
        let mut state = shared.lock();
        loop {
            self.close_folds(&mut state);
            let idle = state.pending.is_empty() && state.lost == Lost::default();
            if !idle || state.reopen == Reopen::Asked || state.life != WriterState::Writing {
                break;
            }
            state = match state.folds.next_close() {
                None => shared.work.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(closes) => {
                    let left = closes.saturating_duration_since(Instant::now());
                    let waited = shared.work.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        let calm = |state: &mut QueueState| {
            state.pending.len() < PLENTY
                && state.reopen == Reopen::No
                && state.life == WriterState::Writing
        };
        let waited = shared.work.wait_timeout_while(state, LINGER, calm);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        self.close_folds(&mut state);
        std::mem::swap(batch, &mut state.pending);
        state.denials = 0;
        (std::mem::take(&mut state.lost), std::mem::take(&mut state.reopen), state.life)
    }

    /// Waits before retrying a failed write. Ends early if the file must be reopened or the writer
    /// must end.
    fn again(&self) -> (Lost, Reopen, WriterState) {
        let waits = |state: &mut QueueState| {
            state.reopen == Reopen::No && state.life == WriterState::Writing
        };
        let state = self.shared.lock();
        let waited = self.shared.work.wait_timeout_while(state, AGAIN, waits);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        self.close_folds(&mut state);
        (Lost::default(), std::mem::take(&mut state.reopen), state.life)
    }

    /// Writes the summaries that are due; all of them when closing.
    fn close_folds(&self, state: &mut QueueState) {
        let now = match state.life {
            WriterState::Writing => Instant::now(),
            WriterState::Closing | WriterState::Ended => Instant::now() + 2 * super::dedup::WINDOW,
        };
        let mut folds = std::mem::take(&mut state.folds);
        folds.close_until(now, |line, repeated| {
            if !self.shared.push(state, line, Share::Denials) {
                state.lost.lines += repeated;
                state.lost.denials += repeated;
                self.shared.dropped.inc_by(repeated);
            }
        });
        state.folds = folds;
    }

    /// Counts lines that could not be written before the end. Only the metric and the log report
    /// them, because the file failed.
    fn count_unwritten(&self, unwritten: &[u8]) {
        let lines = unwritten.iter().filter(|byte| **byte == b'\n').count();
        if lines > 0 {
            tracing::error!(lines, "the audit's last lines could not be written");
        }
        self.shared.dropped.inc_by(u64::try_from(lines).unwrap_or(u64::MAX));
    }
}
