//! Where audit lines go: standard output, or a file that may be rotated away under us.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// A failing disk is complained about once in so long.
const COMPLAINT: Duration = Duration::from_secs(60);

/// Where audit lines are to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sink {
    /// Standard output.
    StandardOutput,
    /// A file, appended to, and made (for owner and group only) where there is none.
    File(PathBuf),
}

/// An open file, and its path where it can be opened anew.
#[derive(Debug)]
pub(super) struct Outlet {
    file: File,
    path: Option<PathBuf>,
    complained: Option<Instant>,
    /// What was written last is less than a line.
    torn: Torn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Torn {
    No,
    Yes,
}

impl Outlet {
    /// Opens what the sink names.
    ///
    /// # Errors
    /// When it cannot be opened for writing.
    pub(super) fn open(sink: &Sink) -> io::Result<Self> {
        match sink {
            Sink::StandardOutput => {
                Ok(Self::of(io::stdout().as_fd().try_clone_to_owned()?.into(), None))
            }
            Sink::File(path) => Ok(Self::of(open(path)?, Some(path.clone()))),
        }
    }

    pub(super) fn of(file: File, path: Option<PathBuf>) -> Self {
        Self { file, path, complained: None, torn: Torn::No }
    }

    /// Opens the path anew; keeps the old file where that fails.
    pub(super) fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        match open(path) {
            Ok(file) => {
                self.file = file;
                self.torn = Torn::No;
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "the audit file is not reopened; \
                    the old one stays in use");
            }
        }
    }

    /// Writes all of it, for as long as it takes; hands back what could not be written.
    #[must_use]
    pub(super) fn write<'a>(&mut self, lines: &'a [u8]) -> &'a [u8] {
        let mut rest = lines;
        let mut result = Ok(());
        if self.torn == Torn::Yes {
            let mut mark: &[u8] = b"\n";
            result = write_all(&self.file, &mut mark);
        }
        if result.is_ok() {
            self.torn = Torn::No;
            result = write_all(&self.file, &mut rest);
        }
        if let Err(error) = result {
            let written = lines.len() - rest.len();
            let whole = written == 0 || lines.get(written - 1) == Some(&b'\n');
            if !whole {
                self.torn = Torn::Yes;
            }
            self.complain(error);
        }
        rest
    }

    fn complain(&mut self, error: Errno) {
        if self.complained.is_none_or(|last| last.elapsed() >= COMPLAINT) {
            self.complained = Some(Instant::now());
            tracing::error!(%error, "audit lines are lost: the audit cannot be written");
        }
    }
}

impl fmt::Display for Sink {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StandardOutput => out.write_str("standard output"),
            Self::File(path) => write!(out, "{}", path.display()),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

fn write_all(file: &File, rest: &mut &[u8]) -> Result<(), Errno> {
    while !rest.is_empty() {
        match rustix::io::write(file, rest) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => *rest = rest.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            // Standard output may be a pipe that somebody else has made non-blocking.
            Err(Errno::AGAIN) => {
                let mut waiting = [PollFd::new(file, PollFlags::OUT)];
                match poll(&mut waiting, None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
