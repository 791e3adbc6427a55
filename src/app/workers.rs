//! The worker threads, each with its own runtime: a session stays on its thread, and no thread
//! wakes another to move bytes. docs/performance.md has the measurements. A new session goes to the
//! thread with the fewest sessions.

use std::io;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// The handle of the worker threads.
#[derive(Debug, Clone)]
pub(super) struct Workers {
    first: Worker,
    others: Vec<Worker>,
}

/// One thread: its runtime and its number of sessions.
#[derive(Debug, Clone)]
pub(super) struct Worker {
    runtime: Handle,
    sessions: TaskTracker,
}

/// How a task is counted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Among<'a> {
    /// As a session.
    Sessions,
    /// As another task.
    These(&'a TaskTracker),
}

impl Workers {
    /// Starts this number of threads, at least one. They end when the guard is dropped.
    ///
    /// # Errors
    /// If the system cannot create a thread or an epoll instance.
    pub(super) fn start(threads: usize) -> io::Result<(Self, DropGuard)> {
        let dismissed = CancellationToken::new();
        let first = Worker::start(0, dismissed.clone())?;
        let others = (1..threads).map(|number| Worker::start(number, dismissed.clone()));
        let others = others.collect::<io::Result<_>>()?;
        Ok((Self { first, others }, dismissed.drop_guard()))
    }

    /// Creates a value that belongs to the accepting thread.
    pub(super) fn within<T>(&self, make: impl FnOnce() -> T) -> T {
        let _entered = self.first.runtime.enter();
        make()
    }

    /// Runs the accepting task next to sessions. Sessions on the same thread cause no wake-up of
    /// another.
    pub(super) fn spawn_acceptor(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.first.runtime.spawn(work);
    }

    /// Serves an accepted connection in its own task.
    pub(super) fn serve(
        &self,
        among: Among<'_>,
        session: impl Future<Output = ()> + Send + 'static,
    ) {
        let worker = self.idlest();
        let tracker = match among {
            Among::Sessions => &worker.sessions,
            Among::These(tracker) => tracker,
        };
        tracker.spawn_on(session, &worker.runtime);
    }

    fn idlest(&self) -> &Worker {
        self.others.iter().fold(&self.first, |idlest, other| {
            if other.sessions() < idlest.sessions() { other } else { idlest }
        })
    }

    fn all(&self) -> impl Iterator<Item = &Worker> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// Returns the runtimes of the threads.
    pub(super) fn runtimes(&self) -> Vec<Handle> {
        self.all().map(|worker| worker.runtime.clone()).collect()
    }

    /// Returns the number of open sessions.
    pub(super) fn sessions(&self) -> usize {
        self.all().map(Worker::sessions).sum()
    }

    /// Waits until each thread has run a task. A stuck thread never does.
    pub(super) async fn has_answered(&self) {
        for worker in self.all() {
            // A runtime that ends drops the task.
            let _ = worker.runtime.spawn(async {}).await;
        }
    }

    /// Waits until no session is open. No further session may start.
    pub(super) async fn emptied(&self) {
        for worker in self.all() {
            worker.sessions.close();
            worker.sessions.wait().await;
        }
    }
}

impl Worker {
    fn start(number: usize, dismissed: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let thread = std::thread::Builder::new().name(format!("serve-{number}"));
        thread.spawn(move || runtime.block_on(dismissed.cancelled()))?;
        Ok(Self { runtime: handle, sessions: TaskTracker::new() })
    }

    fn sessions(&self) -> usize {
        self.sessions.len()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn sessions_are_spread_and_waited_for() {
        let (workers, _dismissed) = Workers::start(3).unwrap();
        let mut ends = Vec::new();
        for _ in 0..9 {
            let (end, ended) = oneshot::channel::<()>();
            ends.push(end);
            workers.serve(Among::Sessions, async {
                let _ = ended.await;
            });
        }
        assert_eq!(workers.all().map(Worker::sessions).collect::<Vec<_>>(), [3, 3, 3]);
        let turned_away = TaskTracker::new();
        workers.serve(Among::These(&turned_away), async {});
        assert_eq!(workers.sessions(), 9);
        drop(ends);
        workers.emptied().await;
        assert_eq!(workers.sessions(), 0);
    }

    #[tokio::test]
    async fn a_session_that_panics_takes_none_with_it() {
        let (workers, _dismissed) = Workers::start(1).unwrap();
        let (sender, heard) = oneshot::channel();
        workers.serve(Among::Sessions, async { panic!("on purpose") });
        workers.serve(Among::Sessions, async {
            let _ = sender.send(());
        });
        heard.await.unwrap();
        workers.emptied().await;
    }

    #[tokio::test]
    async fn a_thread_that_stands_still_does_not_answer() {
        let (workers, _dismissed) = Workers::start(2).unwrap();
        workers.has_answered().await;
        let (free, stands) = std::sync::mpsc::sync_channel::<()>(1);
        let (sender, still) = oneshot::channel();
        workers.spawn_acceptor(async move {
            let _ = sender.send(());
            let _ = stands.recv();
        });
        still.await.unwrap();
        let mut answered = std::pin::pin!(workers.has_answered());
        let now = tokio::select! {
            biased;
            () = &mut answered => true,
            // The other thread answers, and this one would have by then.
            () = async { workers.others[0].runtime.spawn(async {}).await.unwrap() } => false,
        };
        assert!(!now);
        drop(free);
        answered.await;
    }

    #[tokio::test]
    async fn the_threads_end_with_the_guard() {
        let (workers, dismissed) = Workers::start(2).unwrap();
        let (held, dropped) = oneshot::channel::<()>();
        workers.spawn_acceptor(async move {
            std::future::pending::<()>().await;
            drop(held);
        });
        drop(dismissed);
        assert!(dropped.await.is_err());
    }
}
