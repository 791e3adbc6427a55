//! Where connections wait that have not yet said what they want.
//!
//! A socket costs its peer nothing to open and us a descriptor to hold. Those without a head have
//! places of their own, so that they cannot take the tunnels'; when all are taken the oldest leaves
//! for the newest: an honest client says its first word within a round trip.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The places, shared by all listeners.
#[derive(Debug)]
pub struct Lobby {
    places: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// In the order of arrival.
    guests: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A place in the lobby, until dropped.
#[derive(Debug)]
pub struct Place {
    lobby: Arc<Lobby>,
    number: u64,
    asked_out: oneshot::Receiver<()>,
    /// A receiver may not be asked again once it has answered.
    is_asked_out: bool,
}

impl Lobby {
    /// A lobby of so many places, at least one.
    #[must_use]
    pub fn new(places: usize) -> Arc<Self> {
        Arc::new(Self { places: places.max(1), waiting: Mutex::default() })
    }

    /// Takes a place; where there is none left, that of the one who waited longest.
    pub fn enter(self: &Arc<Self>) -> Place {
        let (ask_out, asked_out) = oneshot::channel();
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
        Place { lobby: self.clone(), number, asked_out, is_asked_out: false }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Resolves when the place is needed for another.
    pub async fn asked_out(&mut self) {
        if self.is_asked_out {
            return;
        }
        // The sender is dropped without a word only together with the place.
        let _ = (&mut self.asked_out).await;
        self.is_asked_out = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lobby.waiting().guests.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_asked_out(place: &mut Place) -> bool {
        place.asked_out.try_recv().is_ok()
    }

    #[test]
    fn the_oldest_leaves_for_the_newest() {
        let lobby = Lobby::new(2);
        let mut first = lobby.enter();
        let mut second = lobby.enter();
        assert!(!is_asked_out(&mut first) && !is_asked_out(&mut second));
        let mut third = lobby.enter();
        assert!(is_asked_out(&mut first));
        assert!(!is_asked_out(&mut second) && !is_asked_out(&mut third));
    }

    #[test]
    fn who_leaves_makes_room() {
        let lobby = Lobby::new(2);
        let mut first = lobby.enter();
        for _ in 0..10 {
            drop(lobby.enter());
        }
        assert!(!is_asked_out(&mut first));
        assert_eq!(lobby.waiting().guests.len(), 1);
    }
}
