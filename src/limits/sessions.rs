//! Limits open sessions: in total, per client address, and per `[[client]]`.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

use super::session_rate::SessionRates;
use super::setup::{SecondHellos, SetupSlot, SetupSlots};
use crate::policy::{Client, Denial, Limits, Reason, subscriber};

/// Maximum number of evicted sessions that may still be open when another is admitted.
const LEAVING: usize = 32;

/// The limits on sessions, and their counters. Survives reloads.
#[derive(Debug, Default)]
pub struct Sessions {
    rates: SessionRates,
    open: Arc<OpenCounts>,
    setup: Arc<SetupSlots>,
}

#[derive(Debug, Default)]
struct OpenCounts {
    all: AtomicUsize,
    /// By client address, as returned by [`subscriber`].
    clients: DashMap<IpAddr, usize>,
    /// By the name of a `[[client]]`.
    groups: DashMap<Arc<str>, usize>,
}

/// One open session. It counts until it is dropped.
#[derive(Debug)]
pub struct SessionPermit {
    open: Arc<OpenCounts>,
    subscriber: IpAddr,
    group: Option<Arc<str>>,
}

impl Sessions {
    /// Admits a new session of a client address. If the gate is full, evicts a session that is not a
    /// tunnel yet, of the address that has the most of them.
    ///
    /// # Errors
    /// `rate-limit` and `session-limit`.
    pub fn admit(&self, client: IpAddr, limits: &Limits) -> Result<SessionPermit, Denial> {
        if let Some(rate) = limits.new_sessions_per_second_per_client {
            self.rates.admit_address(rate, client)?;
        }
        let full = |remedy| Denial::with_remedy(Reason::SessionLimit, remedy);
        let open = &self.open;
        let subscriber = subscriber(client);
        let mut count = open.clients.entry(subscriber).or_insert(0);
        if *count >= limits.open_sessions_per_client {
            return Err(full("this client has too many sessions open"));
        }
        *count += 1;
        drop(count);
        let permit = SessionPermit { open: open.clone(), subscriber, group: None };
        let others = open.all.fetch_add(1, Ordering::Relaxed);
        let has_room = others < limits.open_sessions
            || others < limits.open_sessions + LEAVING && self.setup.make_room_for(client);
        if has_room { Ok(permit) } else { Err(full("the gate is full; try later")) }
    }

    /// Counts an admitted session as not a tunnel yet, until the slot is dropped.
    #[must_use]
    pub fn sets_up(&self, client: IpAddr) -> SetupSlot {
        self.setup.add_session(client)
    }

    /// Counts tunnels of a client as not tunnels yet while their second ClientHello is due.
    #[must_use]
    pub fn second_hellos(&self, client: IpAddr) -> SecondHellos {
        self.setup.second_hellos(client)
    }

    /// Counts the memory of a ClientHello that is read before its session is admitted.
    #[must_use]
    pub fn reads_hello(&self, client: IpAddr) -> SetupSlot {
        self.setup.add_hello(client)
    }

    /// Counts an admitted session towards the limits of its `[[client]]`, too. Repeated calls for a
    /// session have no effect.
    ///
    /// # Errors
    /// `rate-limit` and `session-limit`.
    pub fn admit_to_group(
        &self,
        permit: &mut SessionPermit,
        client: &Client,
    ) -> Result<(), Denial> {
        self.rates.admit_group(client)?;
        if permit.group.is_some() {
            return Ok(());
        }
        let mut count = self.open.groups.entry(client.name.clone()).or_insert(0);
        if client.limits.open_sessions.is_some_and(|most| *count >= most) {
            let remedy = format!("{} has too many sessions open", client.name);
            return Err(Denial::with_remedy(Reason::SessionLimit, remedy));
        }
        *count += 1;
        drop(count);
        permit.group = Some(client.name.clone());
        Ok(())
    }
}

impl Drop for SessionPermit {
    fn drop(&mut self) {
        let last = |count: &mut usize| {
            *count = count.saturating_sub(1);
            *count == 0
        };
        self.open.clients.remove_if_mut(&self.subscriber, |_, count| last(count));
        if let Some(group) = &self.group {
            self.open.groups.remove_if_mut(group, |_, count| last(count));
        }
        self.open.all.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{ClientLimits, Location};

    impl Sessions {
        fn open(&self) -> usize {
            self.open.all.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn sessions_are_limited_in_all_and_per_client() {
        let sessions = Sessions::default();
        let limits = Limits { open_sessions: 3, open_sessions_per_client: 2, ..Limits::default() };
        let enter = |client: &str| sessions.admit(client.parse().unwrap(), &limits);
        let first = enter("10.0.0.7").unwrap();
        let second = enter("::ffff:10.0.0.7").unwrap();
        assert_eq!(enter("10.0.0.7").unwrap_err().reason, Reason::SessionLimit);
        let third = enter("10.0.0.8").unwrap();
        assert_eq!(enter("10.0.0.9").unwrap_err().reason, Reason::SessionLimit);
        assert_eq!(sessions.open(), 3);
        drop(first);
        let fourth = enter("10.0.0.7").unwrap();
        drop((second, third));
        // An IPv6 host picks its addresses within a network of 64 bits.
        let fifth = enter("2001:db8:1:2::1").unwrap();
        let sixth = enter("2001:db8:1:2:3::1").unwrap();
        drop(fourth);
        assert_eq!(enter("2001:db8:1:2:4::1").unwrap_err().reason, Reason::SessionLimit);
        let seventh = enter("2001:db8:1:3::1").unwrap();
        assert_eq!(sessions.open(), 3);
        drop(fifth);
        drop((enter("2001:db8:1:2:4::1").unwrap(), sixth, seventh));
        assert_eq!(sessions.open(), 0);
        assert!(sessions.open.clients.is_empty());
    }

    #[test]
    fn a_full_gate_evicts_who_has_the_most_sessions_that_are_no_tunnels() {
        let sessions = Sessions::default();
        let limits = Limits { open_sessions: 20, ..Limits::default() };
        let enter = |client: &str| {
            let client = client.parse().unwrap();
            let permit = sessions.admit(client, &limits)?;
            Ok::<_, Denial>((permit, sessions.sets_up(client)))
        };
        let flood: Vec<_> = (0..20).map(|_| enter("10.0.0.7").unwrap()).collect();
        let full = enter("10.0.0.7").unwrap_err();
        assert_eq!(full.remedy.as_deref(), Some("the gate is full; try later"));
        let honest: Vec<_> = (0..10).map(|_| enter("10.0.0.8").unwrap()).collect();
        assert!(enter("10.0.0.8").is_err(), "half of the places are fair");
        drop((flood, honest));
        assert_eq!(sessions.open(), 0);
        // Tunnels make no room.
        let tunnels: Vec<_> =
            (0..20).map(|_| sessions.admit("10.0.0.7".parse().unwrap(), &limits)).collect();
        assert!(enter("10.0.0.8").is_err());
        drop(tunnels);
        assert_eq!(sessions.open(), 0);
    }

    #[test]
    fn sessions_of_a_group_are_limited_wherever_its_members_are() {
        let sessions = Sessions::default();
        let client = Client {
            name: "agents".into(),
            place: Location { file: "pullgate.toml".into(), line: 1 },
            networks: Vec::new(),
            certificate_names: Vec::new(),
            users: Vec::new(),
            limits: ClientLimits { open_sessions: Some(2), ..ClientLimits::default() },
        };
        let enter = |address: &str| {
            let mut permit = sessions.admit(address.parse().unwrap(), &Limits::default())?;
            sessions.admit_to_group(&mut permit, &client)?;
            // A second time counts for nothing.
            sessions.admit_to_group(&mut permit, &client)?;
            Ok::<_, Denial>(permit)
        };
        let (first, second) = (enter("10.0.0.7").unwrap(), enter("10.0.0.8").unwrap());
        let denial = enter("10.0.0.9").unwrap_err();
        assert_eq!(denial.reason, Reason::SessionLimit);
        assert_eq!(denial.remedy.as_deref(), Some("agents has too many sessions open"));
        drop(first);
        drop((enter("10.0.0.9").unwrap(), second));
        assert!(enter("10.0.0.7").is_ok());
    }
}
