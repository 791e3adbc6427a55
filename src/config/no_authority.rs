//! Stands in for the authority of `[inspect]` in builds without the feature.

use super::tls::Expiry;

/// There is none.
#[derive(Debug)]
pub enum Authority {}

impl Authority {
    /// Returns when it expires.
    #[must_use]
    pub fn expiry(&self) -> Expiry {
        match *self {}
    }
}
