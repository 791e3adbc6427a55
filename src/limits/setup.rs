//! Sessions that are not tunnels yet, and the memory that unfinished ClientHellos take.
//!
//! A client can open them faster than they time out. When the gate is full, the address with the most of
//! them gives up its oldest for an address that has fewer. Unfinished ClientHellos are limited in bytes
//! too, for each address and in all: beyond, the address whose hellos take the most gives up its oldest.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::by_client::ByClient;
use crate::policy::subscriber;

/// The most memory that the unfinished hellos of all clients may take, in bytes.
const HELLO_BYTES: u64 = 64 << 20;

/// The most memory that the unfinished hellos of one client may take, in bytes: 500 that lack
/// only their last byte, at the default `hello-bytes`.
const HELLO_BYTES_PER_CLIENT: u64 = 16 << 20;

/// Every session that is not a tunnel yet.
#[derive(Debug, Default)]
pub(super) struct SetupSlots {
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    /// Each holds one.
    sessions: ByClient<CancellationToken>,
    /// Each holds the memory of its unfinished hello.
    hellos: ByClient<CancellationToken>,
}

/// One session, until it is a tunnel, or one ClientHello that is being read.
#[derive(Debug)]
pub struct SetupSlot {
    all: Arc<SetupSlots>,
    /// As [`subscriber`] returns it.
    client: IpAddr,
    /// Its number among the sessions. `None` for a connection that is not a session yet.
    session: Option<u64>,
    /// Its number among the unfinished hellos. `None` until it has kept bytes.
    hello: Option<u64>,
    evicted: CancellationToken,
}

/// Counts a tunnel among the sessions that are not tunnels yet while its second ClientHello is due.
#[derive(Debug, Clone)]
pub struct SecondHellos {
    all: Arc<SetupSlots>,
    client: IpAddr,
}

impl SecondHellos {
    /// Begins with one.
    #[must_use]
    pub fn begin(&self) -> SetupSlot {
        self.all.add_session(self.client)
    }
}

impl SetupSlots {
    /// Returns what counts the second hellos of a client.
    pub(super) fn second_hellos(self: &Arc<Self>, client: IpAddr) -> SecondHellos {
        SecondHellos { all: self.clone(), client }
    }

    /// Adds a session of a client.
    pub(super) fn add_session(self: &Arc<Self>, client: IpAddr) -> SetupSlot {
        let mut slot = self.add_hello(client);
        let mut slots = self.lock();
        slot.session = Some(slots.sessions.insert(slot.client, 1, slot.evicted.clone()));
        drop(slots);
        slot
    }

    /// Adds a hello of a client that is not a session yet.
    pub(super) fn add_hello(self: &Arc<Self>, client: IpAddr) -> SetupSlot {
        let evicted = CancellationToken::new();
        let client = subscriber(client);
        SetupSlot { all: self.clone(), client, session: None, hello: None, evicted }
    }

    /// Evicts a session for one of a client that has fewer. Returns `false` if there is none.
    pub(super) fn make_room_for(&self, client: IpAddr) -> bool {
        let mut slots = self.lock();
        let fair = slots.sessions.most() > slots.sessions.held(subscriber(client)) + 1;
        let evicted = if fair { slots.sessions.pop() } else { None };
        drop(slots);
        evicted.inspect(CancellationToken::cancel).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SetupSlot {
    /// Counts the memory that its unfinished hello takes now, in bytes. If that is too much, hellos are
    /// evicted; this one may be among them.
    pub fn keep(&mut self, bytes: usize) {
        if self.evicted.is_cancelled() {
            return;
        }
        let (client, bytes) = (self.client, bytes as u64);
        let Slots { hellos, .. } = &mut *self.all.lock();
        match self.hello {
            Some(number) => hellos.change(client, number, bytes),
            None => self.hello = Some(hellos.insert(client, bytes, self.evicted.clone())),
        }
        while hellos.held(client) > HELLO_BYTES_PER_CLIENT
            && let Some(evicted) = hellos.pop_of(client)
        {
            evicted.cancel();
        }
        while hellos.total() > HELLO_BYTES
            && let Some(evicted) = hellos.pop()
        {
            evicted.cancel();
        }
    }

    /// Resolves when it has to make room. It can be asked again after that.
    pub fn evicted(&self) -> WaitForCancellationFutureOwned {
        self.evicted.clone().cancelled_owned()
    }
}

impl Drop for SetupSlot {
    fn drop(&mut self) {
        let mut slots = self.all.lock();
        if let Some(number) = self.session {
            slots.sessions.remove(self.client, number);
        }
        if let Some(number) = self.hello {
            slots.hellos.remove(self.client, number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(client: usize) -> IpAddr {
        IpAddr::from([10, 0, (client / 250) as u8, (client % 250) as u8])
    }

    fn is_evicted(slot: &SetupSlot) -> bool {
        slot.evicted.is_cancelled()
    }

    #[test]
    fn the_client_with_the_most_makes_room_for_one_with_fewer() {
        let all = Arc::new(SetupSlots::default());
        let honest = all.add_session(ip(1));
        let mut flood: Vec<_> = (0..5).map(|_| all.add_session(ip(2))).collect();
        assert!(all.make_room_for(ip(1)) && is_evicted(&flood[0]) && !is_evicted(&flood[1]));
        assert!(!all.make_room_for(ip(2)), "it has the most itself");
        drop(flood.drain(..3));
        assert!(!all.make_room_for(ip(1)), "both would have two");
        assert!(!is_evicted(&honest));
        drop((honest, flood));
        let slots = all.lock();
        assert_eq!((slots.sessions.total(), slots.hellos.total()), (0, 0));
    }

    #[test]
    fn unfinished_hellos_are_limited_in_bytes_for_each_client_and_in_all() {
        const LARGE: usize = 32 << 10;
        let all = Arc::new(SetupSlots::default());
        let mut honest = all.add_session(ip(0));
        honest.keep(4 << 10);
        let mut kept = Vec::new();
        for number in 0..12_000 {
            let mut slot = all.add_hello(ip(1 + number % 12));
            // It grows as it is read.
            for bytes in [4 << 10, 16 << 10, LARGE] {
                slot.keep(bytes);
            }
            kept.push(slot);
            let hellos = &all.lock().hellos;
            assert!(hellos.total() <= HELLO_BYTES);
        }
        assert!(!is_evicted(&honest));
        let left = kept.iter().filter(|slot| !is_evicted(slot)).count();
        assert_eq!(left, (HELLO_BYTES as usize - (4 << 10)) / LARGE);
        let mut alone = all.add_hello(ip(100));
        alone.keep(HELLO_BYTES_PER_CLIENT as usize + 1);
        assert!(is_evicted(&alone) && !is_evicted(&honest));
        drop((kept, honest, alone));
        assert_eq!(all.lock().hellos.total(), 0);
    }
}
