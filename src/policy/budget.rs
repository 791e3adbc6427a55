//! The upload budget of a tunnel.
//!
//! A pull sends few bytes. Measured: 0.3 to 2.3 KB per tunnel, 1 to 4 KB more per request if tokens
//! are large, and 0.43 % of the download over HTTP/2. The default allows every pull and stops a
//! push after the headers of its first few layers. A lazy pull requests thousands of small ranges
//! in one tunnel, so every response that is too large to answer an upload adds one request.

use super::endpoint::EndpointKind;

/// The smallest download between two uploads that counts as a response, in bytes. Answers to
/// uploads are smaller (a status, headers and at most an error in JSON), so a push gains nothing.
pub const LEAST_RESPONSE: u64 = 4 * 1024;

/// The upload budget of a tunnel: a fixed number of bytes, a share of the download, and a number of
/// bytes for each response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Bytes that can be sent regardless of the download, with the ClientHello.
    pub base_bytes: u64,
    /// Further bytes for each hundred bytes downloaded.
    pub ratio_percent: u64,
    /// Bytes more for each response of at least [`LEAST_RESPONSE`] bytes.
    pub request_bytes: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { base_bytes: 64 * 1024, ratio_percent: 2, request_bytes: 1024 }
    }
}

impl Budget {
    /// Returns how many bytes may have gone up once `down` bytes came down in `responses`.
    #[must_use]
    pub fn allows(self, down: u64, responses: u64) -> u64 {
        let share = u128::from(down) * u128::from(self.ratio_percent) / 100;
        let share = u64::try_from(share).unwrap_or(u64::MAX);
        let requests = self.request_bytes.saturating_mul(responses);
        self.base_bytes.saturating_add(share).saturating_add(requests)
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
        let cases = [
            (0, 0, 65_536),
            (99, 0, 65_537),
            (1 << 30, 0, 65_536 + (1 << 30) / 50),
            (8_192, 2, 65_536 + 163 + 2_048),
        ];
        for (down, responses, allowed) in cases {
            assert_eq!(budget.allows(down, responses), allowed, "{down}");
        }
        let budget = Budget { base_bytes: 1, ratio_percent: 100, request_bytes: 7 };
        assert_eq!(budget.allows(u64::MAX, 1), u64::MAX);
        assert_eq!(budget.allows(0, u64::MAX), u64::MAX);
    }

    #[test]
    fn only_data_endpoints_are_bounded_unasked() {
        let bounded =
            EndpointKind::ALL.iter().filter(|kind| Budgets::default().of(**kind).is_some());
        assert_eq!(bounded.collect::<Vec<_>>(), [&EndpointKind::Data]);
    }
}
