//! Inspect mode: the gate ends the TLS of a tunnel to a login server, and each request in it is judged.
//!
//! ```text
//! the session's judged ClientHello -> TLS with the operator's authority -> requests, one after another
//! ```
//!
//! The session has judged the client, the name, the addresses and the ClientHello, and has dialled the
//! server. The tunnel keeps its record and its limits; each request has an audit line of its own. The
//! client's `Authorization` goes to the server of the tunnel, whose certificate is verified, and to
//! nobody else.

pub mod authority;
mod body;
mod connection;
mod judge;
mod request;
mod stream;
mod tls;

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::forward::FirstConnection;
use crate::policy::{Cause, Failure, Side, Stop};
use crate::relay::Closing;
use crate::serve::{self, Guarded, StallTerms};
use crate::session::Intercepted;
use connection::InspectedConnection;
use stream::{InnerStream, Violation};
use tls::NoInnerTls;

/// How long the requests of a revoked tunnel may take to end.
const LAST_REQUESTS: Duration = Duration::from_secs(2);

/// Serves one tunnel, to its end.
#[must_use]
pub fn run(tunnel: Box<Intercepted>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(serve(tunnel))
}

async fn serve(tunnel: Box<Intercepted>) {
    let Intercepted {
        gate,
        listener,
        client,
        mut account,
        permit,
        mut watch,
        bounds,
        generation,
        stream,
        hello,
        cleared,
        connection,
    } = *tunnel;
    let target = cleared.permit().allowed().target().clone();
    let config = gate.leaves.config(&target.name);
    let config = config.inspect_err(|error| warn!(host = %target, "cannot inspect: {error}"));
    let (Ok(config), Some(forward)) = (config, gate.forward.clone()) else {
        let stop = Stop::from(Failure { side: Side::Gate, cause: Cause::Internal });
        account.close(&Err(stop.clone()));
        return Closing::with_alert(stream, &stop).finish().await;
    };
    let by = Instant::now() + gate.policy.borrow().limits().hello_timeout;
    let (stream, violation) = match Box::pin(tls::accept(config, stream, *hello, by)).await {
        Ok(accepted) => accepted,
        Err(NoInnerTls { stop, fault, closing }) => {
            if let Some(fault) = fault {
                account.record.note("tls-fault", fault);
            }
            account.close(&Err(stop));
            if let Some(closing) = closing {
                closing.finish().await;
            }
            return;
        }
    };
    let forward = forward.for_client(FirstConnection { target, generation, connection });
    let cleared = Arc::new(cleared);
    let connection = InspectedConnection::new(
        (gate, listener, client),
        account,
        cleared.clone(),
        bounds,
        forward,
    );
    let connection = Arc::new(connection);
    let bounds = connection.bounds.clone();
    let revoked = watch.revoked(&cleared, &bounds);
    serve_requests(connection, stream, violation, revoked).await;
    drop(permit);
}

/// Serves requests until the client is done, the tunnel is revoked, or the gate ends.
async fn serve_requests(
    connection: Arc<InspectedConnection>,
    stream: InnerStream,
    violation: Violation,
    revoked: impl Future<Output = Stop>,
) {
    let limits = *connection.gate.policy.borrow().limits();
    let (relay, client) = (&connection.gate.relay, connection.client.address.0);
    let terms = StallTerms::new(relay, &limits, client, connection.delivery.clone());
    let io = TokioIo::new(Guarded::new(stream, terms));
    let shared = connection.clone();
    let service = service_fn(move |request| {
        let connection = shared.clone();
        async move { Ok::<_, Infallible>(request::respond(connection, request).await) }
    });
    let mut serving = pin!(serve::http1(&limits).serve_connection(io, service));
    let mut revoked = pin!(revoked);
    let mut is_draining = false;
    let end = loop {
        tokio::select! {
            served = serving.as_mut() => break connection.end_of(served, &violation),
            () = connection.gate.draining.cancelled(), if !is_draining => {
                is_draining = true;
                serving.as_mut().graceful_shutdown();
            }
            stop = revoked.as_mut() => {
                // Each request that is under way ends by itself, for the same reason.
                serving.as_mut().graceful_shutdown();
                tokio::select! {
                    _ = serving.as_mut() => {}
                    () = sleep(LAST_REQUESTS) => {}
                }
                break Err(stop);
            }
        }
    };
    connection.close(&end);
}
