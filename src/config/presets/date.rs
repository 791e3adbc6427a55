//! Dates, as the table of presets and the operator's files write them: `2026-05-20`.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// A day of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Date {
    year: u16,
    month: u16,
    day: u16,
}

/// The text is not a date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not a date in the form 2026-05-20")]
pub struct NotADate;

impl FromStr for Date {
    type Err = NotADate;

    fn from_str(text: &str) -> Result<Self, NotADate> {
        let mut parts = text.split('-');
        let mut part = |length: usize| {
            let is_number = |part: &&str| {
                part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit())
            };
            parts.next().filter(is_number).and_then(|part| part.parse().ok()).ok_or(NotADate)
        };
        let (year, month, day): (u16, u16, u16) = (part(4)?, part(2)?, part(2)?);
        let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days = match month {
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            4 | 6 | 9 | 11 => 30,
            2 if is_leap => 29,
            2 => 28,
            _ => return Err(NotADate),
        };
        let is_whole = parts.next().is_none() && (1..=days).contains(&day);
        if is_whole { Ok(Self { year, month, day }) } else { Err(NotADate) }
    }
}

impl TryFrom<String> for Date {
    type Error = NotADate;

    fn try_from(text: String) -> Result<Self, NotADate> {
        text.parse()
    }
}

impl fmt::Display for Date {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Date;

    #[test]
    fn dates_and_what_is_none() {
        for text in ["2026-05-20", "2024-02-29", "2000-02-29", "0001-01-01"] {
            assert_eq!(text.parse::<Date>().unwrap().to_string(), text);
        }
        let wrong = [
            "",
            "2026",
            "2026-5-20",
            "2026-05-32",
            "2026-13-01",
            "2026-00-01",
            "2026-01-00",
            "2025-02-29",
            "1900-02-29",
            "2026-05-20-",
            "2026-05-20T00:00",
            "+026-05-20",
            "20260520",
            "2026/05/20",
        ];
        for text in wrong {
            assert!(text.parse::<Date>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn dates_are_ordered_as_their_texts(
            left in "20[0-9]{2}-[01][0-9]-[0-3][0-9]", right in "20[0-9]{2}-[01][0-9]-[0-3][0-9]",
        ) {
            if let (Ok(a), Ok(b)) = (left.parse::<Date>(), right.parse::<Date>()) {
                prop_assert_eq!(a.cmp(&b), left.cmp(&right));
            }
        }
    }
}
