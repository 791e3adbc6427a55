//! Replaces the users' file as a whole, under a lock, with its owner, group, mode and link kept.
//!
//! The gate reloads when the file changes, so that it must never see half of one: the new text is
//! written to a temporary file, which is then renamed. A rename gives the path a new inode, so that
//! the lock is on the folder, not on the file.

use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// The mode of a new file: its owner and its group may read it.
const MODE: u32 = 0o640;

/// The part of a mode that chmod(2) sets.
const PERMISSIONS: u32 = 0o7777;

/// The largest users' file, in bytes. It is the limit that the gate has, too.
const LARGEST: u64 = 16 << 20;

/// The users' file, locked against other `pullgate user` commands.
#[derive(Debug)]
pub(super) struct UsersFile {
    /// The file itself, where the path that was given is a link.
    path: PathBuf,
    text: String,
    /// `None` when the file does not exist yet.
    known: Option<Metadata>,
    folder: File,
}

/// A file that only root may read: a gate that runs as another user cannot.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable {
    path: PathBuf,
    mode: u32,
}

/// Returns the text of the file, or an empty one when it does not exist.
///
/// # Errors
/// When it cannot be read, is not UTF-8, or is no regular file.
pub(super) fn read(path: &Path) -> anyhow::Result<String> {
    Ok(read_with_metadata(path)?.map(|(text, _)| text).unwrap_or_default())
}

fn read_with_metadata(path: &Path) -> anyhow::Result<Option<(String, Metadata)>> {
    let name = || path.display().to_string();
    // The metadata first: opening a FIFO would wait for a writer.
    let known = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        known => known.with_context(name)?,
    };
    if !known.is_file() {
        bail!("{} is not a regular file", path.display());
    }
    let file = File::open(path).with_context(name)?;
    let known = file.metadata().with_context(name)?;
    let mut text = String::new();
    file.take(LARGEST + 1).read_to_string(&mut text).with_context(name)?;
    if text.len() as u64 > LARGEST {
        bail!("{} is larger than 16 MiB", path.display());
    }
    Ok(Some((text, known)))
}

impl UsersFile {
    /// Locks the file and reads it. Waits for another command that holds the lock.
    ///
    /// # Errors
    /// When it or its folder cannot be read, and when the path is a link that leads nowhere.
    pub(super) fn lock(path: &Path) -> anyhow::Result<Self> {
        let path = resolve(path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let name = || folder.display().to_string();
        let locked = File::open(folder).with_context(name)?;
        match locked.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                wait_for(folder);
                locked.lock().with_context(name)?;
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(name),
        }
        let (text, known) = match read_with_metadata(&path)? {
            Some((text, known)) => (text, Some(known)),
            None => (String::new(), None),
        };
        Ok(Self { path, text, known, folder: locked })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Replaces the file in one step. Returns a warning if only root may read the result.
    ///
    /// # Errors
    /// When the folder cannot be written, or owner and group cannot be kept. The file is unchanged
    /// then.
    pub(super) fn replace(self, text: &str) -> anyhow::Result<Option<Unreadable>> {
        let mut temporary = self.path.as_os_str().to_owned();
        temporary.push(format!(".{}.new", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let replaced = self.write(&temporary, text).and_then(|written| {
            fs::rename(&temporary, &self.path)?;
            self.folder.sync_all()?;
            Ok(written)
        });
        if replaced.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        let written = replaced.with_context(|| {
            format!(
                "{}: it is unchanged; run the command as root or as the owner of the file",
                self.path.display()
            )
        })?;
        let mode = written.mode() & PERMISSIONS;
        let only_root = written.uid() == 0 && written.gid() == 0 && mode & 0o004 == 0;
        Ok(only_root.then_some(Unreadable { path: self.path, mode }))
    }

    /// Writes the temporary file, with the owner, group and mode of the file that it replaces.
    fn write(&self, temporary: &Path, text: &str) -> io::Result<Metadata> {
        let mut open = OpenOptions::new();
        let mut file = open.write(true).create_new(true).mode(0o600).open(temporary)?;
        file.write_all(text.as_bytes())?;
        let created = file.metadata()?;
        let (owner, group, mode) = match &self.known {
            Some(known) => (known.uid(), known.gid(), known.mode() & PERMISSIONS),
            // The group of the folder: in the package's it is the gate's.
            None if created.uid() == 0 => (created.uid(), self.folder.metadata()?.gid(), MODE),
            None => (created.uid(), created.gid(), MODE),
        };
        if (created.uid(), created.gid()) != (owner, group) {
            fchown(&file, Some(owner), Some(group))?;
        }
        // After chown(2), which clears the set-ID bits.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        file.metadata()
    }
}

#[expect(clippy::print_stderr, reason = "the user should know what the command waits for")]
fn wait_for(folder: &Path) {
    eprintln!(
        "waiting for another pullgate user command that changes a file in {}",
        folder.display()
    );
}

impl fmt::Display for Unreadable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        write!(
            out,
            "{path} belongs to root:root with mode {:04o}: a gate that runs as another user cannot \
             read it. Give it to the gate's group: chgrp pullgate {path} && chmod 640 {path}",
            self.mode
        )
    }
}

/// Returns the path of the file itself, so that a link stays a link.
fn resolve(path: &Path) -> anyhow::Result<PathBuf> {
    if !fs::symlink_metadata(path).is_ok_and(|known| known.is_symlink()) {
        return Ok(path.to_owned());
    }
    fs::canonicalize(path).with_context(|| {
        format!("{} is a link whose target cannot be found; create the target", path.display())
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn replace(path: &Path, text: &str) -> Option<Unreadable> {
        UsersFile::lock(path).unwrap().replace(text).unwrap()
    }

    #[test]
    fn a_link_and_the_mode_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("real"), folder.path().join("users"));
        symlink("real", &link).unwrap();
        let error = UsersFile::lock(&link).unwrap_err().to_string();
        assert!(error.contains("create the target"), "{error}");
        fs::write(&file, "a:1\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o604)).unwrap();
        assert_eq!(replace(&link, "a:2\n"), None, "everybody may read it");
        assert_eq!(fs::read_to_string(&file).unwrap(), "a:2\n");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&file).unwrap().mode() & PERMISSIONS, 0o604);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "no temporary file is left");
    }

    #[test]
    fn owner_and_group_are_kept_and_a_new_file_has_the_group_of_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let users = folder.path().join("users");
        let ids = |path: &Path| {
            let known = fs::metadata(path).unwrap();
            (known.uid(), known.gid(), known.mode() & PERMISSIONS)
        };
        let root = ids(folder.path()).0 == 0;
        if !root {
            // Another user can give no file away; `make test` runs as root, of a namespace at least.
            assert_eq!(replace(&users, "a:1\n"), None);
            return;
        }
        let warning = replace(&users, "a:1\n").unwrap();
        assert!(warning.to_string().contains("0640"), "{warning}");
        assert!(warning.to_string().contains("chgrp pullgate"), "{warning}");
        fs::remove_file(&users).unwrap();
        fchown(File::open(folder.path()).unwrap(), None, Some(33)).unwrap();
        assert_eq!(replace(&users, "a:1\n"), None);
        assert_eq!(ids(&users), (0, 33, 0o640));
        fchown(File::open(&users).unwrap(), Some(1), Some(2)).unwrap();
        assert_eq!(replace(&users, "a:2\n"), None);
        assert_eq!(ids(&users), (1, 2, 0o640));
    }

    #[test]
    fn a_fifo_or_folder_is_rejected_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.ends_with("is not a regular file"), "{error}");
    }
}
