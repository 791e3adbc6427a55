//! The ways to close: told by an alert, in order, or with a reset. All closings of a tunnel are
//! here, so that no unread byte turns a last word into a reset.

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

/// How much a peer may still send after our last word, in bytes.
const LAST_BYTES: usize = 1024 * 1024;

/// How much of that is read at once, in bytes; it lies on the stack.
const CHUNK: usize = 4 * 1024;

/// How long a peer may take to accept our last word, and again to close in its turn.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// A client's connection to which a last word is due. Await [`Closing::finish`] once the session
/// is accounted for; to drop it instead resets the client.
#[derive(Debug)]
#[must_use]
pub struct Closing<C> {
    client: Option<C>,
    word: Cow<'static, [u8]>,
}

impl<C> Closing<C> {
    /// Nothing is left to say.
    pub(super) fn done() -> Self {
        Self { client: None, word: Cow::default() }
    }

    /// To a client within its handshake: a TLS alert says why it ends. A client that has had a
    /// byte of the server's would take it for garbage: see [`Closing::in_order`].
    pub fn with_alert(client: C, stop: &Stop) -> Self {
        let word: &[u8] = match stop {
            Stop::Denied(_) => &ACCESS_DENIED,
            Stop::Failed(_) => &INTERNAL_ERROR,
        };
        Self { client: Some(client), word: word.into() }
    }

    /// To a client that awaits an answer: this one.
    pub fn with_word(client: C, word: Vec<u8>) -> Self {
        Self { client: Some(client), word: word.into() }
    }

    /// To a client that has heard from the server: an end in order.
    pub fn in_order(client: C) -> Self {
        Self { client: Some(client), word: Cow::default() }
    }
}

impl<C> Closing<C> {
    /// The client, where anything is left to be said.
    #[must_use]
    pub fn client(&self) -> Option<&C> {
        self.client.as_ref()
    }

    /// The same, of a connection that is called otherwise.
    pub fn map<D>(self, call: impl FnOnce(C) -> D) -> Closing<D> {
        Closing { client: self.client.map(call), word: self.word }
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> Closing<C> {
    /// Says the last word, and that no more will come; then drains what the client still sends,
    /// within bounds, until it closes too.
    pub async fn finish(self) {
        if let Some(client) = self.say().await {
            hear_out(client).await;
        }
    }

    /// Says the last word, within bounds, and that no more will come. The client is to be heard out
    /// where it took that.
    pub async fn say(self) -> Option<C> {
        let mut client = self.client?;
        let said = timeout(LAST_WAIT, async {
            client.write_all(&self.word).await?;
            client.shutdown().await
        });
        matches!(said.await, Ok(Ok(()))).then_some(client)
    }
}

/// Drains what a client still sends that has had the last word, within bounds, until it closes.
pub async fn hear_out(client: impl AsyncRead + Unpin) {
    // Whether it closes in time or not, it is closed now.
    let _ = timeout(LAST_WAIT, drained(client)).await;
}

/// Reads and forgets, until the peer closes or has sent more than we want to know.
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
