//! Watches the directories of the operator's files with inotify.

use std::path::{Path, PathBuf};

use notify::event::{EventKind, ModifyKind};
use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use super::files::directories;
use crate::config::AuditTarget;

/// A watch on the directories of the files. It ends when dropped.
#[derive(Debug)]
pub(super) struct Watching {
    _watcher: notify::RecommendedWatcher,
}

impl Watching {
    /// Watches the directories of all files.
    ///
    /// # Errors
    /// When the kernel gives no more watches, as it limits them for each user.
    pub(super) fn begin(
        main: &Path,
        audit: &AuditTarget,
        hint: mpsc::Sender<()>,
    ) -> Result<Self, notify::Error> {
        Self::over(&directories(main), audit.clone(), hint)
    }

    fn over(
        directories: &[PathBuf],
        audit: AuditTarget,
        hint: mpsc::Sender<()>,
    ) -> Result<Self, notify::Error> {
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                if !event.is_ok_and(|event| tells_nothing(&event, &audit)) {
                    // A full channel already holds a hint.
                    let _ = hint.try_send(());
                }
            })?;
        for directory in directories {
            watcher.watch(directory, RecursiveMode::NonRecursive)?;
        }
        Ok(Self { _watcher: watcher })
    }
}

/// Returns whether an event cannot be a change of the configuration: the gate itself reads its
/// files and writes its audit, maybe in the same directory.
fn tells_nothing(event: &notify::Event, audit: &AuditTarget) -> bool {
    let of_audit = || match audit {
        AuditTarget::File(audit) => event.paths.iter().all(|path| path == audit),
        _ => false,
    };
    match event.kind {
        EventKind::Access(_) => true,
        EventKind::Modify(ModifyKind::Data(_)) => of_audit(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use notify::Event;
    use notify::event::{AccessKind, CreateKind, DataChange, MetadataKind, RenameMode};

    use super::*;

    #[test]
    fn what_the_gate_does_itself_tells_nothing() {
        let data = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let event = |kind, path: &str| Event::new(kind).add_path(path.into());
        let audit = AuditTarget::File("/etc/gate/audit.jsonl".into());
        for (event, nothing) in [
            (event(EventKind::Access(AccessKind::Any), "/etc/gate/gate.toml"), true),
            (event(data, "/etc/gate/audit.jsonl"), true),
            (event(data, "/etc/gate/gate.toml"), false),
            (event(data, "/etc/gate/audit.jsonl").add_path("/etc/gate/gate.toml".into()), false),
            (event(EventKind::Create(CreateKind::File), "/etc/gate/audit.jsonl"), false),
            (event(EventKind::Modify(ModifyKind::Name(RenameMode::To)), "/etc/gate/..data"), false),
            (
                event(EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)), "/etc/gate/key"),
                false,
            ),
        ] {
            assert_eq!(tells_nothing(&event, &audit), nothing, "{event:?}");
        }
        let kept = event(data, "/etc/gate/audit.jsonl");
        assert!(!tells_nothing(&kept, &AuditTarget::StandardOutput));
    }
}
