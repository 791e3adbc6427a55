//! TLS at an end of a tunnel: decrypts many records at a time.
//!
//! The TLS library hands on one record at a time. Here what it has decrypted is collected, so that it
//! can be written at once. It receives from the socket itself, into the buffer where it decrypts: a
//! larger buffer before it would save system calls, and cost as much for one more copy. Nothing is
//! kept outside of the library, which keeps at most one record.

use std::io::{self, BufRead as _, Read, Write};

use rustls::{ConnectionCommon, SideData};
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

use super::socket;

/// Nothing more is received if there is less room than this: for what the largest record decrypts to.
const RECORD: usize = 16 * 1024;

/// The most receptions in a row that decrypt to nothing, in one read: a record arrives in several
/// pieces, but a peer that sends only messages of the protocol must not keep other tunnels waiting.
const MOST_EMPTY: u8 = 8;

/// A TLS session, of either side.
pub trait TlsSession {
    /// Feeds it, and processes the records that are complete. Returns how many bytes it has taken;
    /// none is the end.
    ///
    /// # Errors
    /// If the peer breaks the protocol. Later calls return the same error.
    fn feed(&mut self, from: &mut dyn Read) -> io::Result<usize>;

    /// Moves decrypted bytes into `buffer`, as many as it has room for. Returns whether the peer has
    /// sent its end.
    ///
    /// # Errors
    /// `WouldBlock` if there are no more; `UnexpectedEof` after an end without a close_notify.
    fn take(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<bool>;

    /// Returns the error after which the session is unusable.
    ///
    /// # Errors
    /// That error.
    fn check(&mut self) -> io::Result<()>;

    /// Returns whether [`take`](Self::take) has something to return.
    fn has_read(&mut self) -> bool;

    /// Writes encrypted bytes.
    ///
    /// # Errors
    /// Those of `to`.
    fn write_to(&mut self, to: &mut dyn Write) -> io::Result<usize>;

    /// Limits the bytes that it accepts before those that it has encrypted are written.
    fn accept_at_most(&mut self, bytes: usize);
}

impl<D: SideData> TlsSession for ConnectionCommon<D> {
    fn feed(&mut self, from: &mut dyn Read) -> io::Result<usize> {
        let count = self.read_tls(from)?;
        match self.process_new_packets() {
            Ok(_) => Ok(count),
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }

    fn take(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<bool> {
        while buffer.remaining() > 0 {
            let chunk = self.reader().into_first_chunk()?;
            if chunk.is_empty() {
                return Ok(true);
            }
            let chunk = chunk.get(..buffer.remaining()).unwrap_or(chunk);
            buffer.put_slice(chunk);
            let taken = chunk.len();
            self.reader().consume(taken);
        }
        Ok(false)
    }

    fn check(&mut self) -> io::Result<()> {
        self.writer().flush()
    }

    fn has_read(&mut self) -> bool {
        !self.wants_read() || self.check().is_err()
    }

    fn write_to(&mut self, to: &mut dyn Write) -> io::Result<usize> {
        self.write_tls(to)
    }

    fn accept_at_most(&mut self, bytes: usize) {
        self.set_buffer_limit(Some(bytes));
    }
}

/// What a read found, beside the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// There may be more bytes.
    More,
    /// There are no more now.
    Dry,
    /// The source has ended.
    End,
}

/// A socket, and the TLS session on it.
pub struct TlsEnd<'a> {
    socket: &'a TcpStream,
    session: &'a mut dyn TlsSession,
}

impl<'a> TlsEnd<'a> {
    /// Puts both together.
    pub fn new(socket: &'a TcpStream, session: &'a mut dyn TlsSession) -> Self {
        Self { socket, session }
    }

    /// Returns the socket.
    pub(super) fn into_socket(self) -> &'a TcpStream {
        self.socket
    }

    /// Limits the bytes that the session accepts before those that it has encrypted are written.
    pub(super) fn accept_at_most(&mut self, bytes: usize) {
        self.session.accept_at_most(bytes);
    }

    /// Returns whether a read would find something without the socket.
    pub(super) fn has_read(&mut self) -> bool {
        self.session.has_read()
    }

    /// Receives while `buffer` has room for what that brings, at least once unless the session still
    /// has bytes. Moves what is decrypted into `buffer`, even if it returns an error.
    pub(super) fn read(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<Found> {
        let (mut empty, mut filled) = (0, 0);
        while empty < MOST_EMPTY {
            if let Some(found) = self.take(buffer)? {
                return Ok(found);
            }
            empty = if buffer.filled().len() > filled { 0 } else { empty + 1 };
            filled = buffer.filled().len();
            if !buffer.filled().is_empty() && buffer.remaining() < RECORD {
                return Ok(Found::More);
            }
            self.session.check()?;
            match self.session.feed(&mut Unbuffered(self.socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Found::Dry),
                Err(error) => {
                    // An alert for the peer, if it broke the protocol. The end is the same without.
                    let _ = self.session.write_to(&mut Unbuffered(self.socket));
                    self.take(buffer)?;
                    return Err(error);
                }
            }
        }
        Ok(Found::More)
    }

    /// Moves what is decrypted into `buffer`. `None` if the session has no more now.
    fn take(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<Option<Found>> {
        match self.session.take(buffer) {
            Ok(true) => Ok(Some(Found::End)),
            Ok(false) => Ok(Some(Found::More)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            // The next read returns it again.
            Err(_) if !buffer.filled().is_empty() => Ok(Some(Found::More)),
            Err(error) => Err(error),
        }
    }
}

/// A socket, read and written without waiting.
struct Unbuffered<'a>(&'a TcpStream);

impl Read for Unbuffered<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        socket::read_into(self.0, buffer)
    }
}

impl Write for Unbuffered<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        socket::write(self.0, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
