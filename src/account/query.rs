//! The results of DNS queries from clients of a gateway.

use std::net::IpAddr;
use std::sync::Arc;

use super::text::AuditText;
use crate::policy::Reason;

/// The result of a query; `result` in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryResult {
    /// Addresses of an allowed name.
    Answered,
    /// An allowed name without records of this type.
    NoData,
    /// An allowed name without any address.
    NotFound,
    /// A name that is not allowed, or a type that is never answered.
    Refused,
    /// Resolving an allowed name failed.
    Failed,
    /// The message is not a valid query.
    Malformed,
    /// Dropped: the client exceeds its rate, or too many look-ups are running.
    Limited,
}

impl QueryResult {
    /// All results.
    pub const ALL: &'static [Self] = &[
        Self::Answered,
        Self::NoData,
        Self::NotFound,
        Self::Refused,
        Self::Failed,
        Self::Malformed,
        Self::Limited,
    ];

    /// Returns the value of the metric label.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::NoData => "no-data",
            Self::NotFound => "not-found",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Malformed => "malformed",
            Self::Limited => "limited",
        }
    }
}

/// A query for a name that the policy does not allow.
#[derive(Debug, Clone)]
pub struct RefusedQuery {
    /// The client.
    pub client: IpAddr,
    /// The group of the client; `None` if it has none.
    pub client_name: Option<Arc<str>>,
    /// The address that was queried, as text.
    pub listener: Arc<str>,
    /// The queried name.
    pub name: AuditText,
    /// The queried record type.
    pub kind: AuditText,
    /// The denial.
    pub reason: Reason,
    /// The generation of the policy.
    pub generation: u64,
}
