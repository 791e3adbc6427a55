//! The upload budget of a tunnel.
//!
//! A pull sends few bytes. Measured: 0.3 to 2.3 KB per tunnel, 1 to 4 KB more per request if tokens
//! are large, and 0.43 % of the download over HTTP/2. The default allows every pull and stops a
//! push after the headers of its first few layers.

use super::endpoint::EndpointKind;

/// The upload budget of a tunnel: a fixed number of bytes and a share of the download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Bytes that can be sent regardless of the download, with the ClientHello.
    pub base_bytes: u64,
    /// Further bytes for each hundred bytes downloaded.
    pub ratio_percent: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { base_bytes: 64 * 1024, ratio_percent: 2 }
    }
}

impl Budget {
    /// Returns how many bytes can be sent in total after `down` bytes were downloaded.
    #[must_use]
    pub fn allows(self, down: u64) -> u64 {
        let share = u128::from(down) * u128::from(self.ratio_percent) / 100;
        self.base_bytes.saturating_add(u64::try_from(share).unwrap_or(u64::MAX))
    }
}

/// The budgets of a registry by kind of endpoint; `None` means unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budgets {
    /// For the login server.
    pub login: Option<Budget>,
    /// For data endpoints.
    pub data: Option<Budget>,
    /// For login servers of one replica.
    pub regional: Option<Budget>,
    /// For further hosts.
    pub also: Option<Budget>,
}

impl Default for Budgets {
    /// Data endpoints accept no uploads, except those of connected registries.
    fn default() -> Self {
        Self { login: None, data: Some(Budget::default()), regional: None, also: None }
    }
}

impl Budgets {
    /// Returns the budget of a kind.
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
