//! Tunnels whose peer does not read, and the kernel memory that their sockets hold.
//!
//! All sockets of a machine share the kernel's TCP memory (`tcp_mem` in tcp(7)). When it runs short,
//! every connection becomes slow. Then stalled tunnels end: of the client address whose tunnels
//! hold the most, the one that has been stalled for longest. A client address whose stalled tunnels
//! hold half of what there is gives way, too.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::by_client::ByClient;
use super::socket_memory::{MemoryUse, SocketMemory};
use crate::policy::subscriber;

/// Minimum interval of reading how much memory sockets use.
const INTERVAL: Duration = Duration::from_millis(100);

/// All stalled tunnels.
#[derive(Debug)]
pub struct Stalls {
    memory: SocketMemory,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Each holds the bytes of its sockets. In the order in which they stalled.
    tunnels: ByClient<Arc<AtomicBool>>,
    checked: Option<Instant>,
}

/// A stalled tunnel, until it is dropped.
#[derive(Debug)]
pub struct StalledTunnel {
    all: Arc<Stalls>,
    /// As [`subscriber`] returns it.
    client: IpAddr,
    number: u64,
    must_end: Arc<AtomicBool>,
}

impl Stalls {
    /// Creates an empty register.
    #[must_use]
    pub fn new(memory: SocketMemory) -> Arc<Self> {
        Arc::new(Self { memory, state: Mutex::default() })
    }

    /// Adds a tunnel of a client that has stalled.
    #[must_use]
    pub fn add(self: &Arc<Self>, client: IpAddr) -> StalledTunnel {
        let client = subscriber(client);
        let must_end = Arc::new(AtomicBool::new(false));
        let number = self.lock().tunnels.insert(client, 0, must_end.clone());
        StalledTunnel { all: self.clone(), client, number, must_end }
    }

    /// Ends tunnels while there is too little memory, as far as that was not checked just before.
    fn relieve(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        if state.checked.is_some_and(|checked| now.duration_since(checked) < INTERVAL) {
            return;
        }
        state.checked = Some(now);
        drop(state);
        // Outside of the lock, because it reads files.
        let memory = self.memory.now();
        self.lock().relieve(memory);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn relieve(&mut self, memory: MemoryUse) {
        let before = self.tunnels.total();
        let excess = memory.used.saturating_sub(memory.enough);
        while before - self.tunnels.total() < excess || self.tunnels.most() > memory.enough / 2 {
            let Some(must_end) = self.tunnels.pop() else { return };
            must_end.store(true, Ordering::Relaxed);
        }
    }
}

impl StalledTunnel {
    /// Notes how many bytes its sockets hold now. Returns whether it must end to give them back.
    #[must_use]
    pub fn holds(&self, bytes: u64) -> bool {
        self.all.lock().tunnels.change(self.client, self.number, bytes);
        self.all.relieve();
        self.must_end.load(Ordering::Relaxed)
    }
}

impl Drop for StalledTunnel {
    fn drop(&mut self) {
        self.all.lock().tunnels.remove(self.client, self.number);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stalls() -> Arc<Stalls> {
        Stalls::new(SocketMemory::under("/nowhere".as_ref()))
    }

    fn relieve(stalls: &Stalls, used: u64, enough: u64) {
        stalls.lock().relieve(MemoryUse { used, enough });
    }

    fn ended(tunnels: &[StalledTunnel]) -> Vec<bool> {
        tunnels.iter().map(|one| one.must_end.load(Ordering::Relaxed)).collect()
    }

    fn tunnels(stalls: &Arc<Stalls>, held: &[(u8, u64)]) -> Vec<StalledTunnel> {
        let all = held.iter().map(|&(client, bytes)| {
            let tunnel = stalls.add(IpAddr::from([10, 0, 0, client]));
            stalls.lock().tunnels.change(tunnel.client, tunnel.number, bytes);
            tunnel
        });
        all.collect()
    }

    #[test]
    fn the_longest_stalled_of_the_client_with_the_most_ends_first() {
        let stalls = stalls();
        let held = tunnels(&stalls, &[(1, 30), (2, 20), (2, 20), (2, 20)]);
        relieve(&stalls, 1000, 1000);
        assert_eq!(ended(&held), [false, false, false, false], "there is enough");
        relieve(&stalls, 1001, 1000);
        assert_eq!(ended(&held), [false, true, false, false]);
        relieve(&stalls, 1025, 1000);
        assert_eq!(ended(&held), [true, true, true, false], "20 were not enough, 30 is the most");
    }

    #[test]
    fn one_client_does_not_hold_more_than_half() {
        let stalls = stalls();
        let held = tunnels(&stalls, &[(1, 50), (2, 30), (2, 30), (2, 20)]);
        relieve(&stalls, 0, 100);
        assert_eq!(ended(&held), [false, true, false, false]);
    }

    #[test]
    fn a_tunnel_that_reads_again_is_forgotten() {
        let stalls = stalls();
        drop(tunnels(&stalls, &[(1, 50), (2, 60)]));
        assert_eq!(stalls.lock().tunnels.total(), 0);
    }

    proptest! {
        #[test]
        fn as_many_end_as_must(
            held in proptest::collection::vec((0u8..5, 1u64..100), 0..40),
            used in 0u64..5_000, enough in 0u64..3_000,
        ) {
            let stalls = stalls();
            let tunnels = tunnels(&stalls, &held);
            relieve(&stalls, used, enough);
            let ended = ended(&tunnels);
            let sum = |client: Option<u8>, is_ended: bool| -> u64 {
                let of = held.iter().zip(&ended).filter(|((of, _), ended)| {
                    **ended == is_ended && client.is_none_or(|client| client == *of)
                });
                of.map(|((_, bytes), _)| bytes).sum()
            };
            let freed = sum(None, true);
            let excess = used.saturating_sub(enough);
            prop_assert!(freed >= excess || sum(None, false) == 0);
            prop_assert!((0..5).all(|client| sum(Some(client), false) <= enough / 2));
            // The last one that ended was needed.
            if used <= enough && (0..5).all(|client| sum(Some(client), false) + sum(Some(client), true) <= enough / 2) {
                prop_assert_eq!(freed, 0);
            }
        }
    }
}
