//! Shutdown in phases, and what each phase waits for.

use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// The phase of the gate. It only moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum DrainPhase {
    /// Not all listeners are bound yet.
    Starting,
    /// Sessions are accepted.
    Serving,
    /// New sessions are rejected; open ones continue.
    Draining,
    /// Open sessions are closed.
    Terminating,
    /// Nothing is served any more.
    Over,
}

/// Moves the phase forward and waits for tasks that must finish first. Clones share their state.
#[derive(Debug, Clone)]
pub(super) struct Drain {
    phase: watch::Sender<DrainPhase>,
    /// The listeners that still accept sessions.
    accepting: TaskTracker,
    /// Connections that are rejected because the gate drains.
    refused: TaskTracker,
}

impl Drain {
    pub(super) fn new() -> Self {
        let (accepting, refused) = (TaskTracker::new(), TaskTracker::new());
        Self { phase: watch::Sender::new(DrainPhase::Starting), accepting, refused }
    }

    /// Enters a phase, unless it has passed.
    pub(super) fn enter(&self, phase: DrainPhase) {
        self.phase.send_if_modified(|now| {
            let is_later = *now < phase;
            if is_later {
                *now = phase;
            }
            is_later
        });
    }

    /// Resolves in this and each later phase.
    pub(super) fn reached(&self, phase: DrainPhase) -> impl Future<Output = ()> + Send + 'static {
        let mut now = self.phase.subscribe();
        async move {
            // Without a sender, nothing remains to wait for.
            let _ = now.wait_for(|now| *now >= phase).await;
        }
    }

    /// Returns a receiver of the phases.
    pub(super) fn phases(&self) -> watch::Receiver<DrainPhase> {
        self.phase.subscribe()
    }

    /// Delays [`Self::no_new_sessions`] until the token is dropped.
    pub(super) fn accepts(&self) -> TaskTrackerToken {
        self.accepting.token()
    }

    /// Counts the connections that are rejected because the gate drains.
    pub(super) fn refused(&self) -> &TaskTracker {
        &self.refused
    }

    /// Waits until no listener accepts sessions.
    pub(super) async fn no_new_sessions(&self) {
        self.accepting.close();
        self.accepting.wait().await;
    }

    /// Waits until the rejected connections were notified.
    pub(super) async fn all_refused(&self) {
        self.refused.close();
        self.refused.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn phases_move_forward_only_and_wake_who_waits() {
        let drain = Drain::new();
        let mut context = Context::from_waker(Waker::noop());
        let mut terminating = pin!(drain.reached(DrainPhase::Terminating));
        drain.enter(DrainPhase::Draining);
        assert!(terminating.as_mut().poll(&mut context).is_pending());
        drain.enter(DrainPhase::Over);
        drain.enter(DrainPhase::Serving);
        assert_eq!(*drain.phases().borrow(), DrainPhase::Over);
        assert!(terminating.as_mut().poll(&mut context).is_ready());
        assert!(pin!(drain.reached(DrainPhase::Draining)).poll(&mut context).is_ready());
    }

    #[tokio::test]
    async fn listeners_that_accept_are_waited_for() {
        let drain = Drain::new();
        let token = drain.accepts();
        let mut none = pin!(drain.no_new_sessions());
        let mut context = Context::from_waker(Waker::noop());
        assert!(none.as_mut().poll(&mut context).is_pending());
        drop(token);
        none.await;
    }
}
