//! Expired answers, kept for times when no server answers (RFC 8767).
//!
//! A registry moves its names on fail-over, so an expired answer is used only if querying failed,
//! and no longer than `stale-ms` allows. It is vetted like any other.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use tokio::time::Instant;

use crate::policy::{Name, NameServer};

/// Maximum number of names.
const MOST_NAMES: usize = 10_000;

/// Lifetime of such an answer for other sessions: RFC 8767 §4.
pub(super) const LIVES: Duration = Duration::from_secs(30);

/// The last good answer of each name.
#[derive(Debug, Default)]
pub(super) struct LastAnswers {
    names: DashMap<Name, Last>,
}

#[derive(Debug)]
struct Last {
    /// When the answer expired.
    ended: Instant,
    addresses: Arc<[IpAddr]>,
    /// The servers of another policy may have returned other addresses.
    servers: Box<[NameServer]>,
}

impl LastAnswers {
    /// Stores an answer of these servers.
    pub(super) fn note(
        &self,
        name: &Name,
        servers: &[NameServer],
        addresses: &Arc<[IpAddr]>,
        lives: Duration,
    ) {
        if self.names.len() >= MOST_NAMES && !self.names.contains_key(name) {
            return;
        }
        let ended = Instant::now() + lives;
        let last = Last { ended, addresses: addresses.clone(), servers: servers.into() };
        self.names.insert(name.clone(), last);
    }

    /// Returns the last answer of these servers, if it expired at most `bound` ago.
    pub(super) fn find(
        &self,
        name: &Name,
        servers: &[NameServer],
        bound: Duration,
    ) -> Option<Arc<[IpAddr]>> {
        if bound.is_zero() {
            return None;
        }
        let last = self.names.get(name)?;
        let lives = last.ended + bound > Instant::now() && *last.servers == *servers;
        lives.then(|| last.addresses.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_outlives_its_time_by_the_bound_and_no_longer() {
        let last = LastAnswers::default();
        let name = Name::parse("contoso.azurecr.io").unwrap();
        let servers = [NameServer::parse("10.0.0.53").unwrap()];
        let addresses: Arc<[IpAddr]> = Arc::new(["20.1.2.3".parse().unwrap()]);
        let bound = Duration::from_secs(600);
        assert!(last.find(&name, &servers, bound).is_none());
        last.note(&name, &servers, &addresses, Duration::from_secs(60));
        for (seconds, is_there) in [(0, true), (659, true), (1, false)] {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            assert_eq!(last.find(&name, &servers, bound).is_some(), is_there, "{seconds}");
        }
        last.note(&name, &servers, &addresses, Duration::from_secs(60));
        assert!(last.find(&name, &[], bound).is_none(), "of other servers");
        assert!(last.find(&name, &servers, Duration::ZERO).is_none(), "switched off");
    }
}
