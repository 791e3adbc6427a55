//! Wall-clock time in RFC 3339 format, in UTC with milliseconds.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};

/// Formats as `2026-11-24T03:40:00.123Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timestamp(pub(crate) SystemTime);

impl fmt::Display for Timestamp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (seconds, milliseconds) = (since.as_secs(), since.subsec_millis());
        let (year, month, day) = civil(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
        write!(
            out,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z"
        )
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

/// Returns year, month and day for a number of days since 1970-01-01 (Gregorian calendar).
///
/// Years are counted from March, so that the leap day is the last day of a year, in eras of 400
/// years, which all have 146,097 days.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // From March, every five months have 153 days.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
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
        ];
        for (milliseconds, expected) in cases {
            let time = UNIX_EPOCH + Duration::from_millis(milliseconds);
            assert_eq!(Timestamp(time).to_string(), expected);
        }
    }

    #[test]
    fn a_clock_before_the_build_is_behind() {
        let behind = ClockBehind::at(UNIX_EPOCH).unwrap().to_string();
        assert!(behind.starts_with("the clock says 1970-01-01T00:00:00.000Z"), "{behind}");
        let hundred_years = Duration::from_secs(100 * 365 * 86_400);
        assert_eq!(ClockBehind::at(UNIX_EPOCH + hundred_years), None);
    }

    #[test]
    fn each_day_follows_the_one_before() {
        let leap = |year: u64| {
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
        };
        let length = |year, month| match month {
            2 if leap(year) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let mut expected = (1970, 1, 1);
        for days in 0..60_000 {
            assert_eq!(civil(days), expected);
            let (year, month, day) = expected;
            expected = match (month, day) {
                (12, 31) => (year + 1, 1, 1),
                _ if day == length(year, month) => (year, month + 1, 1),
                _ => (year, month, day + 1),
            };
        }
    }
}
