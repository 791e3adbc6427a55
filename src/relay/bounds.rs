//! What bounds a tunnel. Its upload has a budget, and the hour of its client: they are asked before
//! bytes are taken from the client, so that not one more than allowed is ever taken; in report mode
//! they only note that more has passed. Its download has rates, by which it is paced (`throttle`).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;
use tokio::time::Instant;

use super::throttle::{Paced, Throttle};
use crate::policy::{Budget, Enforcement, HourOfUploads};

/// Stands for an upload without a budget, and for an hour without a limit.
const UNBOUNDED: u64 = u64::MAX;

/// What one tunnel may send up. Shared with its session, which may change it after a reload.
#[derive(Debug)]
pub struct Bounds {
    base: AtomicU64,
    ratio: AtomicU64,
    only_reports: AtomicBool,
    exceeded: AtomicBool,
    hour: Option<Arc<UploadQuota>>,
    pub(super) paced: Option<Box<Paced>>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            base: AtomicU64::new(UNBOUNDED),
            ratio: AtomicU64::new(0),
            only_reports: AtomicBool::new(false),
            exceeded: AtomicBool::new(false),
            hour: None,
            paced: None,
        }
    }
}

/// Bytes that may be taken now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reserved {
    pub(super) bytes: usize,
    /// How many of them the client's hour has counted already.
    counted: usize,
}

impl Bounds {
    /// Bounds whose uploads count in a client's hour, too, and whose downloads keep these rates.
    #[must_use]
    pub fn within(hour: Option<Arc<UploadQuota>>, rates: Vec<Arc<Throttle>>) -> Self {
        Self { hour, paced: Paced::by(rates), ..Self::default() }
    }

    /// Sets the budget, and whether it bites or is only reported on.
    pub fn set(&self, budget: Option<Budget>, enforcement: Enforcement) {
        let base = budget.map_or(UNBOUNDED, |budget| budget.base_bytes);
        self.base.store(base, Ordering::Relaxed);
        self.ratio.store(budget.map_or(0, |budget| budget.ratio_percent), Ordering::Relaxed);
        self.only_reports.store(enforcement == Enforcement::Report, Ordering::Relaxed);
    }

    /// Whether more went up than allowed, since only a report was asked for.
    #[must_use]
    pub fn were_exceeded(&self) -> bool {
        self.exceeded.load(Ordering::Relaxed)
    }

    fn allowed(&self, down: u64) -> u64 {
        match self.base.load(Ordering::Relaxed) {
            UNBOUNDED => UNBOUNDED,
            base_bytes => {
                let ratio_percent = self.ratio.load(Ordering::Relaxed);
                Budget { base_bytes, ratio_percent }.allows(down)
            }
        }
    }

    /// How many of `want` bytes may be taken, when so many were before and so many came down.
    /// Every answer must be [settled](Self::settle).
    pub(super) fn reserve(&self, up: u64, down: u64, want: usize) -> Reserved {
        if self.only_reports.load(Ordering::Relaxed) {
            return Reserved { bytes: want, counted: 0 };
        }
        let left = self.allowed(down).saturating_sub(up);
        let bytes = want.min(usize::try_from(left).unwrap_or(usize::MAX));
        match &self.hour {
            None => Reserved { bytes, counted: 0 },
            Some(hour) => hour.reserve(bytes),
        }
    }

    /// So many bytes were taken of those reserved, after `up` before them.
    pub(super) fn settle(&self, reserved: Reserved, took: usize, up: u64, down: u64) {
        let after = up.saturating_add(took as u64);
        let mut exceeded = after > self.allowed(down);
        if let Some(hour) = &self.hour {
            exceeded |= hour.settle(reserved.counted, took);
        }
        // A reload may have taken away what had gone before it.
        if exceeded && self.only_reports.load(Ordering::Relaxed) {
            self.exceeded.store(true, Ordering::Relaxed);
        }
    }
}

/// What all tunnels of one client may send up within an hour. It outlives reloads.
#[derive(Debug)]
pub struct UploadQuota {
    limit: AtomicU64,
    began: Instant,
    uploads: Mutex<HourOfUploads>,
}

impl Default for UploadQuota {
    /// Without a limit.
    fn default() -> Self {
        Self::new(UNBOUNDED)
    }
}

impl UploadQuota {
    /// An hour in which so many bytes may go up, and none have.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self { limit: AtomicU64::new(limit), began: Instant::now(), uploads: Mutex::default() }
    }

    /// Sets the limit, or lifts it. What has gone up before still counts, unless nothing did while
    /// there was none.
    pub fn limit_to(&self, bytes: Option<u64>) {
        self.limit.store(bytes.unwrap_or(UNBOUNDED), Ordering::Relaxed);
    }

    /// How many bytes may still go up now.
    #[must_use]
    pub fn left(&self) -> u64 {
        match self.limit.load(Ordering::Relaxed) {
            UNBOUNDED => UNBOUNDED,
            limit => self.with(|uploads, now| limit.saturating_sub(uploads.sum(now))),
        }
    }

    fn with<R>(&self, act: impl FnOnce(&mut HourOfUploads, std::time::Duration) -> R) -> R {
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut uploads, self.began.elapsed())
    }

    fn reserve(&self, want: usize) -> Reserved {
        let limit = self.limit.load(Ordering::Relaxed);
        if limit == UNBOUNDED {
            return Reserved { bytes: want, counted: 0 };
        }
        self.with(|uploads, now| {
            let left = limit.saturating_sub(uploads.sum(now));
            let bytes = want.min(usize::try_from(left).unwrap_or(usize::MAX));
            uploads.add(bytes as u64, now);
            Reserved { bytes, counted: bytes }
        })
    }

    /// Counts what was taken in place of what had been counted: whether it was too much.
    fn settle(&self, counted: usize, took: usize) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        if counted == took || (counted == 0 && limit == UNBOUNDED) {
            return false;
        }
        self.with(|uploads, now| {
            uploads.take_back(counted.saturating_sub(took) as u64, now);
            uploads.add(took.saturating_sub(counted) as u64, now);
            uploads.sum(now) > limit
        })
    }
}

/// What tunnels share: the hours of clients, the rates of clients and registries. They outlive
/// reloads; the names are the configuration's, so that there are few.
#[derive(Debug, Default)]
pub struct Quotas {
    hours: DashMap<Arc<str>, Arc<UploadQuota>>,
    rates: DashMap<(Whose, Arc<str>), Arc<Throttle>>,
}

/// Whose rate it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Whose {
    /// A group of clients'.
    Client,
    /// A registry's.
    Registry,
}

impl Quotas {
    /// The rate of a client or a registry, so many bytes a second from now on; where that is
    /// nothing, an older one is lifted.
    #[must_use]
    pub fn rate(&self, whose: Whose, name: &Arc<str>, limit: Option<u64>) -> Option<Arc<Throttle>> {
        let key = (whose, name.clone());
        if let Some(throttle) = self.rates.get(&key) {
            throttle.limit_to(limit);
            return limit.map(|_| throttle.clone());
        }
        let fresh = |limit| self.rates.entry(key).or_insert_with(|| Arc::new(Throttle::new(limit)));
        limit.map(|limit| fresh(limit).clone())
    }

    /// The hour of a client, in which so many bytes may go up from now on; as many as it likes
    /// where that is nothing.
    #[must_use]
    pub fn hour(&self, client: &Arc<str>, limit: Option<u64>) -> Arc<UploadQuota> {
        let known = self.hours.get(client).map(|hour| hour.clone());
        let fresh = || self.hours.entry(client.clone()).or_default().clone();
        let hour = known.unwrap_or_else(fresh);
        hour.limit_to(limit);
        hour
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bounds(base_bytes: u64, ratio_percent: u64, enforcement: Enforcement) -> Bounds {
        let bounds = Bounds::default();
        bounds.set(Some(Budget { base_bytes, ratio_percent }), enforcement);
        bounds
    }

    proptest! {
        #[test]
        fn never_more_is_taken_than_allowed_and_never_less_than_could_be(
            base in 0u64..5_000, ratio in 0u64..5, hour in 0u64..20_000,
            steps in proptest::collection::vec((1usize..3_000, 0u64..50_000, 0.0f64..=1.0), 0..40),
        ) {
            let shared = Arc::new(UploadQuota::new(hour));
            let bounds = Bounds::within(Some(shared.clone()), Vec::new());
            let budget = Budget { base_bytes: base, ratio_percent: ratio };
            bounds.set(Some(budget), Enforcement::Enforce);
            let (mut up, mut down) = (0, 0);
            for (want, came, part) in steps {
                down += came;
                let reserved = bounds.reserve(up, down, want);
                let left = budget.allows(down).saturating_sub(up).min(hour - up);
                prop_assert_eq!(reserved.bytes as u64, left.min(want as u64));
                let took = (reserved.bytes as f64 * part) as usize;
                bounds.settle(reserved, took, up, down);
                up += took as u64;
                prop_assert!(up <= budget.allows(down) && up <= hour);
                prop_assert_eq!(shared.left(), hour - up);
            }
            prop_assert!(!bounds.were_exceeded());
        }
    }

    #[test]
    fn a_report_notes_the_first_byte_too_much() {
        for (took, exceeded) in [(10, false), (11, true)] {
            let bounds = bounds(10, 0, Enforcement::Report);
            let reserved = bounds.reserve(0, 0, 100);
            assert_eq!(reserved.bytes, 100);
            bounds.settle(reserved, took, 0, 0);
            assert_eq!(bounds.were_exceeded(), exceeded, "{took}");
        }
        let hour = Arc::new(UploadQuota::new(10));
        let bounds = Bounds::within(Some(hour.clone()), Vec::new());
        bounds.set(None, Enforcement::Report);
        bounds.settle(bounds.reserve(0, 0, 100), 11, 0, 0);
        assert!(bounds.were_exceeded());
        assert_eq!(hour.left(), 0);
    }

    #[test]
    fn tunnels_of_one_client_share_its_hour() {
        let hour = Arc::new(UploadQuota::new(100));
        let (one, other) = (
            Bounds::within(Some(hour.clone()), Vec::new()),
            Bounds::within(Some(hour.clone()), Vec::new()),
        );
        let first = one.reserve(0, 0, 80);
        let second = other.reserve(0, 0, 80);
        assert_eq!((first.bytes, second.bytes), (80, 20));
        one.settle(first, 30, 0, 0);
        other.settle(second, 20, 0, 0);
        assert_eq!(other.reserve(20, 0, 80).bytes, 50);
        hour.limit_to(Some(10));
        assert_eq!(hour.left(), 0);
        assert_eq!(other.reserve(20, 0, 80).bytes, 0);
        hour.limit_to(None);
        let free = other.reserve(20, 0, 80);
        assert_eq!(free.bytes, 80);
        other.settle(free, 80, 20, 0);
        hour.limit_to(Some(200));
        assert_eq!(hour.left(), 100, "what went while there was no limit does not count");
    }

    #[test]
    fn an_hour_outlives_a_change_of_its_limit() {
        let hours = Quotas::default();
        let name: Arc<str> = "agents".into();
        let hour = hours.hour(&name, Some(100));
        hour.settle(0, 60);
        assert_eq!(hours.hour(&name, Some(90)).left(), 30);
        assert_eq!(hour.left(), 30);
        assert_eq!(hours.hour(&name, None).left(), UNBOUNDED);
        assert_eq!(hours.hour(&name, Some(70)).left(), 10);
        assert_eq!(hours.hour(&"others".into(), Some(90)).left(), 90);
    }
}
