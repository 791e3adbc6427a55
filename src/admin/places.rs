//! Connections to the admin listener: how many are served at once, and which give way.
//!
//! Those without a request have places of their own, and give way to new ones, so that silent
//! connections keep nobody out. Probes have a share of their own, so that large pages keep no probe out.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::PendingConnections;

/// Connections without a request.
const SILENT: usize = 24;

/// Pages served at once.
const PAGES: usize = 24;

/// Probes answered at once.
const PROBES: usize = 8;

/// Streams for the status page at once.
const STREAMS: usize = 8;

/// The places of all connections to one admin listener.
#[derive(Debug)]
pub(super) struct AdminPlaces {
    pub(super) silent: Arc<PendingConnections>,
    pages: Arc<Semaphore>,
    probes: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl AdminPlaces {
    pub(super) fn new() -> Arc<Self> {
        let share = |places| Arc::new(Semaphore::new(places));
        Arc::new(Self {
            silent: PendingConnections::new(SILENT),
            pages: share(PAGES),
            probes: share(PROBES),
            streams: share(STREAMS),
        })
    }

    /// Takes a place for a request. `None` if its share is used up.
    pub(super) fn take(&self, path: &str) -> Option<OwnedSemaphorePermit> {
        let share = match path {
            "/healthz" | "/readyz" => &self.probes,
            _ => &self.pages,
        };
        share.clone().try_acquire_owned().ok()
    }

    /// Takes a place for a stream. `None` if there are too many.
    pub(super) fn take_stream(&self) -> Option<OwnedSemaphorePermit> {
        self.streams.clone().try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_take_no_place_of_a_probe() {
        let places = AdminPlaces::new();
        let pages: Vec<_> = std::iter::from_fn(|| places.take("/metrics")).collect();
        assert_eq!(pages.len(), PAGES);
        let probes: Vec<_> = std::iter::from_fn(|| places.take("/healthz")).collect();
        assert_eq!(probes.len(), PROBES);
        assert!(places.take("/readyz").is_none());
        drop((pages, probes));
        assert!(places.take("/policy").is_some() && places.take("/readyz").is_some());
    }
}
