//! Files that the main file names besides the registry files: certificates, keys, revocation lists.
//! Their content may be secret.

use std::fmt;
use std::path::{Path, PathBuf};

/// A file that the main file names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ReferencedFile {
    /// Its path. A relative path is relative to the working directory.
    pub path: PathBuf,
    /// Its content, or the read error.
    pub content: Result<Secret, String>,
    /// Who can read it.
    pub readers: Readers,
}

/// Who can read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Readers {
    /// Its owner, and at most its group.
    Few,
    /// All users of the machine.
    Everybody,
}

/// Bytes that are never printed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(Vec<u8>);

impl From<Vec<u8>> for Secret {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Secret {
    /// Returns the bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("***")
    }
}

/// Returns the file with this path.
pub(super) fn find<'a>(files: &'a [ReferencedFile], path: &Path) -> Option<&'a ReferencedFile> {
    files.iter().find(|file| file.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let content = Ok(b"key".to_vec().into());
        let file = ReferencedFile { path: "a".into(), content, readers: Readers::Few };
        assert!(!format!("{file:?}").contains("key") && !format!("{file:?}").contains("107"));
    }
}
