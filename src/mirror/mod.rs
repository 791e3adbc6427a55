//! The mirror: clients speak HTTPS to the gate as to a registry, and each request is judged.
//!
//! ```text
//! accept -> PROXY header -> TLS -> admit -> requests, one after another
//! ```
//!
//! A connection is a session with a record of its own; a request has an audit line of its own. The
//! client's `Authorization` is for the gate and goes no further.

mod connection;
mod request;

use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep_until};

use crate::account::Stage;
use crate::forward::Forward;
use crate::limits::PendingSlot;
use crate::listen::tls::ClientStream;
use crate::policy::Reason;
use crate::serve::{self, Delivery, Guarded, StallTerms};
use crate::session::{self, Identified, Incoming};
use connection::{MirrorConnection, progress};

/// Serves one connection, to its end. The runtime is the one in which the future is polled.
pub async fn run(incoming: Box<Incoming>, forward: Arc<Forward>) {
    Box::pin(async move {
        let Some(identified) = session::identify(incoming).await else { return };
        let Identified {
            gate,
            listener,
            client,
            certificate,
            mut account,
            permit,
            slot,
            stream,
            refusal,
        } = *identified;
        account.record.stages.enter(Stage::Relay);
        let delivery = Arc::new(Delivery::default());
        let seen = delivery.clone();
        account.follow(Box::new(move || progress(&seen)));
        let connection = MirrorConnection {
            session: account.id(),
            gate,
            listener,
            forward,
            identity: client,
            certificate: certificate.map(Mutex::new),
            account: Mutex::new(account),
            permit: Mutex::new((permit, None)),
            refusal,
            requests: AtomicU64::new(0),
            delivery,
        };
        serve_requests(Arc::new(connection), stream, slot).await;
    })
    .await;
}

/// Serves requests until the client is done, or the gate ends.
async fn serve_requests(
    connection: Arc<MirrorConnection>,
    stream: ClientStream,
    mut slot: Option<PendingSlot>,
) {
    let mut policy = connection.gate.policy.clone();
    let limits = *policy.borrow_and_update().limits();
    let (relay, client) = (&connection.gate.relay, connection.identity.address.0);
    let terms = StallTerms::new(relay, &limits, client, connection.delivery.clone());
    let io = TokioIo::new(Guarded::new(stream, terms));
    let shared = connection.clone();
    let service = service_fn(move |request| {
        let connection = shared.clone();
        async move { Ok::<_, Infallible>(request::respond(connection, request).await) }
    });
    let mut http = serve::http1(&limits);
    // Who is refused hears it once.
    http.keep_alive(connection.refusal.is_none());
    let mut serving = pin!(http.serve_connection(io, service));
    let mut evicted = pin!(async {
        match &mut slot {
            Some(slot) => slot.evicted().await,
            None => pending().await,
        }
    });
    let began = Instant::now();
    let mut is_draining = false;
    let end = loop {
        let lifetime = policy.borrow().limits().session_lifetime;
        let due = connection.next_judgement(began + lifetime);
        tokio::select! {
            served = serving.as_mut() => break connection.end_of(served),
            () = connection.gate.draining.cancelled(), if !is_draining => {
                is_draining = true;
                serving.as_mut().graceful_shutdown();
            }
            () = evicted.as_mut() => break connection.end_of(Ok(())),
            changed = policy.changed() => if changed.is_err() {
                break Err(Reason::Draining.into());
            },
            () = sleep_until(due) => {}
        }
        if began.elapsed() >= policy.borrow_and_update().limits().session_lifetime {
            break Err(Reason::Lifetime.into());
        }
        if !connection.certificate_is_valid() {
            break Err(Reason::PolicyRevoked.into());
        }
    };
    connection.account().close(&end);
}
