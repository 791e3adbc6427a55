//! A listener's life: it serves, and when the gate ends it lets go of its clients in the way that
//! its socket allows.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::bind::{self, Holding};
use super::listener::Ear;
use super::workers::{Among, Workers};
use crate::session::{self, Door, Gate, Welcome};

/// How long accepting pauses when no connection can be had: no descriptor, no memory.
const BACKOFF: Duration = Duration::from_millis(50);

/// How often the log says so, while it lasts.
const TOLD_AGAIN: Duration = Duration::from_secs(10);

/// What tells the listeners that the gate ends, and what tells the gate how far they are.
#[derive(Debug, Clone, Default)]
pub(super) struct Ending {
    /// Cancelled when no new session is to be taken.
    pub(super) begun: CancellationToken,
    /// Cancelled when nobody is to be answered any more.
    pub(super) over: CancellationToken,
    /// The listeners that still take sessions.
    pub(super) taking: TaskTracker,
    /// Those that are told to come again.
    pub(super) turned_away: TaskTracker,
}

/// A listener and what it serves with.
#[derive(Debug)]
pub(super) struct Acceptor {
    pub(super) listener: Ear,
    pub(super) holding: Holding,
    pub(super) gate: Arc<Gate>,
    pub(super) door: Door,
    pub(super) workers: Workers,
    pub(super) ending: Ending,
}

impl Acceptor {
    /// Accepts connections, each into a task of its own, until the gate has ended.
    pub(super) async fn run(self) {
        let taking = self.ending.taking.token();
        let Self { listener, holding, gate, door, workers, ending } = self;
        let closed = Arc::new(Door { welcome: Welcome::TurnedAway, ..door.clone() });
        let open = Arc::new(door);
        tokio::select! {
            () = ending.begun.cancelled() => {}
            () = accept(&listener, &gate, &open, &workers, Among::Sessions) => {}
        }
        match holding {
            Holding::Together => info!("{} is left to whoever else holds it", open.name),
            Holding::Beside => {
                if let Err(error) = bind::turn_to_successor(&listener) {
                    warn!(%error, listener = %open.name, "connections cannot be handed over");
                }
                let last = accept(&listener, &gate, &open, &workers, Among::Sessions);
                // What has come is taken in; what is new goes to the successor.
                let _ = timeout(bind::LAST_ARRIVALS, last).await;
                if let Err(error) = bind::turn_to_all(&listener) {
                    warn!(%error, listener = %open.name, "connections go where they went");
                }
                info!("{} is left to whoever else is bound to it", open.name);
            }
            Holding::Alone => {
                drop(taking);
                let turned_away = Among::These(&ending.turned_away);
                tokio::select! {
                    () = ending.over.cancelled() => {}
                    () = accept(&listener, &gate, &closed, &workers, turned_away) => {}
                }
            }
        }
    }
}

/// Accepts connections for as long as it is polled. It can be dropped at any time: whoever was
/// accepted is served.
async fn accept(
    listener: &Ear,
    gate: &Arc<Gate>,
    door: &Arc<Door>,
    workers: &Workers,
    among: Among<'_>,
) {
    let mut told: Option<Instant> = None;
    loop {
        let listened = listener.listen().await;
        let room = gate.lobby.room().await;
        match listened.and_then(|()| listener.accept()) {
            Ok((socket, peer)) => {
                let place = gate.lobby.enter(room);
                workers
                    .serve(among, session::serve(gate.clone(), door.clone(), socket, peer, place));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // Out of descriptors or memory: trying at once would spin.
                if told.is_none_or(|at| at.elapsed() >= TOLD_AGAIN) {
                    warn!(%error, listener = %door.name, "cannot accept");
                    told = Some(Instant::now());
                }
                tokio::time::sleep(BACKOFF).await;
            }
        }
    }
}

/// Errors of accept(2) that concern the connection which was to be accepted, not the listener; or
/// there is none any more.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, Interrupted, PermissionDenied, WouldBlock,
    };
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted | PermissionDenied | WouldBlock
    )
}
