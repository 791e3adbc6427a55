//! The pool of kernel pipes through which splice(2) moves pages.
//!
//! One turn of one direction borrows a pipe, fills it, drains it completely and returns it before
//! it waits. So one pipe per thread serves any number of tunnels, and a stalled reader cannot hold
//! one.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::buffer::spare_capacity;
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::duplicate::Duplicate;
use super::socket;
use super::watch::Watch;

/// Default size of a pipe, in bytes: the maximum for an unprivileged user (pipe(7)). There are only
/// as many pipes as threads, so size costs little. By measurement, 1 MiB took 0.7 of the time per
/// byte of 256 KiB, and as much as HAProxy.
pub const PIPE_SIZE: usize = 1024 * 1024;

/// Size of a pipe on machines with little memory, in bytes. A full pipe of 1 MiB would be a tenth
/// of the gate's memory.
pub const SMALL_PIPE_SIZE: usize = 128 * 1024;

/// Minimum useful size of a pipe, in bytes: the kernel's default.
const SMALLEST_REQUEST: usize = 64 * 1024;

/// A bounded pool of empty pipes.
#[derive(Debug)]
pub struct Pipes {
    idle: Mutex<Vec<Pipe>>,
}

impl Pipes {
    /// Creates up to `count` pipes, so that a later shortage of descriptors has no effect. Without
    /// any, the relay copies.
    ///
    /// Each has the size that the system allows, up to `size` bytes.
    #[must_use]
    pub fn new(count: usize, size: usize) -> Self {
        let size = size.min(largest_allowed());
        let mut pipes: Vec<Pipe> = (0..count).map_while(|_| Pipe::new(size).ok()).collect();
        // After all pipes, because the user's quota counts both.
        if let Ok(null) = File::options().write(true).open("/dev/null").map(Arc::new) {
            for pipe in &mut pipes {
                pipe.duplicate = duplicate(pipe.size, &null);
            }
        }
        Self { idle: Mutex::new(pipes) }
    }

    /// Returns the number of unused pipes.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// A pool of one pipe that splice(2) refuses to fill, with EINVAL, because it is not a pipe.
    #[cfg(test)]
    pub(super) fn refusing() -> Self {
        let null = || {
            let file = File::options().read(true).write(true).open("/dev/null");
            OwnedFd::from(file.unwrap())
        };
        let (source, sink) = (null(), null());
        let pipe = Pipe { source, sink, size: PIPE_SIZE, held: 0, duplicate: None };
        Self { idle: Mutex::new(vec![pipe]) }
    }

    /// Creates pipes that cannot show the records in them.
    #[cfg(test)]
    pub(super) fn without_duplicates(count: usize) -> Self {
        let pipes = (0..count).map(|_| Pipe::new(PIPE_SIZE).unwrap());
        Self { idle: Mutex::new(pipes.collect()) }
    }

    /// Takes an empty pipe; `None` if all are in use.
    pub(super) fn take(&self) -> Option<Pipe> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Returns an empty pipe to the pool.
    pub(super) fn give_back(&self, pipe: Pipe) {
        debug_assert_eq!(pipe.held, 0, "a pipe comes back empty");
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(pipe);
    }
}

/// Returns the maximum size for an unprivileged user (pipe(7)).
fn largest_allowed() -> usize {
    let limit = fs::read_to_string("/proc/sys/fs/pipe-max-size");
    limit.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(PIPE_SIZE)
}

/// What came of filling a pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filled {
    /// This many bytes are in it; zero at the end of the source.
    Bytes(usize),
    /// The kernel refuses to splice. Nothing was taken from the source.
    Refused,
}

/// What came of draining a pipe.
#[derive(Debug)]
pub(super) struct Drained {
    /// How many bytes the destination took.
    pub(super) moved: usize,
    /// The bytes that it did not take, and those that it was not to take.
    pub(super) rest: Vec<u8>,
    /// Whether the kernel refused to splice.
    pub(super) is_refused: bool,
}

/// Returns whether the kernel refuses splice(2) itself, as gVisor and some seccomp profiles do, and
/// not for anything that the sockets' peers did.
fn is_refusal(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let refusals = [Errno::NOSYS, Errno::INVAL, Errno::PERM, Errno::ACCESS, Errno::OPNOTSUPP];
    Errno::from_io_error(error).is_some_and(|errno| refusals.contains(&errno))
}

/// Creates a pipe of `size` bytes, or the largest that the user's quota allows: its ends, and its
/// size.
///
/// Above `pipe-user-pages-soft`, the kernel silently creates pipes of two pages and rejects
/// resizing with EPERM (pipe(7)).
fn create(size: usize) -> io::Result<((OwnedFd, OwnedFd), usize)> {
    let (source, sink) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let mut request = size;
    while request >= SMALLEST_REQUEST && fcntl_setpipe_size(&sink, request).is_err() {
        request /= 2;
    }
    let size = fcntl_getpipe_size(&sink)?;
    Ok(((source, sink), size))
}

/// Returns a duplicate for a pipe of `size` bytes, unless it would be smaller.
fn duplicate(size: usize, null: &Arc<File>) -> Option<Duplicate> {
    let (ends, own) = create(size).ok()?;
    (own >= size).then(|| Duplicate::new(ends, null.clone()))
}

/// A pipe and the number of bytes in it.
#[derive(Debug)]
pub(super) struct Pipe {
    source: OwnedFd,
    sink: OwnedFd,
    size: usize,
    held: usize,
    /// To judge the records in it.
    duplicate: Option<Duplicate>,
}

impl Pipe {
    fn new(size: usize) -> io::Result<Self> {
        let ((source, sink), size) = create(size)?;
        Ok(Self { source, sink, size, held: 0, duplicate: None })
    }

    /// Returns the nominal size in bytes. Spliced segments can exceed it.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Fills the empty pipe with at most `length` bytes from `from`.
    /// As the pipe was empty, `WouldBlock` can only mean that `from` is dry.
    pub(super) fn fill(&mut self, from: &TcpStream, length: usize) -> io::Result<Filled> {
        match socket::splice((from, Interest::READABLE), from, &self.sink, length) {
            Ok(filled) => {
                self.held = filled;
                Ok(Filled::Bytes(filled))
            }
            Err(error) if is_refusal(&error) => Ok(Filled::Refused),
            Err(error) => Err(error),
        }
    }

    /// Returns whether records in it can be judged without copying them.
    pub(super) fn shows_records(&self) -> bool {
        self.duplicate.is_some()
    }

    /// Returns how many bytes of it `watch` accepts, from the first one on. It has not seen the
    /// bytes behind these.
    pub(super) fn accepted_by(&mut self, watch: &mut Watch) -> usize {
        let Some(duplicate) = &mut self.duplicate else { return 0 };
        let Ok(seen) = duplicate.fill(&self.source, self.held) else {
            self.duplicate = None;
            return 0;
        };
        let accepted = watch.survey(seen, |skip| duplicate.header_behind(skip).ok().flatten());
        if duplicate.empty().is_err() {
            self.duplicate = None;
        }
        accepted
    }

    /// Drains the pipe: its first `length` bytes into `to`. What `to` has no room for comes back in a
    /// buffer, with the bytes behind, so that the pipe is empty in any case; so does everything if
    /// the kernel refuses to splice.
    pub(super) fn drain(&mut self, to: &TcpStream, length: usize) -> io::Result<Drained> {
        let filled = self.held;
        let kept = filled.saturating_sub(length);
        let mut is_refused = false;
        while self.held > kept {
            match socket::splice((to, Interest::WRITABLE), &self.source, to, self.held - kept) {
                Ok(moved) if moved > 0 => self.held = self.held.saturating_sub(moved),
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if is_refusal(&error) => {
                    is_refused = true;
                    break;
                }
                Err(error) => {
                    self.empty()?;
                    return Err(error);
                }
            }
        }
        let moved = filled - self.held;
        Ok(Drained { moved, rest: self.empty()?, is_refused })
    }

    /// Reads the remaining bytes.
    fn empty(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = Vec::with_capacity(self.held);
        while self.held > 0 {
            match rustix::io::read(&self.source, spare_capacity(&mut rest))? {
                0 => break,
                read => self.held = self.held.saturating_sub(read),
            }
        }
        self.held = 0;
        Ok(rest)
    }
}
