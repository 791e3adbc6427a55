//! The upload keys: `pull-only` and `upload` in registry files with their defaults in `[policy]`,
//! and `connected-registry` in registry files.

use std::ops::RangeInclusive;

use super::table::Table;
use crate::policy::{Budget, Budgets, EndpointKind};

/// Range of `base-bytes`. Less would block a ClientHello with its request; above is unlimited.
const BASE_BYTES: RangeInclusive<u64> = 4 * 1024..=1 << 40;

/// Bytes of upload for each hundred bytes of download.
const RATIO_PERCENT: RangeInclusive<u64> = 0..=1_000;

/// Bytes for each response: none to a very large token.
const REQUEST_BYTES: RangeInclusive<u64> = 0..=64 * 1024;

/// The written part of one budget. The rest is inherited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Written {
    base_bytes: Option<u64>,
    ratio_percent: Option<u64>,
    request_bytes: Option<u64>,
}

impl Written {
    fn read(table: &mut Table<'_>) -> Self {
        Self {
            base_bytes: table.number("base-bytes", BASE_BYTES),
            ratio_percent: table.number("ratio-percent", RATIO_PERCENT),
            request_bytes: table.number("request-bytes", REQUEST_BYTES),
        }
    }

    fn or(self, other: Self) -> Self {
        Self {
            base_bytes: self.base_bytes.or(other.base_bytes),
            ratio_percent: self.ratio_percent.or(other.ratio_percent),
            request_bytes: self.request_bytes.or(other.request_bytes),
        }
    }

    fn budget(self) -> Budget {
        let Budget { base_bytes, ratio_percent, request_bytes } = Budget::default();
        Budget {
            base_bytes: self.base_bytes.unwrap_or(base_bytes),
            ratio_percent: self.ratio_percent.unwrap_or(ratio_percent),
            request_bytes: self.request_bytes.unwrap_or(request_bytes),
        }
    }
}

/// The upload keys of one file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Uploads {
    pull_only: Option<bool>,
    every_kind: Written,
    login: Option<Written>,
    data: Option<Written>,
    regional: Option<Written>,
    also: Option<Written>,
}

impl Uploads {
    pub(super) fn read(table: &mut Table<'_>) -> Self {
        let mut uploads = Self {
            pull_only: table.boolean("pull-only").map(|found| found.value),
            ..Self::default()
        };
        let Some(mut upload) = table.table("upload", "upload") else { return uploads };
        uploads.every_kind = Written::read(&mut upload);
        let mut of = |key, title| {
            let mut table = upload.table(key, title)?;
            let written = Written::read(&mut table);
            table.finish();
            Some(written)
        };
        uploads.login = of("login", "upload.login");
        uploads.data = of("data", "upload.data");
        uploads.regional = of("regional", "upload.regional");
        uploads.also = of("also", "upload.also");
        upload.finish();
        uploads
    }

    fn of(&self, kind: EndpointKind) -> Option<Written> {
        match kind {
            EndpointKind::Login => self.login,
            EndpointKind::Data => self.data,
            EndpointKind::Regional => self.regional,
            EndpointKind::Also => self.also,
        }
    }

    /// Returns the budgets of a registry with these keys, if the main file has `policy`.
    /// `connected`: its data endpoints accept uploads.
    pub(super) fn budgets(&self, policy: &Self, connected: bool) -> Budgets {
        let pull_only = self.pull_only.or(policy.pull_only).unwrap_or(false);
        let budget = |kind| {
            let (own, inherited) = (self.of(kind), policy.of(kind));
            // Keys of the registry file take precedence over the main file.
            let excused = match kind {
                EndpointKind::Data => connected,
                EndpointKind::Login | EndpointKind::Regional => self.pull_only == Some(false),
                EndpointKind::Also => false,
            };
            let bounded = match kind {
                EndpointKind::Data => true,
                EndpointKind::Login | EndpointKind::Regional => pull_only,
                EndpointKind::Also => false,
            };
            let bounded = own.is_some() || (!excused && (bounded || inherited.is_some()));
            let written = own.unwrap_or_default().or(self.every_kind);
            let inherited = inherited.unwrap_or_default().or(policy.every_kind);
            bounded.then(|| written.or(inherited).budget())
        };
        Budgets {
            login: budget(EndpointKind::Login),
            data: budget(EndpointKind::Data),
            regional: budget(EndpointKind::Regional),
            also: budget(EndpointKind::Also),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::source::Source;

    fn read(text: &str) -> (Uploads, bool) {
        let source = Source::new(&"a.toml".into(), text);
        let toml = source.toml();
        let mut table = Table::of_file(&source, &toml);
        let uploads = Uploads::read(&mut table);
        let connected = table.boolean("connected-registry").is_some_and(|found| found.value);
        table.finish();
        assert!(source.is_faultless(), "{text}");
        (uploads, connected)
    }

    #[test]
    fn who_is_bounded_and_how() {
        // The registry's file, `[policy]`, and the budgets of login, data, regional and also.
        const DEFAULT: (u64, u64) = (65_536, 2);
        let cases = [
            ("", "", [None, Some(DEFAULT), None, None]),
            ("pull-only = true", "", [Some(DEFAULT), Some(DEFAULT), Some(DEFAULT), None]),
            ("", "pull-only = true", [Some(DEFAULT), Some(DEFAULT), Some(DEFAULT), None]),
            ("pull-only = false", "pull-only = true", [None, Some(DEFAULT), None, None]),
            ("connected-registry = true", "", [None; 4]),
            (
                "upload = { base-bytes = 9000 }",
                "upload = { base-bytes = 5000, ratio-percent = 1 }",
                [None, Some((9_000, 1)), None, None],
            ),
            (
                "upload.also = { ratio-percent = 0 }",
                "upload = { base-bytes = 5000, also = { base-bytes = 6000 } }",
                [None, Some((5_000, 2)), None, Some((6_000, 0))],
            ),
            ("upload.login = {}", "", [Some(DEFAULT), Some(DEFAULT), None, None]),
            (
                "connected-registry = true\nupload.data = { base-bytes = 1_000_000 }",
                "",
                [None, Some((1_000_000, 2)), None, None],
            ),
            ("connected-registry = true", "upload.data = {}", [None; 4]),
            ("pull-only = false", "upload.login = {}", [None, Some(DEFAULT), None, None]),
        ];
        for (file, policy, expected) in cases {
            let ((own, connected), (policy_said, _)) = (read(file), read(policy));
            let budgets = own.budgets(&policy_said, connected);
            let found = EndpointKind::ALL.iter().map(|kind| {
                budgets.of(*kind).map(|budget| (budget.base_bytes, budget.ratio_percent))
            });
            assert_eq!(found.collect::<Vec<_>>(), expected, "{file} / {policy}");
        }
    }
}
