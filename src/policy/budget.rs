//! How many bytes a tunnel may send up.
//!
//! A pull sends little. Measured, a tunnel carries 0.3 to 2.3 KB up, 1 to 4 KB more a request where
//! tokens are large, and over HTTP/2 0.43 % of what comes down. So the default lets every pull
//! through, and stops a push after its first few layers' worth of headers.

use super::endpoint::EndpointKind;

/// What a tunnel may send up: so many bytes, and a share of what has come down in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Bytes that may go up whatever comes down, the ClientHello included.
    pub base_bytes: u64,
    /// So many bytes more for each hundred that came down.
    pub ratio_percent: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { base_bytes: 64 * 1024, ratio_percent: 2 }
    }
}

impl Budget {
    /// How many bytes may have gone up once so many came down.
    #[must_use]
    pub fn allows(self, down: u64) -> u64 {
        let share = u128::from(down) * u128::from(self.ratio_percent) / 100;
        self.base_bytes.saturating_add(u64::try_from(share).unwrap_or(u64::MAX))
    }
}

/// The budgets of a registry, by what a host is to it; without one an upload is unbounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budgets {
    /// For the login server.
    pub login: Option<Budget>,
    /// For data endpoints.
    pub data: Option<Budget>,
    /// For login servers of one replica.
    pub regional: Option<Budget>,
    /// For the further hosts.
    pub also: Option<Budget>,
}

impl Default for Budgets {
    /// Data endpoints take no uploads, those of connected registries excepted.
    fn default() -> Self {
        Self { login: None, data: Some(Budget::default()), regional: None, also: None }
    }
}

impl Budgets {
    /// The budget of a kind.
    #[must_use]
    pub fn of(self, kind: EndpointKind) -> Option<Budget> {
        match kind {
            EndpointKind::Login => self.login,
            EndpointKind::Data => self.data,
            EndpointKind::Regional => self.regional,
            EndpointKind::Also => self.also,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_grows_with_what_comes_down() {
        let budget = Budget::default();
        let cases = [(0, 65_536), (99, 65_537), (1 << 30, 65_536 + (1 << 30) / 50)];
        for (down, allowed) in cases {
            assert_eq!(budget.allows(down), allowed, "{down}");
        }
        assert_eq!(Budget { base_bytes: 1, ratio_percent: 100 }.allows(u64::MAX), u64::MAX);
    }

    #[test]
    fn only_data_endpoints_are_bounded_unasked() {
        let bounded =
            EndpointKind::ALL.iter().filter(|kind| Budgets::default().of(**kind).is_some());
        assert_eq!(bounded.collect::<Vec<_>>(), [&EndpointKind::Data]);
    }
}
