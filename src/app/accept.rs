//! Accepts connections for one listener. When the gate ends, it gives up the clients in the way that
//! the socket allows.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tracing::{info, warn};

use super::drain::{Drain, Phase};
use super::workers::{Among, Workers};
#[cfg(feature = "mirror")]
use crate::config::Mode;
use crate::listen::listener::{LAST_ARRIVALS, Listener, Sharing};
#[cfg(feature = "mirror")]
use crate::mirror;
use crate::session::{self, Admission, Gate, Incoming, future_size};

/// How long accepting pauses when no connection can be accepted: no descriptor, no memory.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// How often the log says so while it lasts.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// Accepts the connections of one listener, and spreads them over the workers.
#[derive(Debug)]
pub(super) struct Acceptor {
    pub(super) listener: Listener,
    pub(super) gate: Arc<Gate>,
    pub(super) workers: Workers,
    pub(super) drain: Drain,
}

impl Acceptor {
    /// Accepts connections, each into a task of its own, until the gate has ended.
    pub(super) async fn run(self) {
        let accepting = self.drain.accepts();
        let name = &self.listener.spec.name;
        tokio::select! {
            () = self.drain.reached(Phase::Draining) => {}
            () = self.accept(Admission::Open) => {}
        }
        match self.listener.sharing {
            Sharing::SameSocket => info!("{name} is left to the other process that holds it"),
            Sharing::SamePort => {
                if let Err(error) = self.listener.hand_over() {
                    warn!(%error, listener = %name, "new connections cannot be handed over");
                }
                // The queue is accepted here; new connections go to the successor.
                let _ = timeout(LAST_ARRIVALS, self.accept(Admission::Open)).await;
                if let Err(error) = self.listener.share_again() {
                    warn!(%error, listener = %name, "new connections go where they went before");
                }
                info!("{name} is left to the other process that is bound to it");
            }
            Sharing::Exclusive => {
                drop(accepting);
                tokio::select! {
                    () = self.drain.reached(Phase::Over) => {}
                    () = self.accept(Admission::Draining) => {}
                }
            }
        }
    }

    /// Accepts connections for as long as it is polled. It can be dropped at any time: an accepted
    /// connection is served all the same.
    async fn accept(&self, admission: Admission) {
        let Self { listener, gate, workers, drain } = self;
        let mut warned: Option<Instant> = None;
        loop {
            let readable = listener.readable().await;
            let room = gate.pending.room().await;
            match readable.and_then(|()| listener.accept()) {
                Ok((socket, peer)) => {
                    let incoming = Box::new(Incoming {
                        gate: gate.clone(),
                        listener: listener.spec.clone(),
                        admission,
                        socket,
                        peer,
                        slot: gate.pending.enter(room),
                        accepted: Instant::now(),
                    });
                    let among = match admission {
                        Admission::Open => Among::Sessions,
                        Admission::Draining => Among::These(drain.refused()),
                    };
                    #[cfg(feature = "mirror")]
                    if let (Mode::Mirror, Some(forward)) = (listener.spec.mode, &gate.forward) {
                        workers.serve(among, mirror::run(incoming, forward.clone()));
                        continue;
                    }
                    let session = session::run(incoming);
                    let session = future_size::at_most::<{ future_size::TASK }, _>(session);
                    workers.serve(among, session);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    // No descriptor or no memory: trying again at once would spin.
                    if warned.is_none_or(|at| at.elapsed() >= WARNING_INTERVAL) {
                        warn!(%error, listener = %listener.spec.name, "cannot accept");
                        warned = Some(Instant::now());
                    }
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            }
        }
    }
}

/// Whether an error of accept(2) concerns one connection and not the listener, or the queue is empty.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, Interrupted, PermissionDenied, WouldBlock,
    };
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted | PermissionDenied | WouldBlock
    )
}
