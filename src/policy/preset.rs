//! The preset that a registry's file uses, as far as judgements and reports need it.

use std::sync::Arc;

use super::location::Location;
use super::name::Name;

/// A preset that a registry's file uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresetInUse {
    /// Its name.
    pub name: Arc<str>,
    /// The date of its hosts.
    pub date: Arc<str>,
    /// Where the file names it: the place of the hosts that it stands for.
    pub place: Location,
    /// Hosts that it does not stand for, but would on another date or with another key.
    pub absent: Vec<AbsentHost>,
}

/// A host that a preset in use does not stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbsentHost {
    /// The host.
    pub name: Name,
    /// Why it is absent, in a few words, for its denial.
    pub hint: String,
}
