//! Accepts connections for one listener. At shutdown, hands over its clients as the socket allows.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tracing::{info, warn};

use super::drain::{Drain, DrainPhase};
use super::workers::{Among, Workers};
#[cfg(feature = "mirror")]
use crate::config::Mode;
#[cfg(feature = "inspect")]
use crate::inspect;
use crate::listen::listener::{LAST_ARRIVALS, Listener, Sharing};
#[cfg(feature = "mirror")]
use crate::mirror;
use crate::session::{self, Admission, Gate, Incoming, future_size};

/// Pause after accept fails: no descriptor, no memory.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// Interval of log messages while it fails.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// Accepts the connections of one listener and distributes them to the workers.
#[derive(Debug)]
pub(super) struct Acceptor {
    pub(super) listener: Listener,
    pub(super) gate: Arc<Gate>,
    pub(super) workers: Workers,
    pub(super) drain: Drain,
}

impl Acceptor {
    /// Accepts connections, each in its own task, until the gate has ended.
    pub(super) async fn run(self) {
        let accepting = self.drain.accepts();
        let name = &self.listener.spec.name;
        tokio::select! {
            () = self.drain.reached(DrainPhase::Draining) => {}
            () = self.accept(Admission::Open) => {}
        }
        match self.listener.sharing {
            Sharing::SameSocket => info!("{name} is left to the other process that holds it"),
            Sharing::SamePort => {
                if let Err(error) = self.listener.hand_over() {
                    warn!(%error, listener = %name, "new connections cannot be handed over");
                }
                // Connections in the queue are accepted here; new ones go to the successor.
                let _ = timeout(LAST_ARRIVALS, self.accept(Admission::Open)).await;
                info!("{name} is left to the other process that is bound to it");
            }
            Sharing::Exclusive => {
                drop(accepting);
                tokio::select! {
                    () = self.drain.reached(DrainPhase::Over) => {}
                    () = self.accept(Admission::Draining) => {}
                }
            }
        }
    }

    /// Accepts connections while it is polled. It can be dropped at any time: accepted connections
    /// are served all the same.
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
                        slot: gate.pending.enter(room, peer.ip()),
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
                    #[cfg(feature = "inspect")]
                    let session = session::run(incoming, inspect::run);
                    #[cfg(not(feature = "inspect"))]
                    let session = session::run(incoming);
                    let session = future_size::at_most::<{ future_size::TASK }, _>(session);
                    workers.serve(among, session);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    // Without a descriptor or memory, an immediate retry would spin.
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

/// Returns whether an error of accept(2) concerns only one connection, or the queue is empty.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, Interrupted, PermissionDenied, WouldBlock,
    };
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted | PermissionDenied | WouldBlock
    )
}
