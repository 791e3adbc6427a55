//! The preset that a registry's file uses, as far as judgements and reports need it.

use std::fmt;
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
    /// Why it is absent.
    pub why: Absence,
}

/// Why a preset in use does not stand for a host. The text is for the client that asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Absence {
    /// Only newer dates of the preset have it.
    Newer {
        /// The preset.
        preset: Arc<str>,
        /// The first date with the host.
        since: Arc<str>,
    },
    /// Only older dates of the preset have it.
    Older {
        /// The preset.
        preset: Arc<str>,
        /// The first date without the host.
        until: Arc<str>,
    },
    /// All tenants of a cloud share it, and the file does not accept that.
    SharedStorage,
}

impl Absence {
    /// Returns what the operator can do about it, if the host belongs to the registry.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Newer { preset, since } => format!(
                "set preset-date to {since} or later in the registry's file; pullgate preset diff \
                 {preset} shows what else that changes"
            ),
            Self::Older { preset, .. } => format!(
                "preset {preset} no longer has the host: list it in data-endpoints of the \
                 registry's file if the registry still uses it"
            ),
            Self::SharedStorage => {
                "list it in accept-shared-storage if the risk is accepted: every tenant of the \
                 cloud can receive data there"
                    .to_owned()
            }
        }
    }
}

impl fmt::Display for Absence {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newer { preset, since } => write!(out, "in preset {preset} since {since}"),
            Self::Older { preset, until } => write!(out, "left preset {preset} on {until}"),
            Self::SharedStorage => out.write_str("see accept-shared-storage"),
        }
    }
}
