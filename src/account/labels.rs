//! The metric labels of sessions: those of the registry, never a host.

use super::record::{Granted, Record};
use crate::policy::NO_LABEL;

/// The labels of a session. The client name comes from the configuration.
#[derive(Debug, Clone, Copy)]
pub(super) struct Labels<'a> {
    pub(super) registry: &'a str,
    pub(super) endpoint: &'static str,
    pub(super) client: Option<&'a str>,
}

impl<'a> Labels<'a> {
    /// Returns the labels for a grant and the group of the client.
    pub(super) fn of(granted: Option<&'a Granted>, client: Option<&'a str>) -> Self {
        let (registry, endpoint) =
            granted.map_or((NO_LABEL, NO_LABEL), |one| (&*one.label, one.endpoint.code()));
        Self { registry, endpoint, client }
    }

    pub(super) fn of_record(record: &'a Record) -> Self {
        Self::of(record.granted.as_ref(), record.client_name.as_deref())
    }
}
