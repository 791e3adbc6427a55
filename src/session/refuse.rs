//! Ends a session before its relay: records it first, then notifies the client.

use std::future::pending;

use bytes::Bytes;

use super::state::Session;
use crate::limits::{PendingSlot, SetupSlot};
use crate::listen::http::answer::RefusalAnswer;
use crate::listen::http::connect;
use crate::listen::tls::{self, ClientStream};
use crate::policy::{Denial, Reason, Stop};
use crate::relay::{Closing, hear_out};

/// Why a session ends before the relay, and how to notify its client.
pub(super) struct Refusal {
    stop: Stop,
    notice: Notice,
}

/// How to notify the client.
enum Notice {
    /// By an HTTP answer, before `200`.
    Answer {
        client: ClientStream,
        /// The head to answer, if it was valid.
        head: Option<Bytes>,
        /// The target, as the answer names it.
        subject: String,
    },
    /// By a TLS alert.
    Alert(ClientStream),
    /// By an orderly close: the alert was sent.
    Close(ClientStream),
    /// Not at all: the client has gone, or cannot read any notice.
    Nothing,
}

impl Refusal {
    /// An HTTP answer to a request that could not be read.
    pub(super) fn answer(client: ClientStream, stop: impl Into<Stop>) -> Box<Self> {
        Self::answer_to(client, stop, None, "the request".to_owned())
    }

    /// An HTTP answer that names the target.
    pub(super) fn answer_to(
        client: ClientStream,
        stop: impl Into<Stop>,
        head: Option<Bytes>,
        subject: String,
    ) -> Box<Self> {
        Self::new(stop, Notice::Answer { client, head, subject })
    }

    /// A TLS alert, for a client that speaks TLS.
    pub(super) fn alert(client: ClientStream, stop: impl Into<Stop>) -> Box<Self> {
        Self::new(stop, Notice::Alert(client))
    }

    /// An orderly close, for a client that got an alert.
    pub(super) fn close(client: ClientStream, stop: impl Into<Stop>) -> Box<Self> {
        Self::new(stop, Notice::Close(client))
    }

    /// No notice.
    pub(super) fn silent(stop: impl Into<Stop>) -> Box<Self> {
        Self::new(stop, Notice::Nothing)
    }

    fn new(stop: impl Into<Stop>, notice: Notice) -> Box<Self> {
        Box::new(Self { stop: stop.into(), notice })
    }
}

impl Session {
    /// Records the refusal, then notifies the client.
    // The caller boxes it, so the future is small there.
    pub(super) async fn refuse(mut self: Box<Self>, refusal: Box<Refusal>) {
        let Refusal { stop, notice } = *refusal;
        let id = self.account.close(&Err(stop.clone()));
        let closing = match notice {
            Notice::Answer { client, head, subject } => {
                let id = id.map(|id| id.to_string()).unwrap_or_default();
                let answer = RefusalAnswer { stop: &stop, host: Some(&subject), id: &id };
                let written = match head {
                    Some(head) => connect::answer(head, answer.response()),
                    None => connect::refusal(answer.response()),
                };
                let Ok(answer) = written else { return };
                Closing::with_word(client, answer)
            }
            Notice::Alert(client) => Closing::with_alert(client, &stop),
            Notice::Close(client) => Closing::in_order(client),
            Notice::Nothing => return,
        };
        self.finish(closing).await;
    }

    /// Sends the final bytes and waits for the client to close. A rejected client that does not
    /// close keeps its slot, among the pending connections or the sessions that are not tunnels yet,
    /// until it is evicted.
    async fn finish(&mut self, closing: Closing<ClientStream>) {
        if let Some(client) = closing.client() {
            tls::cork(client);
        }
        // Evicted clients get their answer first, too.
        let Some(client) = closing.say().await else { return };
        let needed = needed(self.setup.as_ref());
        tokio::select! {
            () = hear_out(client) => {}
            () = evicted(&mut self.slot) => {}
            () = needed => {}
        }
    }
}

/// Ends a pending connection that was evicted.
pub(super) fn session_limit() -> Stop {
    Denial::with_remedy(Reason::SessionLimit, "its place was needed for another").into()
}

/// Resolves when the connection is evicted; never for a session without a slot.
pub(super) async fn evicted(slot: &mut Option<PendingSlot>) {
    match slot {
        Some(slot) => slot.evicted().await,
        None => pending().await,
    }
}

/// Resolves when a session that is not a tunnel yet is evicted. Never resolves without a slot.
pub(super) fn needed(setup: Option<&SetupSlot>) -> impl Future<Output = ()> + Send + use<> {
    let needed = setup.map(SetupSlot::evicted);
    async move {
        match needed {
            Some(needed) => needed.await,
            None => pending().await,
        }
    }
}
