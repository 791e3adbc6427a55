//! The limits of one tunnel.
//!
//! The upload has a budget and counts towards the client's hourly quota. Both are checked before
//! bytes are read from the client, so the gate never reads more than is allowed. In report mode, an
//! excess is only recorded. The download respects the rates of its client and its registry
//! (`throttle`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::throttle::{Paced, Throttle};
use super::upload_quota::{Follows, Reserved, UNBOUNDED, UploadQuota};
use crate::policy::{Budget, Enforcement, LEAST_RESPONSE};

/// The limits of one tunnel. Shared with its session, which can change them after a reload.
#[derive(Debug)]
pub struct Bounds {
    base: AtomicU64,
    ratio: AtomicU64,
    request: AtomicU64,
    responses: Responses,
    only_reports: AtomicBool,
    exceeded: AtomicBool,
    quota: Option<Arc<UploadQuota>>,
    paced: Option<Box<Paced>>,
}

/// The responses of a tunnel: what came down between two uploads, where it was enough. Only the upload
/// counts them.
#[derive(Debug)]
struct Responses {
    count: AtomicU64,
    /// How much had come down at the last upload; `u64::MAX` before the first.
    down: AtomicU64,
}

impl Default for Responses {
    fn default() -> Self {
        Self { count: AtomicU64::new(0), down: AtomicU64::new(u64::MAX) }
    }
}

impl Responses {
    /// Returns what a request would follow once `down` bytes have come down.
    fn before(&self, down: u64) -> Follows {
        match down.saturating_sub(self.down.load(Ordering::Relaxed)) >= LEAST_RESPONSE {
            true => Follows::Response,
            false => Follows::Upload,
        }
    }

    /// Notes that bytes went up.
    fn sent(&self, follows: Follows, down: u64) {
        if follows != Follows::Handshake {
            self.down.store(down, Ordering::Relaxed);
            self.count.fetch_add((follows == Follows::Response).into(), Ordering::Relaxed);
        }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            base: AtomicU64::new(UNBOUNDED),
            ratio: AtomicU64::new(0),
            request: AtomicU64::new(0),
            responses: Responses::default(),
            only_reports: AtomicBool::new(false),
            exceeded: AtomicBool::new(false),
            quota: None,
            paced: None,
        }
    }
}

impl Bounds {
    /// Creates limits with an upload quota and download rates.
    #[must_use]
    pub fn within(quota: Option<Arc<UploadQuota>>, rates: Vec<Arc<Throttle>>) -> Self {
        Self { quota, paced: Paced::by(rates), ..Self::default() }
    }

    /// Sets the budget, and whether it is enforced.
    pub fn set(&self, budget: Option<Budget>, enforcement: Enforcement) {
        let base = budget.map_or(UNBOUNDED, |budget| budget.base_bytes);
        self.base.store(base, Ordering::Relaxed);
        self.ratio.store(budget.map_or(0, |budget| budget.ratio_percent), Ordering::Relaxed);
        self.request.store(budget.map_or(0, |budget| budget.request_bytes), Ordering::Relaxed);
        self.only_reports.store(enforcement == Enforcement::Report, Ordering::Relaxed);
    }

    /// Returns whether the upload exceeded its limit, which only report mode allows.
    #[must_use]
    pub fn were_exceeded(&self) -> bool {
        self.exceeded.load(Ordering::Relaxed)
    }

    /// Returns the rates of the download; `None` if it is unlimited.
    #[must_use]
    pub fn paced(&self) -> Option<&Paced> {
        self.paced.as_deref()
    }

    fn allowed(&self, down: u64, follows: Follows) -> u64 {
        match self.base.load(Ordering::Relaxed) {
            UNBOUNDED => UNBOUNDED,
            base_bytes => {
                let ratio_percent = self.ratio.load(Ordering::Relaxed);
                let request_bytes = self.request.load(Ordering::Relaxed);
                let responses = self.responses.count.load(Ordering::Relaxed)
                    + u64::from(follows == Follows::Response);
                Budget { base_bytes, ratio_percent, request_bytes }.allows(down, responses)
            }
        }
    }

    /// Reserves upload of the handshake: returns how many of `want` bytes can be read after `up` bytes
    /// up and `down` bytes down. Each result must be [settled](Self::settle).
    #[must_use]
    pub fn reserve_handshake(&self, up: u64, down: u64, want: usize) -> Reserved {
        self.reserve_after(Follows::Handshake, up, down, want)
    }

    /// Reserves upload as [`Self::reserve_handshake`], once the handshake is over. What came down since
    /// the last such bytes went up is a response.
    #[must_use]
    pub fn reserve(&self, up: u64, down: u64, want: usize) -> Reserved {
        self.reserve_after(self.responses.before(down), up, down, want)
    }

    fn reserve_after(&self, follows: Follows, up: u64, down: u64, want: usize) -> Reserved {
        let reserved = if self.only_reports.load(Ordering::Relaxed) {
            Reserved::uncounted(want)
        } else {
            let left = self.allowed(down, follows).saturating_sub(up);
            let bytes = want.min(usize::try_from(left).unwrap_or(usize::MAX));
            match &self.quota {
                None => Reserved::uncounted(bytes),
                Some(quota) => quota.reserve(bytes),
            }
        };
        Reserved { follows, ..reserved }
    }

    /// Counts the `took` bytes that were read of those reserved, after `up` earlier bytes.
    pub fn settle(&self, reserved: Reserved, took: usize, up: u64, down: u64) {
        let after = up.saturating_add(took as u64);
        let mut exceeded = after > self.allowed(down, reserved.follows);
        if took > 0 {
            self.responses.sent(reserved.follows, down);
        }
        if let Some(quota) = &self.quota {
            exceeded |= quota.settle(reserved.counted, took);
        }
        self.note_excess(exceeded);
    }

    /// Counts bytes of a push that rules allow: no budget limits them, but they count towards the
    /// client's hour. Returns whether they may be sent.
    #[must_use]
    pub fn count_push(&self, bytes: usize) -> bool {
        let Some(quota) = &self.quota else { return true };
        let reserved = match self.only_reports.load(Ordering::Relaxed) {
            true => Reserved::uncounted(bytes),
            false => quota.reserve(bytes),
        };
        let may_pass = reserved.bytes == bytes;
        let exceeded = quota.settle(reserved.counted, if may_pass { bytes } else { 0 });
        self.note_excess(exceeded);
        may_pass
    }

    fn note_excess(&self, exceeded: bool) {
        // A reload may have removed the earlier limit.
        if exceeded && self.only_reports.load(Ordering::Relaxed) {
            self.exceeded.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bounds(base_bytes: u64, ratio_percent: u64, enforcement: Enforcement) -> Bounds {
        let bounds = Bounds::default();
        let budget = Budget { base_bytes, ratio_percent, request_bytes: 0 };
        bounds.set(Some(budget), enforcement);
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
            let budget =
                Budget { base_bytes: base, ratio_percent: ratio, request_bytes: 0 };
            bounds.set(Some(budget), Enforcement::Enforce);
            let (mut up, mut down) = (0, 0);
            for (want, came, part) in steps {
                down += came;
                let reserved = bounds.reserve(up, down, want);
                let left = budget.allows(down, 0).saturating_sub(up).min(hour - up);
                prop_assert_eq!(reserved.bytes as u64, left.min(want as u64));
                let took = (reserved.bytes as f64 * part) as usize;
                bounds.settle(reserved, took, up, down);
                up += took as u64;
                prop_assert!(up <= budget.allows(down, 0) && up <= hour);
                prop_assert_eq!(shared.left(), hour - up);
            }
            prop_assert!(!bounds.were_exceeded());
        }

        #[test]
        fn a_push_that_rules_allow_keeps_within_the_hour_alone(
            hour in 0u64..20_000, pieces in proptest::collection::vec(1usize..3_000, 0..40),
        ) {
            let shared = Arc::new(UploadQuota::new(hour));
            let bounds = Bounds::within(Some(shared.clone()), Vec::new());
            let budget = Budget { base_bytes: 0, ratio_percent: 0, request_bytes: 0 };
            bounds.set(Some(budget), Enforcement::Enforce);
            let mut up = 0;
            for piece in pieces {
                let fits = up + piece as u64 <= hour;
                prop_assert_eq!(bounds.count_push(piece), fits);
                up += if fits { piece as u64 } else { 0 };
                prop_assert_eq!(shared.left(), hour - up);
            }
            bounds.set(Some(budget), Enforcement::Report);
            prop_assert!(bounds.count_push(30_000) && bounds.were_exceeded());
        }

        /// A push in pieces of any size, each answered: what responses add is nothing to it.
        #[test]
        fn a_push_is_cut_as_if_responses_added_nothing(
            handshake in 0u64..20_000,
            pieces in proptest::collection::vec((1usize..40_000, 0u64..LEAST_RESPONSE), 0..200),
        ) {
            let bounds = Bounds::default();
            let budget = Budget::default();
            bounds.set(Some(budget), Enforcement::Enforce);
            let (mut up, mut down) = (0, handshake);
            for (piece, answer) in pieces {
                let reserved = bounds.reserve(up, down, piece);
                bounds.settle(reserved, reserved.bytes, up, down);
                up += reserved.bytes as u64;
                prop_assert!(up <= budget.base_bytes + down * budget.ratio_percent / 100);
                // The rest of the piece waits already, so it ends the tunnel.
                if reserved.bytes < piece {
                    break;
                }
                down += answer;
            }
        }

        /// Any number of requests of up to 1 KiB, each for a small range.
        #[test]
        fn a_lazy_pull_is_not_cut(
            ranges in proptest::collection::vec((1usize..=1024, LEAST_RESPONSE..70_000), 0..2_000),
        ) {
            let bounds = Bounds::default();
            bounds.set(Some(Budget::default()), Enforcement::Enforce);
            let (mut up, mut down) = (500, 3_000);
            for (request, range) in ranges {
                let reserved = bounds.reserve(up, down, request);
                prop_assert_eq!(reserved.bytes, request);
                bounds.settle(reserved, request, up, down);
                up += request as u64;
                down += range;
            }
        }
    }

    #[test]
    fn thousands_of_small_ranges_pass() {
        let bounds = Bounds::default();
        bounds.set(Some(Budget::default()), Enforcement::Enforce);
        let (mut up, mut down) = (500, 3_000);
        for number in 0..10_000 {
            let reserved = bounds.reserve(up, down, 819);
            assert_eq!(reserved.bytes, 819, "request {number}");
            bounds.settle(reserved, 819, up, down);
            up += 819;
            down += LEAST_RESPONSE;
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
}
