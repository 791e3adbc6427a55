//! Which entry makes room for another: the oldest entry of the client that holds the most.
//!
//! One client cannot push out another that holds less, however fast it is.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// Entries by client address, as [`subscriber`](crate::policy::subscriber) returns it. Each entry
/// holds something: one place, or a number of bytes.
#[derive(Debug)]
pub(super) struct ByClient<T> {
    next: u64,
    /// What all entries hold.
    total: u64,
    held: HashMap<IpAddr, u64>,
    /// In the order of arrival for each client.
    entries: BTreeMap<(IpAddr, u64), Entry<T>>,
    /// The last one holds the most; of two that hold the same, the one whose oldest entry is older.
    ranking: BTreeSet<(u64, Reverse<u64>, IpAddr)>,
}

#[derive(Debug)]
struct Entry<T> {
    holds: u64,
    value: T,
}

impl<T> Default for ByClient<T> {
    fn default() -> Self {
        Self {
            next: 0,
            total: 0,
            held: HashMap::default(),
            entries: BTreeMap::default(),
            ranking: BTreeSet::default(),
        }
    }
}

impl<T> ByClient<T> {
    /// Adds the newest entry. Returns its number.
    pub(super) fn insert(&mut self, client: IpAddr, holds: u64, value: T) -> u64 {
        let number = self.next;
        self.next += 1;
        self.put(client, number, Entry { holds, value });
        number
    }

    /// Removes an entry. `None` if it has been removed before.
    pub(super) fn remove(&mut self, client: IpAddr, number: u64) -> Option<T> {
        Some(self.take(client, number)?.value)
    }

    /// Gives an entry to another client. It keeps its age. Returns `false` if it has been removed.
    pub(super) fn reassign(&mut self, from: IpAddr, number: u64, to: IpAddr) -> bool {
        let Some(entry) = self.take(from, number) else { return false };
        self.put(to, number, entry);
        true
    }

    /// Removes the oldest entry of the client that holds the most.
    pub(super) fn pop(&mut self) -> Option<T> {
        let &(_, Reverse(oldest), client) = self.ranking.last()?;
        self.remove(client, oldest)
    }

    /// Removes the client's oldest entry.
    pub(super) fn pop_of(&mut self, client: IpAddr) -> Option<T> {
        self.remove(client, self.oldest(client)?)
    }

    /// Sets what an entry holds, unless it has been removed.
    pub(super) fn change(&mut self, client: IpAddr, number: u64, holds: u64) {
        if let Some(entry) = self.take(client, number) {
            self.put(client, number, Entry { holds, ..entry });
        }
    }

    /// What the client's entries hold.
    pub(super) fn held(&self, client: IpAddr) -> u64 {
        self.held.get(&client).copied().unwrap_or(0)
    }

    /// What the entries of the client that holds the most hold.
    pub(super) fn most(&self) -> u64 {
        self.ranking.last().map_or(0, |&(held, _, _)| held)
    }

    /// What all entries hold.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    fn put(&mut self, client: IpAddr, number: u64, entry: Entry<T>) {
        self.unrank(client);
        self.total += entry.holds;
        *self.held.entry(client).or_insert(0) += entry.holds;
        self.entries.insert((client, number), entry);
        self.rank(client);
    }

    fn take(&mut self, client: IpAddr, number: u64) -> Option<Entry<T>> {
        if !self.entries.contains_key(&(client, number)) {
            return None;
        }
        self.unrank(client);
        let entry = self.entries.remove(&(client, number))?;
        self.total -= entry.holds;
        if let Some(held) = self.held.get_mut(&client) {
            *held -= entry.holds;
        }
        self.rank(client);
        Some(entry)
    }

    /// The number of the client's oldest entry.
    fn oldest(&self, client: IpAddr) -> Option<u64> {
        let mut entries = self.entries.range((client, 0)..=(client, u64::MAX));
        entries.next().map(|(&(_, number), _)| number)
    }

    fn unrank(&mut self, client: IpAddr) {
        if let (Some(&held), Some(oldest)) = (self.held.get(&client), self.oldest(client)) {
            self.ranking.remove(&(held, Reverse(oldest), client));
        }
    }

    fn rank(&mut self, client: IpAddr) {
        let Some(oldest) = self.oldest(client) else {
            self.held.remove(&client);
            return;
        };
        if let Some(&held) = self.held.get(&client) {
            self.ranking.insert((held, Reverse(oldest), client));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    /// The same by looking at every entry.
    fn expected(entries: &[(u8, u64, u64)]) -> Option<u64> {
        let held =
            |client| -> u64 { entries.iter().filter(|one| one.0 == client).map(|one| one.1).sum() };
        let oldest = |client| entries.iter().filter(|one| one.0 == client).map(|one| one.2).min();
        let most = entries.iter().max_by_key(|one| (held(one.0), Reverse(oldest(one.0))))?;
        oldest(most.0)
    }

    proptest! {
        #[test]
        fn the_oldest_entry_of_the_client_with_the_most_makes_room(
            steps in proptest::collection::vec((0u8..8, 0u8..5, 0u64..4, any::<prop::sample::Index>()), 0..200),
        ) {
            let mut by_client = ByClient::default();
            let mut model: Vec<(u8, u64, u64)> = Vec::new();
            for (step, client, holds, which) in steps {
                match step {
                    0..=2 => {
                        let number = by_client.next;
                        prop_assert_eq!(by_client.insert(ip(client), holds, number), number);
                        model.push((client, holds, number));
                    }
                    3 if !model.is_empty() => {
                        let (client, _, number) = model.remove(which.index(model.len()));
                        prop_assert_eq!(by_client.remove(ip(client), number), Some(number));
                        prop_assert_eq!(by_client.remove(ip(client), number), None);
                    }
                    4 if !model.is_empty() => {
                        let at = which.index(model.len());
                        prop_assert!(by_client.reassign(ip(model[at].0), model[at].2, ip(client)));
                        model[at].0 = client;
                    }
                    5 if !model.is_empty() => {
                        let at = which.index(model.len());
                        by_client.change(ip(model[at].0), model[at].2, holds);
                        model[at].1 = holds;
                    }
                    6 => {
                        let of_client = model.iter().filter(|one| one.0 == client);
                        let oldest = of_client.map(|one| one.2).min();
                        prop_assert_eq!(by_client.pop_of(ip(client)), oldest);
                        model.retain(|one| Some(one.2) != oldest);
                    }
                    _ => {
                        let gone = by_client.pop();
                        prop_assert_eq!(gone, expected(&model));
                        model.retain(|one| Some(one.2) != gone);
                    }
                }
                for client in 0..5 {
                    let of_client = model.iter().filter(|one| one.0 == client);
                    let held = of_client.map(|one| one.1).sum::<u64>();
                    prop_assert_eq!(by_client.held(ip(client)), held);
                    prop_assert!(by_client.most() >= held);
                }
                prop_assert_eq!(by_client.total(), model.iter().map(|one| one.1).sum::<u64>());
                prop_assert_eq!(by_client.entries.len(), model.len());
            }
            while by_client.pop().is_some() {}
            prop_assert!(by_client.held.is_empty() && by_client.ranking.is_empty());
        }
    }
}
