//! How the gate ends: one phase after the other, and who waits for which.

use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// How far the gate is in its life. It moves forward only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Not every listener is bound yet.
    Starting,
    /// Sessions are accepted.
    Serving,
    /// No new session is accepted; open ones go on.
    Draining,
    /// Open sessions are ended.
    Terminating,
    /// Nothing is answered any more.
    Over,
}

/// Moves the phase forward, and waits for those who have to finish first. All clones are one.
#[derive(Debug, Clone)]
pub(super) struct Drain {
    phase: watch::Sender<Phase>,
    /// The listeners that still accept sessions.
    accepting: TaskTracker,
    /// Connections that are refused because the gate drains.
    refused: TaskTracker,
}

impl Drain {
    pub(super) fn new() -> Self {
        let (accepting, refused) = (TaskTracker::new(), TaskTracker::new());
        Self { phase: watch::Sender::new(Phase::Starting), accepting, refused }
    }

    /// Enters a phase, unless it has been passed.
    pub(super) fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let is_later = *now < phase;
            if is_later {
                *now = phase;
            }
            is_later
        });
    }

    /// Resolves in this phase, and in each later one.
    pub(super) fn reached(&self, phase: Phase) -> impl Future<Output = ()> + Send + 'static {
        let mut now = self.phase.subscribe();
        async move {
            // Without a sender there is nothing left to wait for.
            let _ = now.wait_for(|now| *now >= phase).await;
        }
    }

    /// Follows the phases.
    pub(super) fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Keeps [`Self::no_new_sessions`] waiting until the token is dropped.
    pub(super) fn accepts(&self) -> TaskTrackerToken {
        self.accepting.token()
    }

    /// Counts the connections that are refused because the gate drains.
    pub(super) fn refused(&self) -> &TaskTracker {
        &self.refused
    }

    /// Waits until no listener accepts sessions any more.
    pub(super) async fn no_new_sessions(&self) {
        self.accepting.close();
        self.accepting.wait().await;
    }

    /// Waits until the connections that were refused have been informed.
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
        let mut terminating = pin!(drain.reached(Phase::Terminating));
        drain.enter(Phase::Draining);
        assert!(terminating.as_mut().poll(&mut context).is_pending());
        drain.enter(Phase::Over);
        drain.enter(Phase::Serving);
        assert_eq!(*drain.phases().borrow(), Phase::Over);
        assert!(terminating.as_mut().poll(&mut context).is_ready());
        assert!(pin!(drain.reached(Phase::Draining)).poll(&mut context).is_ready());
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
