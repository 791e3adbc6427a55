//! Where connections wait that have not yet said what they want.
//!
//! A socket costs its peer nothing to open and us a descriptor to hold. Those without a head have
//! places of their own, so that they cannot take the tunnels'; when all are taken the oldest leaves
//! for the newest: an honest client says its first word within a round trip. Who is asked to leave
//! may take a moment, on a thread that has other work; when many do, newcomers wait for them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// So many of those who are asked to leave may still be there when another comes in.
const LEAVING: usize = 32;

/// The places, shared by all listeners.
#[derive(Debug)]
pub struct PendingConnections {
    places: usize,
    /// One for each who is there, with a place or on the way out.
    room: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// In the order of arrival.
    guests: BTreeMap<u64, oneshot::Sender<()>>,
}

/// Room for one more, who is still to come.
#[derive(Debug)]
pub struct PendingPermit {
    _permit: Option<OwnedSemaphorePermit>,
}

/// A place in the lobby, until dropped.
#[derive(Debug)]
pub struct PendingSlot {
    lobby: Arc<PendingConnections>,
    number: u64,
    evicted: oneshot::Receiver<()>,
    /// A receiver may not be asked again once it has answered.
    is_asked_out: bool,
    _room: PendingPermit,
}

impl PendingConnections {
    /// A lobby of so many places, at least one.
    #[must_use]
    pub fn new(places: usize) -> Arc<Self> {
        let places = places.clamp(1, Semaphore::MAX_PERMITS - LEAVING);
        let room = Arc::new(Semaphore::new(places + LEAVING));
        Arc::new(Self { places, room, waiting: Mutex::default() })
    }

    /// Waits while too many of those who were asked to leave have not left yet.
    pub async fn room(&self) -> PendingPermit {
        // It is never closed.
        PendingPermit { _permit: self.room.clone().acquire_owned().await.ok() }
    }

    /// Takes a place; where there is none left, that of the one who waited longest.
    pub fn enter(self: &Arc<Self>, room: PendingPermit) -> PendingSlot {
        let (ask_out, evicted) = oneshot::channel();
        let mut waiting = self.waiting();
        if waiting.guests.len() >= self.places
            && let Some((_, oldest)) = waiting.guests.pop_first()
        {
            // It may have left by itself just now.
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
    /// Resolves when the place is needed for another.
    pub async fn evicted(&mut self) {
        if self.is_asked_out {
            return;
        }
        // The sender is dropped without a word only together with the place.
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
