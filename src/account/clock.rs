//! Wall-clock time in RFC 3339 format, in UTC with milliseconds.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};

/// Formats as `2026-11-24T03:40:00.123Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timestamp(pub(crate) SystemTime);

impl fmt::Display for Timestamp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The crate rejects times before 1970 and after 9999; no Linux clock is after 2262.
        write!(out, "{}", humantime::format_rfc3339_millis(self.0.max(UNIX_EPOCH)))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

/// The release month of this version, in seconds since 1970. A build with `SOURCE_DATE_EPOCH` uses
/// that time.
const RELEASED: u64 = 1_793_491_200;

/// A clock that is behind the build time of this program, because the machine has not set it yet.
///
/// Certificates then seem not to be valid yet, and times in the audit are wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockBehind {
    now: SystemTime,
    built: SystemTime,
}

impl ClockBehind {
    /// Compares the time with the build time; `None` if the clock may be correct.
    #[must_use]
    pub fn at(now: SystemTime) -> Option<Self> {
        let epoch = option_env!("SOURCE_DATE_EPOCH").and_then(|text| text.parse().ok());
        let built = UNIX_EPOCH + Duration::from_secs(epoch.unwrap_or(RELEASED));
        (now < built).then_some(Self { now, built })
    }
}

impl fmt::Display for ClockBehind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (now, built) = (Timestamp(self.now), Timestamp(self.built));
        write!(
            out,
            "the clock says {now}, but this program was built at {built}: set the clock (NTP), or \
             certificates seem invalid and the audit has wrong times"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_instants() {
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_001, "2000-02-29T00:00:00.001Z"),
            (951_868_799_999, "2000-02-29T23:59:59.999Z"),
            (1_709_164_800_000, "2024-02-29T00:00:00.000Z"),
            (1_735_689_599_999, "2024-12-31T23:59:59.999Z"),
            (1_732_419_600_123, "2024-11-24T03:40:00.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (9_214_646_400_000, "2262-01-01T00:00:00.000Z"),
        ];
        for (milliseconds, expected) in cases {
            let time = UNIX_EPOCH + Duration::from_millis(milliseconds);
            assert_eq!(Timestamp(time).to_string(), expected);
        }
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(Timestamp(before).to_string(), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn a_clock_before_the_build_is_behind() {
        let behind = ClockBehind::at(UNIX_EPOCH).unwrap().to_string();
        assert!(behind.starts_with("the clock says 1970-01-01T00:00:00.000Z"), "{behind}");
        let hundred_years = Duration::from_secs(100 * 365 * 86_400);
        assert_eq!(ClockBehind::at(UNIX_EPOCH + hundred_years), None);
    }
}
