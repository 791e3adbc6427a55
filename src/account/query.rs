//! What becomes of the DNS queries that a gateway's clients ask.

use std::net::IpAddr;
use std::sync::Arc;

use super::text::AuditText;
use crate::policy::Reason;

/// What became of a query; `result` in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryResult {
    /// Addresses of an allowed name.
    Answered,
    /// An allowed name has none of this kind.
    NoData,
    /// An allowed name has no address at all.
    NotFound,
    /// A name that is not allowed, or a type that is never answered.
    Refused,
    /// An allowed name could not be looked up.
    Failed,
    /// It is no query, or none that is understood.
    Malformed,
    /// It was dropped: the client asks faster than it may, or the answerer has its hands full.
    Limited,
}

impl QueryResult {
    /// Every result.
    pub const ALL: &'static [Self] = &[
        Self::Answered,
        Self::NoData,
        Self::NotFound,
        Self::Refused,
        Self::Failed,
        Self::Malformed,
        Self::Limited,
    ];

    /// The code that the metric carries.
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
    /// Who asked.
    pub client: IpAddr,
    /// Its group, where there is one.
    pub client_name: Option<Arc<str>>,
    /// Where, as text.
    pub listener: Arc<str>,
    /// For which name.
    pub name: AuditText,
    /// For which type of record.
    pub kind: AuditText,
    /// Why not.
    pub reason: Reason,
    /// The policy's generation that judged it.
    pub generation: u64,
}
