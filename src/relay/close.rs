//! Closes connections: with a TLS alert, in order, or with a reset. All tunnels are closed here, so
//! that unread bytes do not turn a final notice into a reset.

use std::borrow::Cow;
use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use crate::hello::{ACCESS_DENIED, INTERNAL_ERROR};
use crate::policy::Stop;

/// Maximum number of bytes that a peer can send after the final notice.
const LAST_BYTES: usize = 1024 * 1024;

/// Number of these bytes that are read at once, on the stack.
const CHUNK: usize = 4 * 1024;

/// Timeout for a peer to accept the final notice, and again to close its side.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// A client connection that is due a final notice. Await [`Closing::finish`] after the session is
/// recorded. Dropping it resets the connection.
#[derive(Debug)]
#[must_use]
pub struct Closing<C> {
    client: Option<C>,
    word: Cow<'static, [u8]>,
}

impl<C> Closing<C> {
    /// No notice is pending.
    pub(super) fn done() -> Self {
        Self { client: None, word: Cow::default() }
    }

    /// For a client in its handshake: sends a TLS alert. A client that got bytes of the server's
    /// session could not read it: use [`Closing::in_order`] then.
    pub fn with_alert(client: C, stop: &Stop) -> Self {
        let word: &[u8] = match stop {
            Stop::Denied(_) => &ACCESS_DENIED,
            Stop::Failed(_) | Stop::Detailed(_) => &INTERNAL_ERROR,
        };
        Self { client: Some(client), word: word.into() }
    }

    /// For a client that waits for an HTTP answer: sends this answer.
    pub fn with_word(client: C, word: Vec<u8>) -> Self {
        Self { client: Some(client), word: word.into() }
    }

    /// For a client that got bytes from the server: closes in order.
    pub fn in_order(client: C) -> Self {
        Self { client: Some(client), word: Cow::default() }
    }
}

impl<C> Closing<C> {
    /// Returns the client connection if a notice is pending.
    #[must_use]
    pub fn client(&self) -> Option<&C> {
        self.client.as_ref()
    }

    /// Changes the type of the connection.
    pub fn map<D>(self, call: impl FnOnce(C) -> D) -> Closing<D> {
        Closing { client: self.client.map(call), word: self.word }
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> Closing<C> {
    /// Sends the final notice and FIN, then drains what the client still sends, within limits,
    /// until it closes too.
    pub async fn finish(self) {
        if let Some(client) = self.say().await {
            hear_out(client).await;
        }
    }

    /// Sends the final notice and FIN, within limits. Returns whether the client accepted it and
    /// must be drained.
    pub async fn say(self) -> Option<C> {
        let mut client = self.client?;
        let said = timeout(LAST_WAIT, async {
            client.write_all(&self.word).await?;
            client.shutdown().await
        });
        matches!(said.await, Ok(Ok(()))).then_some(client)
    }
}

/// Drains what the client still sends, within limits, until it closes.
pub async fn hear_out(client: impl AsyncRead + Unpin) {
    // The connection is closed now, whether or not the client closed in time.
    let _ = timeout(LAST_WAIT, drained(client)).await;
}

/// Reads and discards, until the peer closes or exceeds the limit.
async fn drained(mut client: impl AsyncRead + Unpin) {
    let mut left = LAST_BYTES;
    poll_fn(|context| {
        while left > 0 {
            let mut bytes = [MaybeUninit::uninit(); CHUNK];
            let mut bytes = ReadBuf::uninit(&mut bytes);
            let read = ready!(Pin::new(&mut client).poll_read(context, &mut bytes));
            if read.is_err() || bytes.filled().is_empty() {
                break;
            }
            left = left.saturating_sub(bytes.filled().len());
        }
        Poll::Ready(())
    })
    .await;
}
