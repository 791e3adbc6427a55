//! Reads a head or a hello from a client, bounded in bytes and in total time.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout_at};

use super::head::{Head, HeadReader, Progress, Refused};
use crate::hello::{Hello, HelloFault, HelloReader, Step};

/// So much is read at once. A head with its fields fits, and so does a post-quantum ClientHello.
const CHUNK: usize = 4 * 1024;

/// A head that passed, and every byte read so far.
#[derive(Debug)]
pub struct Arrived {
    /// What was asked.
    pub head: Head,
    /// The head's bytes, and behind `head.length` those of the tunnel.
    pub bytes: Vec<u8>,
}

/// Why no head came in.
#[derive(Debug)]
pub enum NoHead {
    /// It is none that we take.
    Refused(Refused),
    /// It was not whole in time.
    Late,
    /// Its place in the lobby was needed before it was whole.
    AskedOut,
    /// The client went away, having sent nothing or a part.
    Gone,
    /// The client's connection broke.
    Broken(io::Error),
}

/// Reads a request's head.
///
/// # Errors
/// Why there is none; the caller tells the client.
pub async fn head(socket: &mut (impl AsyncRead + Unpin), by: Instant) -> Result<Arrived, NoHead> {
    let mut reader = HeadReader::default();
    let mut chunk = [0; CHUNK];
    loop {
        let length = match timeout_at(by, socket.read(&mut chunk)).await {
            Err(_) => return Err(NoHead::Late),
            Ok(Err(error)) => return Err(NoHead::Broken(error)),
            Ok(Ok(0)) => return Err(NoHead::Gone),
            Ok(Ok(length)) => length,
        };
        let fed = reader.feed(chunk.get(..length).unwrap_or_default());
        match fed.map_err(NoHead::Refused)? {
            Progress::NeedMore => {}
            Progress::Complete(head) => return Ok(Arrived { head, bytes: reader.into_bytes() }),
        }
    }
}

/// Why no hello came in.
#[derive(Debug)]
pub enum NoHello {
    /// It is none that we take.
    Refused(HelloFault),
    /// It was not whole in time.
    Late,
    /// The client went away before it was whole.
    Gone,
    /// The client's connection broke.
    Broken(io::Error),
}

/// Reads a ClientHello, of which the `early` bytes have come already.
///
/// # Errors
/// Why there is none; the caller tells the client.
pub async fn hello(
    socket: &mut (impl AsyncRead + Unpin),
    early: &[u8],
    by: Instant,
) -> Result<Hello, NoHello> {
    let mut reader = HelloReader::default();
    let mut step = reader.feed(early).map_err(NoHello::Refused)?;
    let mut chunk = [0; CHUNK];
    loop {
        if let Step::Complete(hello) = step {
            return Ok(hello);
        }
        let length = match timeout_at(by, socket.read(&mut chunk)).await {
            Err(_) => return Err(NoHello::Late),
            Ok(Err(error)) => return Err(NoHello::Broken(error)),
            Ok(Ok(0)) => return Err(NoHello::Gone),
            Ok(Ok(length)) => length,
        };
        let fed = reader.feed(chunk.get(..length).unwrap_or_default());
        step = fed.map_err(NoHello::Refused)?;
    }
}
