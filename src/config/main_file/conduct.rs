//! `[process]`: what the process shares with others, and its restrictions.

use crate::config::settings::{Conduct, FileAccess, Ports, Profile};
use crate::config::source::Source;
use crate::config::table::Table;
use crate::config::values::beside;

pub(super) fn conduct(source: &Source<'_>, mut table: Table<'_>) -> Conduct {
    let mut conduct = Conduct::default();
    if let Some(profile) = table.string("profile") {
        match profile.value.as_str() {
            "normal" => {}
            "small" => conduct.profile = Profile::Small,
            other => {
                let what = format!("profile {other:?} is unknown");
                source.fault(profile.place, what, "write \"normal\" or \"small\"");
            }
        }
    }
    if table.boolean("reuse-port").is_some_and(|found| found.value) {
        conduct.ports = Ports::Shared;
    }
    if table.boolean("landlock").is_some_and(|found| !found.value) {
        conduct.files = FileAccess::All;
    }
    for folder in table.strings("readable") {
        if folder.value.is_empty() {
            source.fault(folder.place, "readable names an empty path", "name a folder or a file");
        } else {
            conduct.readable.push(beside(source, &folder.value));
        }
    }
    table.finish();
    conduct
}
