//! The system calls of the load on sockets.

use std::io;
use std::net::TcpStream;

use rustix::net::RecvFlags;

mod option {
    use nix::{libc, setsockopt_impl, sockopt_impl};

    sockopt_impl!(
        /// The most that TCP sends a second, in bytes (socket(7)).
        MaxPacingRate,
        SetOnly,
        libc::SOL_SOCKET,
        libc::SO_MAX_PACING_RATE,
        u64
    );
}

/// Has the kernel send at this pace, as a network would; 0 for as fast as it goes.
///
/// TCP paces by itself where no qdisc does, in bursts of about a millisecond.
pub fn pace(stream: &TcpStream, bytes_a_second: u64) -> io::Result<()> {
    let rate = if bytes_a_second == 0 { u64::MAX } else { bytes_a_second };
    Ok(nix::sys::socket::setsockopt(stream, option::MaxPacingRate, &rate)?)
}

/// Throws away what comes, within the kernel, so that a receiver costs next to nothing (tcp(7),
/// MSG_TRUNC).
pub struct Discard {
    /// Never written to.
    scratch: Vec<u8>,
}

impl Discard {
    pub fn new() -> Self {
        Self { scratch: vec![0; 1024 * 1024] }
    }

    /// Takes at most `length` bytes, and waits for the first; 0 is the end.
    pub fn some(&mut self, from: &TcpStream, length: u64) -> io::Result<usize> {
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(self.scratch.len());
        let scratch = self.scratch.get_mut(..length).unwrap_or_default();
        let (_, taken) = rustix::net::recv(from, scratch, RecvFlags::TRUNC)?;
        Ok(taken)
    }

    /// Takes so many bytes.
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
