//! Reads a request head or ClientHello from a client, bounded in bytes and in total time.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, timeout_at};

use super::http::head::{Head, HeadProgress, HeadReader, RefusedHead};
use crate::hello::{Hello, HelloFault, HelloReader, HelloStep};

/// Size of a read, in bytes. A head with its fields fits, and so does a post-quantum ClientHello.
const CHUNK: usize = 4 * 1024;

/// A valid head, and all bytes read so far.
#[derive(Debug)]
pub struct Arrived {
    /// The parsed request.
    pub head: Head,
    /// The bytes of the head, and after `head.length` those of the tunnel.
    pub bytes: Vec<u8>,
}

/// Why no head was read.
#[derive(Debug)]
pub enum NoHead {
    /// It is invalid.
    Refused(RefusedHead),
    /// It timed out.
    Late,
    /// The connection was evicted for another.
    Evicted,
    /// The client closed before the end of the head, or without sending any.
    Gone,
    /// The connection failed.
    Broken(io::Error),
}

/// Reads a request head.
///
/// # Errors
/// Why none was read. The caller notifies the client.
pub async fn head(socket: &mut (impl AsyncRead + Unpin), by: Instant) -> Result<Arrived, NoHead> {
    let mut reader = HeadReader::default();
    loop {
        let fed = match timeout_at(by, read(socket, |bytes| reader.feed(bytes))).await {
            Err(_) => return Err(NoHead::Late),
            Ok(Err(error)) => return Err(NoHead::Broken(error)),
            Ok(Ok(None)) => return Err(NoHead::Gone),
            Ok(Ok(Some(fed))) => fed,
        };
        match fed.map_err(NoHead::Refused)? {
            HeadProgress::NeedMore => {}
            HeadProgress::Complete(head) => {
                return Ok(Arrived { head, bytes: reader.into_bytes() });
            }
        }
    }
}

/// Why no ClientHello was read.
#[derive(Debug)]
pub enum NoHello {
    /// It is invalid.
    Refused(HelloFault),
    /// It timed out.
    Late,
    /// The client closed before the end.
    Gone,
    /// The connection failed.
    Broken(io::Error),
}

/// Reads a ClientHello of at most `largest` bytes, of which the `early` bytes have come already.
/// `keeps` is called with the memory that the unfinished hello takes, in bytes.
///
/// # Errors
/// Why none was read. The caller notifies the client.
pub async fn hello(
    socket: &mut (impl AsyncRead + Unpin),
    early: &[u8],
    largest: usize,
    by: Instant,
    mut keeps: impl FnMut(usize),
) -> Result<Hello, NoHello> {
    let mut reader = HelloReader::with_limit(largest);
    let mut step = reader.feed(early).map_err(NoHello::Refused)?;
    loop {
        if let HelloStep::Complete(hello) = step {
            return Ok(hello);
        }
        if reader.memory() > 0 {
            keeps(reader.memory());
        }
        let fed = match timeout_at(by, read(socket, |bytes| reader.feed(bytes))).await {
            Err(_) => return Err(NoHello::Late),
            Ok(Err(error)) => return Err(NoHello::Broken(error)),
            Ok(Ok(None)) => return Err(NoHello::Gone),
            Ok(Ok(Some(fed))) => fed,
        };
        step = fed.map_err(NoHello::Refused)?;
    }
}

/// Passes the next bytes to `take` and returns its result; `None` at the end of the stream.
///
/// The bytes are on the stack, so a waiting connection holds no buffer.
async fn read<T>(
    socket: &mut (impl AsyncRead + Unpin),
    mut take: impl FnMut(&[u8]) -> T,
) -> io::Result<Option<T>> {
    poll_fn(|context| {
        let mut chunk = [MaybeUninit::uninit(); CHUNK];
        let mut chunk = ReadBuf::uninit(&mut chunk);
        ready!(Pin::new(&mut *socket).poll_read(context, &mut chunk))?;
        let bytes = chunk.filled();
        Poll::Ready(Ok((!bytes.is_empty()).then(|| take(bytes))))
    })
    .await
}
