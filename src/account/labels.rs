//! The metric labels that sessions are counted under: a registry's, never a host's.

use super::record::{Granted, Record};
use crate::policy::NO_LABEL;

/// The labels of a session. The client's name comes from the configuration.
#[derive(Debug, Clone, Copy)]
pub(super) struct Labels<'a> {
    pub(super) registry: &'a str,
    pub(super) endpoint: &'static str,
    pub(super) client: Option<&'a str>,
}

impl<'a> Labels<'a> {
    /// The labels of what was granted, and of the client's group.
    pub(super) fn of(granted: Option<&'a Granted>, client: Option<&'a str>) -> Self {
        let (registry, endpoint) =
            granted.map_or((NO_LABEL, NO_LABEL), |one| (&*one.label, one.endpoint.code()));
        Self { registry, endpoint, client }
    }

    pub(super) fn of_record(record: &'a Record) -> Self {
        Self::of(record.granted.as_ref(), record.client_name.as_deref())
    }
}
