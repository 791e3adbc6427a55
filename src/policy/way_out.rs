//! How what is allowed leaves the gate: the routes of a policy's registries, and its parents'
//! addresses.

use std::net::SocketAddr;

use super::addresses;
use super::clients::{ClientIdentity, Login};
use super::parent::{ParentPermit, Route, never_a_parent};
use super::permits::{Allowed, Permit};
use super::reason::{Denial, Reason};
use super::registry::Registry;
use super::rules::{Enforcement, OwnAddresses};
use super::set::PolicySet;

impl PolicySet {
    /// How the tunnels of a registry leave, by its position.
    pub(super) fn route(&self, registry: usize) -> Route {
        // There is one for each registry; without one nothing must leave directly that should not.
        self.routes.get(registry).unwrap_or(&self.default_route).clone()
    }

    /// The registries with their routes.
    pub fn routes(&self) -> impl Iterator<Item = (&Registry, &Route)> {
        self.rules().registries.iter().zip(&self.routes)
    }

    /// Permits a name without addresses, if its parent is asked to connect by name. `None`: its
    /// addresses must be looked up and judged.
    #[must_use]
    pub fn leave_to_parent(&self, allowed: &Allowed) -> Option<Permit> {
        let by_name = allowed.route.is_by_name();
        by_name.then(|| Permit { allowed: allowed.clone(), addresses: Vec::new() })
    }

    /// Judges where an address of a parent resolved to. It may be private, but is no metadata
    /// service, not link-local, and no listener of the gate's own. `None`: none of them may be dialled.
    #[must_use]
    pub fn judge_parent(&self, found: &[SocketAddr], own: &OwnAddresses) -> Option<ParentPermit> {
        let mut addresses: Vec<SocketAddr> = Vec::with_capacity(found.len());
        for address in found {
            let address = SocketAddr::new(addresses::canonical(address.ip()), address.port());
            let is_own = addresses::reached(address.ip())
                .any(|ip| own.listens_at(SocketAddr::new(ip, address.port())));
            if !is_own && never_a_parent(address.ip()).is_none() && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        (!addresses.is_empty()).then_some(ParentPermit { addresses })
    }

    /// Asks again, after a reload, for what an older set permitted and where it was dialled: what
    /// this set makes of it. `upstream` is `None` if a parent has chosen the address.
    ///
    /// # Errors
    /// `policy-revoked`.
    pub fn still_stands(
        &self,
        permit: &Permit,
        upstream: Option<SocketAddr>,
        asker: &ClientIdentity,
        enforcement: Enforcement,
        own: &OwnAddresses,
    ) -> Result<Allowed, Denial> {
        let revoked = || Denial::new(Reason::PolicyRevoked);
        if matches!(&asker.login, Login::Proved(user) if !self.rules().users.still_have(user)) {
            return Err(revoked());
        }
        let target = &permit.allowed.target;
        let allowed = self.judge_name(target, asker, enforcement).map_err(|_| revoked())?;
        let registry_of = |allowed: &Allowed| allowed.grant().map(|grant| grant.registry.clone());
        if registry_of(&permit.allowed).is_some_and(|name| registry_of(&allowed) != Some(name)) {
            return Err(revoked());
        }
        if allowed.inspect().is_some() != permit.allowed.inspect().is_some() {
            return Err(revoked());
        }
        if !allowed.route.keeps(&permit.allowed.route) {
            return Err(revoked());
        }
        if let Some(upstream) = upstream {
            self.judge_address(allowed.grant.as_ref(), upstream, own).map_err(|_| revoked())?;
        }
        Ok(allowed)
    }
}
