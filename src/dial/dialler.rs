//! Dials what is permitted, by the route that is permitted: the one way out of the gate.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::either::Either;

use super::connect::connect;
use super::parent::{Caller, Parents, Trip};
use super::resolve::Resolver;
use super::upstream::Connection;
use crate::account::ParentTrouble;
use crate::policy::{Allowed, GateId, OwnAddresses, Parent, Permit, PolicySet, Route, Stop};

/// What dialling needs beside a permit. All sessions share it.
#[derive(Debug)]
pub struct Dialler {
    resolver: Arc<Resolver>,
    parents: Parents,
}

impl Dialler {
    /// Returns a dialler that looks up the names of parents by this resolver.
    #[must_use]
    pub fn new(resolver: Arc<Resolver>) -> Self {
        Self { resolver, parents: Parents::new() }
    }

    /// The pseudonym of this gate in `Via`.
    #[must_use]
    pub fn id(&self) -> GateId {
        self.parents.id()
    }

    /// Whether a parent works, as far as is known.
    #[must_use]
    pub fn is_up(&self, parent: &Parent) -> bool {
        self.parents.is_up(parent)
    }

    /// Why a parent opened no tunnel the last time; `None` if it works.
    #[must_use]
    pub fn trouble(&self, parent: &Parent) -> Option<ParentTrouble> {
        self.parents.trouble(parent)
    }

    /// Changes whenever an address of a parent starts or stops to work, or its trouble changes.
    #[must_use]
    pub fn parent_changes(&self) -> watch::Receiver<u64> {
        self.parents.changes()
    }

    /// Takes an allowed name the whole way: looks it up and judges its addresses, unless its parent
    /// does, and connects.
    ///
    /// # Errors
    /// As [`Resolver::resolve`], `address-not-allowed`, and as [`Self::dial`].
    pub async fn reach(
        &self,
        (set, own): (&PolicySet, &OwnAddresses),
        allowed: &Allowed,
        caller: &Caller,
        by: Instant,
    ) -> Result<Connection, Stop> {
        let permit = match set.leave_to_parent(allowed) {
            Some(permit) => permit,
            None => {
                let answer = self.resolver.resolve(set, allowed, by).await?;
                let vetted = set.judge_addresses(allowed.clone(), &answer.addresses, own);
                vetted.map_err(|none| none.denial)?.permit
            }
        };
        self.dial((set, own), &permit, caller, by).await
    }

    /// Connects as the permit says: to one of its addresses, or through its parent and never past it.
    /// `set` is the policy that made the permit.
    ///
    /// # Errors
    /// Directly as [`connect`]; through a parent `parent-unreachable`, `parent-refused`, `parent-auth`
    /// or `parent-malformed`, and `local-ports` or `internal` if the gate itself lacks something.
    pub async fn dial(
        &self,
        (set, own): (&PolicySet, &OwnAddresses),
        permit: &Permit,
        caller: &Caller,
        by: Instant,
    ) -> Result<Connection, Stop> {
        match permit.allowed().route() {
            Route::Direct => {
                let (socket, address) = connect(permit, by).await?;
                Ok(Connection {
                    upstream: Either::Left(socket),
                    address: Some(address),
                    parent: None,
                })
            }
            Route::Parent(parent) => {
                let resolver = &self.resolver;
                let trip = Trip { resolver, set, own, permit, caller, by };
                // In a box: it is larger than the direct way, and fewer sessions need it.
                Box::pin(self.parents.reach(parent, &trip)).await
            }
        }
    }
}
