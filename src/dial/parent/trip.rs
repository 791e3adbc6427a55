//! What one session's way through a parent depends on.

use tokio::time::Instant;

use super::request::Caller;
use crate::dial::resolve::Resolver;
use crate::policy::{OwnAddresses, Permit, PolicySet};

/// One session's way to its registry.
pub(in crate::dial) struct Trip<'a> {
    pub(in crate::dial) resolver: &'a Resolver,
    pub(in crate::dial) set: &'a PolicySet,
    pub(in crate::dial) own: &'a OwnAddresses,
    pub(in crate::dial) permit: &'a Permit,
    pub(in crate::dial) caller: &'a Caller,
    pub(in crate::dial) by: Instant,
}
