//! Pipes, the buffers in the kernel that splice(2) moves pages through, and their pool.
//!
//! A pipe is lent for one turn of one direction, which fills it, drains it whole and gives it back
//! before it waits for anything. So as many pipes as there are threads serve any number of
//! tunnels, and none can be pinned by a reader that stalls.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use rustix::buffer::spare_capacity;
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::socket;

/// What a pipe should hold, in bytes: the most that the kernel gives an unprivileged user unasked
/// (pipe(7)). Since there are only as many as threads, size costs nothing; by measurement 1 MiB
/// moved a byte for 0.7 of what 256 KiB took, and for as much as HAProxy.
pub const PIPE_SIZE: usize = 1024 * 1024;

/// What a pipe should hold where memory is short, in bytes. A full pipe of 1 MiB would be a tenth of
/// the gate's memory.
pub const SMALL_PIPE_SIZE: usize = 128 * 1024;

/// The smallest pipe worth a request to the kernel, in bytes: its own default.
const SMALLEST_REQUEST: usize = 64 * 1024;

/// A bounded pool of empty pipes.
#[derive(Debug)]
pub struct Pipes {
    idle: Mutex<Vec<Pipe>>,
}

impl Pipes {
    /// Makes `count` pipes now, so that no shortage of descriptors later can take them away; fewer
    /// where the system gives no more. Without any, the relay copies.
    ///
    /// They are as large as the system allows, up to `size` bytes.
    #[must_use]
    pub fn new(count: usize, size: usize) -> Self {
        let size = size.min(largest_allowed());
        let pipes = (0..count).map_while(|_| Pipe::new(size).ok()).collect();
        Self { idle: Mutex::new(pipes) }
    }

    /// How many pipes nobody uses now.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Takes a pipe, if there is one; it is empty.
    pub(super) fn take(&self) -> Option<Pipe> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Takes a pipe back, once it is empty.
    pub(super) fn give_back(&self, pipe: Pipe) {
        debug_assert_eq!(pipe.held, 0, "a pipe comes back empty");
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(pipe);
    }
}

/// The most that an unprivileged user may ask for (pipe(7)).
fn largest_allowed() -> usize {
    let limit = fs::read_to_string("/proc/sys/fs/pipe-max-size");
    limit.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(PIPE_SIZE)
}

/// A pipe, and how many bytes are in it.
#[derive(Debug)]
pub(super) struct Pipe {
    source: OwnedFd,
    sink: OwnedFd,
    size: usize,
    held: usize,
}

impl Pipe {
    /// A pipe of `size` bytes, or as near to it as the user's quota allows.
    ///
    /// Beyond `pipe-user-pages-soft` the kernel makes new pipes of two pages without a word, and
    /// refuses to enlarge any with EPERM (pipe(7)).
    fn new(size: usize) -> io::Result<Self> {
        let (source, sink) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let mut request = size;
        while request >= SMALLEST_REQUEST && fcntl_setpipe_size(&sink, request).is_err() {
            request /= 2;
        }
        let size = fcntl_getpipe_size(&sink)?;
        Ok(Self { source, sink, size, held: 0 })
    }

    /// What it nominally holds, in bytes; a spliced segment may exceed it.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Fills the empty pipe with at most `length` bytes from `from`: the number, zero at the end.
    /// As the pipe was empty, `WouldBlock` can only mean that `from` is dry.
    pub(super) fn fill(&mut self, from: &TcpStream, length: usize) -> io::Result<usize> {
        self.held = socket::splice((from, Interest::READABLE), from, &self.sink, length)?;
        Ok(self.held)
    }

    /// Drains the pipe into `to` and says how much went. What `to` has no room for comes back in
    /// a buffer, so that the pipe is empty in any case.
    pub(super) fn drain(&mut self, to: &TcpStream) -> io::Result<(usize, Vec<u8>)> {
        let filled = self.held;
        while self.held > 0 {
            match socket::splice((to, Interest::WRITABLE), &self.source, to, self.held) {
                Ok(moved) if moved > 0 => self.held = self.held.saturating_sub(moved),
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.empty()?;
                    return Err(error);
                }
            }
        }
        let moved = filled - self.held;
        Ok((moved, self.empty()?))
    }

    /// Reads out what is left.
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
