//! Socket system calls of the load.

use std::io;
use std::net::TcpStream;

use rustix::net::RecvFlags;

/// Discards received bytes inside the kernel, so that receiving costs almost nothing (tcp(7),
/// MSG_TRUNC).
pub struct Discard {
    /// Never written to.
    scratch: Vec<u8>,
}

impl Discard {
    pub fn new() -> Self {
        Self { scratch: vec![0; 1024 * 1024] }
    }

    /// Receives at most `length` bytes; waits for the first one. Returns 0 at the end of the
    /// stream.
    pub fn some(&mut self, from: &TcpStream, length: u64) -> io::Result<usize> {
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(self.scratch.len());
        let scratch = self.scratch.get_mut(..length).unwrap_or_default();
        let (_, taken) = rustix::net::recv(from, scratch, RecvFlags::TRUNC)?;
        Ok(taken)
    }

    /// Receives exactly `length` bytes.
    pub fn exactly(&mut self, from: &TcpStream, length: u64) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            match self.some(from, left)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                taken => left -= taken as u64,
            }
        }
        Ok(())
    }
}
