//! Limits connections that have not sent a request.
//!
//! Opening a socket costs the peer nothing and the gate a descriptor. Connections without a request
//! have separate slots, so that they cannot use those of tunnels. If all slots are in use, the
//! oldest connection is evicted: honest clients send their request within a round trip. An evicted
//! connection may take a moment to close, on a busy thread. If many are closing, new connections
//! wait for them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Maximum number of evicted connections that may still be open when another is admitted.
const LEAVING: usize = 32;

/// The slots, shared by all listeners.
#[derive(Debug)]
pub struct PendingConnections {
    places: usize,
    /// One permit for each connection, pending or evicted.
    room: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// In order of arrival.
    guests: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A permit for a connection that is not accepted yet.
#[derive(Debug)]
pub struct PendingPermit {
    _permit: Option<OwnedSemaphorePermit>,
}

/// A slot, until it is dropped.
#[derive(Debug)]
pub struct PendingSlot {
    lobby: Arc<PendingConnections>,
    number: u64,
    evicted: oneshot::Receiver<()>,
    /// A receiver must not be polled after it has resolved.
    is_asked_out: bool,
    _room: PendingPermit,
}

impl PendingConnections {
    /// Creates this number of slots, at least one.
    #[must_use]
    pub fn new(places: usize) -> Arc<Self> {
        let places = places.clamp(1, Semaphore::MAX_PERMITS - LEAVING);
        let room = Arc::new(Semaphore::new(places + LEAVING));
        Arc::new(Self { places, room, waiting: Mutex::default() })
    }

    /// Waits while too many evicted connections are still open.
    pub async fn room(&self) -> PendingPermit {
        // The semaphore is never closed.
        PendingPermit { _permit: self.room.clone().acquire_owned().await.ok() }
    }

    /// Takes a slot. If all are in use, evicts the oldest connection.
    pub fn enter(self: &Arc<Self>, room: PendingPermit) -> PendingSlot {
        let (ask_out, evicted) = oneshot::channel();
        let mut waiting = self.waiting();
        if waiting.guests.len() >= self.places
            && let Some((_, oldest)) = waiting.guests.pop_first()
        {
            // It may have ended already.
            let _ = oldest.send(());
        }
        let number = waiting.next;
        waiting.next += 1;
        waiting.guests.insert(number, ask_out);
        drop(waiting);
        PendingSlot { lobby: self.clone(), number, evicted, is_asked_out: false, _room: room }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingSlot {
    /// Resolves when the connection is evicted.
    pub async fn evicted(&mut self) {
        if self.is_asked_out {
            return;
        }
        // The sender is only dropped together with the slot.
        let _ = (&mut self.evicted).await;
        self.is_asked_out = true;
    }
}

impl Drop for PendingSlot {
    fn drop(&mut self) {
        self.lobby.waiting().guests.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    async fn enter(lobby: &Arc<PendingConnections>) -> PendingSlot {
        lobby.enter(lobby.room().await)
    }

    fn is_asked_out(place: &mut PendingSlot) -> bool {
        place.evicted.try_recv().is_ok()
    }

    #[tokio::test]
    async fn the_oldest_leaves_for_the_newest() {
        let lobby = PendingConnections::new(2);
        let mut first = enter(&lobby).await;
        let mut second = enter(&lobby).await;
        assert!(!is_asked_out(&mut first) && !is_asked_out(&mut second));
        let mut third = enter(&lobby).await;
        assert!(is_asked_out(&mut first));
        assert!(!is_asked_out(&mut second) && !is_asked_out(&mut third));
    }

    #[tokio::test]
    async fn who_leaves_makes_room() {
        let lobby = PendingConnections::new(2);
        let mut first = enter(&lobby).await;
        for _ in 0..2 * LEAVING {
            drop(enter(&lobby).await);
        }
        assert!(!is_asked_out(&mut first));
        assert_eq!(lobby.waiting().guests.len(), 1);
    }

    #[tokio::test]
    async fn newcomers_wait_while_many_have_not_left() {
        let lobby = PendingConnections::new(2);
        let mut held = Vec::new();
        for _ in 0..2 + LEAVING {
            held.push(enter(&lobby).await);
        }
        let mut another = Box::pin(enter(&lobby));
        assert!(poll_once(&mut another).is_none());
        drop(held.remove(0));
        assert!(poll_once(&mut another).is_some());
    }

    fn poll_once<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
        let mut context = Context::from_waker(Waker::noop());
        match Pin::new(future).poll(&mut context) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        }
    }
}
