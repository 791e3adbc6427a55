//! Limits connections that have not sent a request.
//!
//! Opening a socket costs the peer nothing and the gate a descriptor. Connections without a request
//! have separate slots, so that they cannot use those of tunnels. If all slots are in use, the client
//! address with the most slots loses its oldest connection: an address that opens connections without
//! end evicts its own, and distant clients have time for their round trips. An evicted connection may
//! take a moment to close, on a busy thread. If many are closing, new connections wait for them.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::by_client::ByClient;
use crate::policy::subscriber;

/// Maximum number of evicted connections that may still be open when another is admitted.
const LEAVING: usize = 32;

/// The slots, shared by all listeners.
#[derive(Debug)]
pub struct PendingConnections {
    places: usize,
    /// One permit for each connection, pending or evicted.
    room: Arc<Semaphore>,
    /// Each entry holds one slot.
    waiting: Mutex<ByClient<oneshot::Sender<()>>>,
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
    /// As [`subscriber`] returns it.
    client: IpAddr,
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

    /// Takes a slot for a client. If all are in use, evicts the oldest connection of the client with
    /// the most.
    pub fn enter(self: &Arc<Self>, room: PendingPermit, client: IpAddr) -> PendingSlot {
        let client = subscriber(client);
        let (ask_out, evicted) = oneshot::channel();
        let mut waiting = self.waiting();
        if waiting.total() >= self.places as u64
            && let Some(oldest) = waiting.pop()
        {
            // It may have ended already.
            let _ = oldest.send(());
        }
        let number = waiting.insert(client, 1, ask_out);
        drop(waiting);
        PendingSlot {
            lobby: self.clone(),
            client,
            number,
            evicted,
            is_asked_out: false,
            _room: room,
        }
    }

    fn waiting(&self) -> MutexGuard<'_, ByClient<oneshot::Sender<()>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingSlot {
    /// Counts the slot for another client: the one that a load balancer's PROXY header names.
    pub fn belongs_to(&mut self, client: IpAddr) {
        let client = subscriber(client);
        if self.lobby.waiting().reassign(self.client, self.number, client) {
            self.client = client;
        }
    }

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
        self.lobby.waiting().remove(self.client, self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    async fn enter(lobby: &Arc<PendingConnections>) -> PendingSlot {
        from(lobby, "10.0.0.7").await
    }

    async fn from(lobby: &Arc<PendingConnections>, client: &str) -> PendingSlot {
        lobby.enter(lobby.room().await, ip(client))
    }

    fn is_asked_out(place: &mut PendingSlot) -> bool {
        place.evicted.try_recv().is_ok()
    }

    #[tokio::test]
    async fn the_oldest_of_one_address_leaves_for_its_newest() {
        let lobby = PendingConnections::new(2);
        let mut first = enter(&lobby).await;
        let mut second = enter(&lobby).await;
        assert!(!is_asked_out(&mut first) && !is_asked_out(&mut second));
        let mut third = enter(&lobby).await;
        assert!(is_asked_out(&mut first));
        assert!(!is_asked_out(&mut second) && !is_asked_out(&mut third));
    }

    #[tokio::test]
    async fn the_address_with_the_most_places_gives_way() {
        let lobby = PendingConnections::new(4);
        let mut honest = from(&lobby, "10.0.0.8").await;
        // An IPv6 host picks its addresses within a network of 64 bits.
        let mut flood = Vec::new();
        for host in 0..100 {
            flood.push(from(&lobby, &format!("2001:db8:1:2::{host:x}")).await);
            if flood.len() > 3 {
                assert!(is_asked_out(&mut flood.remove(0)));
            }
        }
        assert!(!is_asked_out(&mut honest), "it has one place, the flood three");
        let mut another = from(&lobby, "10.0.0.9").await;
        let mut third = from(&lobby, "10.0.0.10").await;
        let stays = |place: &mut PendingSlot| !is_asked_out(place);
        assert!(stays(&mut honest) && stays(&mut another) && stays(&mut third));
    }

    #[tokio::test]
    async fn behind_a_load_balancer_the_named_clients_count() {
        let lobby = PendingConnections::new(3);
        let mut held = Vec::new();
        for client in ["10.0.0.8", "10.0.0.7", "10.0.0.7"] {
            let mut place = from(&lobby, "192.0.2.1").await;
            place.belongs_to(ip(client));
            held.push(place);
        }
        let _newest = from(&lobby, "192.0.2.1").await;
        let gone: Vec<bool> = held.iter_mut().map(is_asked_out).collect();
        assert_eq!(gone, [false, true, false]);
        drop(held);
        assert_eq!(lobby.waiting().total(), 1);
    }

    #[tokio::test]
    async fn who_leaves_makes_room() {
        let lobby = PendingConnections::new(2);
        let mut first = enter(&lobby).await;
        for _ in 0..2 * LEAVING {
            drop(enter(&lobby).await);
        }
        assert!(!is_asked_out(&mut first));
        assert_eq!(lobby.waiting().total(), 1);
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
