//! Limits that tunnels share: the hourly upload quota of each client, and the download rates of
//! clients and registries.

use std::sync::Arc;

use dashmap::DashMap;

use super::throttle::Throttle;
use super::upload_quota::UploadQuota;

/// The hourly quotas of clients, and the rates of clients and registries. They survive reloads. The
/// names come from the configuration, so clients cannot add any.
#[derive(Debug, Default)]
pub struct Quotas {
    uploads: DashMap<Arc<str>, Arc<UploadQuota>>,
    rates: DashMap<(RateOwner, Arc<str>), Arc<Throttle>>,
}

/// The owner of a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RateOwner {
    /// A `[[client]]`.
    Client,
    /// A registry.
    Registry,
}

impl Quotas {
    /// Returns the rate of a client or registry, and sets it to `limit` bytes per second. `None`
    /// removes an older limit.
    #[must_use]
    pub fn throttle(
        &self,
        owner: RateOwner,
        name: &Arc<str>,
        limit: Option<u64>,
    ) -> Option<Arc<Throttle>> {
        let key = (owner, name.clone());
        if let Some(throttle) = self.rates.get(&key) {
            throttle.limit_to(limit);
            return limit.map(|_| throttle.clone());
        }
        let fresh = |limit| self.rates.entry(key).or_insert_with(|| Arc::new(Throttle::new(limit)));
        limit.map(|limit| fresh(limit).clone())
    }

    /// Returns the hourly quota of a client, and sets it to `limit` bytes; `None` means no limit.
    #[must_use]
    pub fn upload_quota(&self, client: &Arc<str>, limit: Option<u64>) -> Arc<UploadQuota> {
        let known = self.uploads.get(client).map(|quota| quota.clone());
        let fresh = || self.uploads.entry(client.clone()).or_default().clone();
        let quota = known.unwrap_or_else(fresh);
        quota.limit_to(limit);
        quota
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_outlives_a_change_of_its_limit() {
        let quotas = Quotas::default();
        let name: Arc<str> = "agents".into();
        let hour = quotas.upload_quota(&name, Some(100));
        hour.settle(0, 60);
        assert_eq!(quotas.upload_quota(&name, Some(90)).left(), 30);
        assert_eq!(hour.left(), 30);
        assert_eq!(quotas.upload_quota(&name, None).left(), u64::MAX);
        assert_eq!(quotas.upload_quota(&name, Some(70)).left(), 10);
        assert_eq!(quotas.upload_quota(&"others".into(), Some(90)).left(), 90);
    }
}
