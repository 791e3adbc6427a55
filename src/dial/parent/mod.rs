//! Connects through a parent proxy: CONNECT to its addresses in turn, and never past them.
//!
//! An outage (it cannot be reached, does not answer, or answers 502, 503 or 504) leads to the next
//! address; any other refusal is final. A parent that answers works, whatever it answers: a 503 may be
//! about the registry. Only addresses that cannot be reached are left alone for a while.

mod answer;
mod credentials;
mod health;
mod request;
mod trip;
mod tunnel;

use std::net::SocketAddr;
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::watch;
use tokio::time::Instant;

pub use request::Caller;
pub(super) use trip::Trip;

use super::upstream::Connection;
use crate::account::ParentTrouble;
use crate::policy::{Cause, ConnectBy, GateId, Parent, ParentAddress, ParentFailure, Permit, Stop};
use credentials::{Credentials, NoCredentials};
use health::AddressHealth;
use tunnel::{NoTunnel, ParentTunnel, Times};

/// How long an address of a parent may take to accept a connection while there is another to try.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(750);

/// At most this many of a registry's addresses are asked for at one address of a parent.
const MOST_TARGETS: usize = 3;

/// The parents, as all sessions share them.
#[derive(Debug)]
pub(super) struct Parents {
    id: GateId,
    health: AddressHealth,
    credentials: Credentials,
}

/// Why one address of a parent opened no tunnel.
enum Failed {
    /// The next address may do it.
    Outage(ParentFailure),
    /// No other will be asked.
    Final(Stop),
}

impl Parents {
    pub(super) fn new() -> Self {
        let mut random = [0; 8];
        // Without random numbers TLS and passwords do not work either; a gate whose pseudonym is 0
        // still finds loops of its own.
        let _ = SystemRandom::new().fill(&mut random);
        let id = GateId::new(u64::from_ne_bytes(random));
        Self { id, health: AddressHealth::default(), credentials: Credentials::default() }
    }

    pub(super) fn id(&self) -> GateId {
        self.id
    }

    pub(super) fn is_up(&self, parent: &Parent) -> bool {
        self.health.is_up(parent)
    }

    pub(super) fn trouble(&self, parent: &Parent) -> Option<ParentTrouble> {
        self.health.trouble(parent)
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.health.changes()
    }

    /// Has a parent open a tunnel.
    pub(super) async fn reach(&self, parent: &Parent, trip: &Trip<'_>) -> Result<Connection, Stop> {
        let (targets, target) = (targets(parent, trip.permit), trip.permit.allowed().target());
        let mut worst = None;
        let addresses = self.health.to_try(parent);
        for (number, address) in addresses.iter().enumerate() {
            let is_last = number + 1 == addresses.len();
            match self.attempt(parent, address, &targets, trip, is_last).await {
                Ok(connection) => {
                    self.health.opened(parent, target);
                    return Ok(connection);
                }
                Err(Failed::Final(stop)) => {
                    self.health.opened_none(parent, target, &stop);
                    return Err(stop);
                }
                Err(Failed::Outage(failure)) => {
                    // What a parent answered tells more than that another is not there.
                    let keeps = |worst: &ParentFailure| {
                        worst.cause == Cause::ParentRefused && failure.cause != worst.cause
                    };
                    worst = worst.filter(keeps).or(Some(failure));
                }
            }
        }
        let Some(failure) = worst else {
            let why = "could not be reached a moment ago";
            return Err(ended(parent, Cause::ParentUnreachable, why).into());
        };
        let stop = failure.into();
        self.health.opened_none(parent, target, &stop);
        Err(stop)
    }

    /// Tries one address of a parent, with each target in turn.
    async fn attempt(
        &self,
        parent: &Parent,
        address: &ParentAddress,
        targets: &[(String, Option<SocketAddr>)],
        trip: &Trip<'_>,
        is_last: bool,
    ) -> Result<Connection, Failed> {
        let mut refused = None;
        for (authority, registry) in targets {
            let began = Instant::now();
            let left = trip.by.saturating_duration_since(began);
            let times = match is_last {
                true => Times { connect: trip.by, answer: trip.by },
                false => Times {
                    connect: trip.by.min(began + CONNECT_TIMEOUT),
                    answer: began + left / 2,
                },
            };
            let opened = self.open(parent, address, authority, trip, times).await;
            if !matches!(opened, Err(NoTunnel::Unreachable(_) | NoTunnel::Ours(_))) {
                self.health.works(parent, address);
            }
            let no_tunnel = match opened {
                Ok(upstream) => {
                    let parent = Some(address.text().clone());
                    return Ok(Connection { upstream, address: *registry, parent });
                }
                Err(no_tunnel) => no_tunnel,
            };
            if let NoTunnel::Unreachable(why) = &no_tunnel {
                self.health.failed(parent, address, began, why);
            }
            match failed(parent, no_tunnel) {
                Failed::Outage(failure) if failure.cause == Cause::ParentRefused => {
                    refused = Some(Failed::Outage(failure));
                }
                other => return Err(other),
            }
        }
        let nothing = || Failed::Final(ended(parent, Cause::ParentRefused, "no address").into());
        Err(refused.unwrap_or_else(nothing))
    }

    /// Opens one tunnel. A value of the credentials' program that has expired is replaced once.
    async fn open(
        &self,
        parent: &Parent,
        address: &ParentAddress,
        authority: &str,
        trip: &Trip<'_>,
        times: Times,
    ) -> Result<super::Upstream, NoTunnel> {
        loop {
            let authorization = self.credentials.get(parent, address, times.answer).await?;
            let value = authorization.as_ref().map(|one| &*one.value);
            let head = request::connect(authority, &trip.caller.via, self.id, value);
            let opened = ParentTunnel { parent, address, trip }.open(&head, times).await;
            match (&opened, authorization) {
                (Err(NoTunnel::Answered(answer)), Some(used))
                    if answer.status == 407 && used.is_cached =>
                {
                    self.credentials.reject(parent, &used).await;
                }
                _ => return opened,
            }
        }
    }
}

/// What a parent is asked for: the name, or judged addresses with the families in turn.
fn targets(parent: &Parent, permit: &Permit) -> Vec<(String, Option<SocketAddr>)> {
    match parent.connect {
        ConnectBy::Name => vec![(permit.allowed().target().to_string(), None)],
        ConnectBy::Address => {
            let addresses = super::connect::interleaved(permit.addresses()).into_iter();
            let address = |address: SocketAddr| (address.to_string(), Some(address));
            addresses.take(MOST_TARGETS).map(address).collect()
        }
    }
}

fn ended(parent: &Parent, cause: Cause, why: &str) -> ParentFailure {
    ParentFailure { cause, detail: format!("{} {why}", parent.name) }
}

/// What follows from an address that opened no tunnel.
fn failed(parent: &Parent, no_tunnel: NoTunnel) -> Failed {
    let end = |cause, why: &str| Failed::Final(ended(parent, cause, why).into());
    match no_tunnel {
        NoTunnel::Unreachable(why) | NoTunnel::Silent(why) => {
            Failed::Outage(ended(parent, Cause::ParentUnreachable, &why))
        }
        NoTunnel::Malformed(why) => {
            end(Cause::ParentMalformed, &format!("answered wrongly: {why}"))
        }
        NoTunnel::Credentials(why) => end(Cause::ParentAuth, &format!("needs credentials: {why}")),
        NoTunnel::Ours(failure) => Failed::Final(failure.into()),
        NoTunnel::Answered(answer) => {
            let says = |cause| ParentFailure { cause, detail: answer.words.clone() };
            match answer.status {
                407 => Failed::Final(says(Cause::ParentAuth).into()),
                502..=504 => Failed::Outage(says(Cause::ParentRefused)),
                _ => Failed::Final(says(Cause::ParentRefused).into()),
            }
        }
    }
}

impl From<NoCredentials> for NoTunnel {
    fn from(none: NoCredentials) -> Self {
        Self::Credentials(none.to_string())
    }
}
