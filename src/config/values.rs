//! Values that several files or tables share: ranges, names, paths, enforcement.

use std::cell::OnceCell;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::presets::Catalog;
use super::source::Source;
use super::table::Table;
use super::uploads::Uploads;
use crate::policy::{Clientele, Enforcement};

/// Range of the number of open sessions, or of new sessions per second.
pub(super) const SESSIONS: RangeInclusive<u64> = 1..=1_000_000;

/// From the minimum that keeps a tunnel from idling to one tebibyte.
pub(super) const DOWNLOAD: RangeInclusive<u64> = 16 * 1024..=1 << 40;

/// The defaults of `[policy]` for registries.
#[derive(Debug, Default)]
pub(super) struct RegistryDefaults {
    pub(super) uploads: Uploads,
    pub(super) clientele: Clientele,
    pub(super) download: Option<u64>,
    /// `[policy] verify-upstream`.
    pub(super) verify_upstream: bool,
    /// Read when the first file needs it.
    pub(super) presets: OnceCell<Catalog>,
}

/// Returns whether a name is valid as a metric label and as a word in a log.
pub(super) const PLAIN_NAME: &str = "use up to 64 letters, digits, dots, dashes and underscores";

pub(super) fn is_plain_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(plain)
}

/// Returns a path relative to the folder of the file that names it.
pub(super) fn beside(source: &Source<'_>, path: &str) -> PathBuf {
    Path::new(&**source.file()).parent().unwrap_or(Path::new("")).join(path)
}

/// Parses `enforcement`.
pub(super) fn enforcement(source: &Source<'_>, table: &mut Table<'_>) -> Option<Enforcement> {
    let written = table.string("enforcement")?;
    match written.value.as_str() {
        "enforce" => Some(Enforcement::Enforce),
        "report" => Some(Enforcement::Report),
        other => {
            let remedy = "write \"enforce\" or \"report\"";
            source.fault(written.place, format!("enforcement {other:?} is unknown"), remedy);
            None
        }
    }
}

/// Parses the number of new sessions per second.
pub(super) fn new_sessions(table: &mut Table<'_>, key: &'static str) -> Option<NonZeroU32> {
    let number = table.number(key, SESSIONS)?;
    NonZeroU32::new(u32::try_from(number).ok()?)
}
