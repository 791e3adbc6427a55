//! The destinations of audit lines: standard output, a file that can be rotated, or the socket of a
//! log service.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// Minimum interval between two log messages about failed writes.
const COMPLAINT: Duration = Duration::from_secs(60);

/// Timeout for a log service to accept a line.
const SERVICE: Duration = Duration::from_secs(1);

/// The destination of audit lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sink {
    /// Standard output.
    StandardOutput,
    /// A file. It is appended to; a new one is accessible to owner and group only.
    File(PathBuf),
    /// The socket of a syslog service (RFC 3164, as on `/dev/log`).
    Syslog(PathBuf),
    /// The socket of systemd's journal (native protocol).
    Journal(PathBuf),
}

/// An open destination.
#[derive(Debug)]
pub(super) struct Outlet {
    way: AuditOutput,
    complained: Option<Instant>,
}

#[derive(Debug)]
enum AuditOutput {
    Stream(Stream),
    Service(Service),
}

/// A file, and its path if it can be reopened.
#[derive(Debug)]
struct Stream {
    file: File,
    path: Option<PathBuf>,
    /// Number of bytes of the next line that are in the file already.
    torn: usize,
}

/// The socket of a log service; each line is a datagram.
#[derive(Debug)]
struct Service {
    path: PathBuf,
    form: LineFormat,
    socket: UnixDatagram,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineFormat {
    Syslog,
    Journal,
}

impl Outlet {
    /// Opens the destination.
    ///
    /// # Errors
    /// If it cannot be opened for writing.
    pub(super) fn open(sink: &Sink) -> io::Result<Self> {
        let service = |path: &Path, form| {
            std::fs::metadata(path)?;
            let socket = UnixDatagram::unbound()?;
            socket.set_write_timeout(Some(SERVICE))?;
            let service = Service { path: path.to_owned(), form, socket };
            Ok(Self { way: AuditOutput::Service(service), complained: None })
        };
        match sink {
            Sink::StandardOutput => {
                Ok(Self::of(io::stdout().as_fd().try_clone_to_owned()?.into(), None))
            }
            Sink::File(path) => Ok(Self::of(open(path)?, Some(path.clone()))),
            Sink::Syslog(path) => service(path, LineFormat::Syslog),
            Sink::Journal(path) => service(path, LineFormat::Journal),
        }
    }

    pub(super) fn of(file: File, path: Option<PathBuf>) -> Self {
        Self { way: AuditOutput::Stream(Stream { file, path, torn: 0 }), complained: None }
    }

    /// Reopens the path. Keeps the old file if that fails.
    pub(super) fn reopen(&mut self) {
        let AuditOutput::Stream(Stream { file, path: Some(path), torn }) = &mut self.way else {
            return;
        };
        match open(path) {
            Ok(fresh) => {
                *file = fresh;
                // The interrupted line is written whole to the new file.
                *torn = 0;
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "the audit file is not reopened; \
                    the old one stays in use");
            }
        }
    }

    /// Writes all lines and waits as long as needed. Returns the lines that could not be written,
    /// also a partly written one; pass them first the next time.
    #[must_use]
    pub(super) fn write<'a>(&mut self, lines: &'a [u8]) -> &'a [u8] {
        let (left, result) = match &mut self.way {
            AuditOutput::Stream(stream) => stream.write(lines),
            AuditOutput::Service(service) => service.write(lines),
        };
        if let Err(error) = result {
            self.complain(&error);
        }
        left
    }

    fn complain(&mut self, error: &io::Error) {
        if self.complained.is_none_or(|last| last.elapsed() >= COMPLAINT) {
            self.complained = Some(Instant::now());
            tracing::error!(%error, "the audit cannot be written; its lines wait");
        }
    }
}

impl Stream {
    fn write<'a>(&mut self, lines: &'a [u8]) -> (&'a [u8], io::Result<()>) {
        let mut rest = lines.get(self.torn..).unwrap_or_default();
        let result = write_all(&self.file, &mut rest);
        let written = lines.len() - rest.len();
        let whole = lines.get(..written).unwrap_or_default();
        let start = whole.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.torn = written - start;
        (lines.get(start..).unwrap_or_default(), result.map_err(Into::into))
    }
}

impl Service {
    fn write<'a>(&self, lines: &'a [u8]) -> (&'a [u8], io::Result<()>) {
        let mut left = lines;
        while let Some(end) = left.iter().position(|byte| *byte == b'\n') {
            let (line, after) = left.split_at(end);
            if let Err(error) = self.send(line) {
                return (left, Err(error));
            }
            left = after.get(1..).unwrap_or_default();
        }
        (left, Ok(()))
    }

    fn send(&self, line: &[u8]) -> io::Result<()> {
        // Sent by path each time, because a restarted service has a new socket.
        self.socket.send_to(&self.form.datagram(line), &self.path).map(drop)
    }
}

impl LineFormat {
    /// Returns a line in the format of the service.
    fn datagram(self, line: &[u8]) -> Vec<u8> {
        match self {
            // Facility local0, severity informational. The service adds time and host.
            Self::Syslog => {
                let mut datagram = format!("<134>pullgate[{}]: ", std::process::id()).into_bytes();
                datagram.extend_from_slice(line);
                datagram
            }
            // systemd.journal-fields(7): a line contains no line feed, so it needs no length.
            Self::Journal => {
                let fields: &[u8] = b"PRIORITY=6\nSYSLOG_IDENTIFIER=pullgate\nMESSAGE=";
                [fields, line, b"\n"].concat()
            }
        }
    }
}

impl fmt::Display for Sink {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StandardOutput => out.write_str("standard output"),
            Self::File(path) => write!(out, "{}", path.display()),
            Self::Syslog(path) => write!(out, "syslog at {}", path.display()),
            Self::Journal(path) => write!(out, "the journal at {}", path.display()),
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
            // Another process may have made standard output, a pipe, non-blocking.
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
