//! Stands in for the authority of `[inspect]` in builds without the feature.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::inspect::InspectTable;
use super::referenced_files::ReferencedFile;
use super::tls::Expiry;
use crate::policy::{Fault, Name};

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

/// Makes none. A main file with `[inspect]` is rejected before.
pub(super) fn make(
    _: &InspectTable,
    _: &[ReferencedFile],
    _: &BTreeSet<Name>,
    _: (&mut Vec<Fault>, &mut Vec<Fault>),
) -> Option<Arc<Authority>> {
    None
}
