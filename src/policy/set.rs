//! The whole policy, compiled into one immutable set, and its decisions.
//!
//! A session takes one snapshot and queries it in this order: the name, the addresses, the
//! ClientHello. After a reload it asks the new set whether its permit is still valid. Only these
//! decisions create [`Allowed`], [`Permit`] and [`Cleared`], and each requires the one before.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use super::addresses::{self, AddressExceptions, AddressFault, PrivateOnly};
use super::clients::{Client, ClientIdentity, Clients};
use super::endpoint::{Endpoint, EndpointKind};
use super::limits::Limits;
use super::location::{Fault, Location};
use super::mirror::MirrorNames;
use super::name::Name;
use super::parent::Route;
use super::permits::{Allowed, Cleared, Grant, NoneVetted, Permit, Vetted};
use super::reason::{Denial, Reason};
use super::registry::Registry;
use super::routes::routes;
use super::rules::{
    Enforcement, LABELLED_REGISTRIES, OTHER_LABEL, OwnAddresses, Rules, StaticAddress,
};
use super::strangers::Strangers;
use super::target::{HTTPS, Target};
use super::users::Users;

/// The whole policy, immutable, with its generation.
#[derive(Debug)]
pub struct PolicySet {
    generation: u64,
    rules: Rules,
    /// For each name, its entries in the order of the registries.
    hosts: HashMap<Name, Vec<NameEntry>>,
    strangers: Strangers,
    pub(super) clients: Clients,
    pub(super) mirror_names: MirrorNames,
    /// How the tunnels of each registry leave, in the order of the registries.
    pub(super) routes: Vec<Route>,
    /// How the tunnels leave that report mode lets pass.
    pub(super) default_route: Route,
    /// [`OTHER_LABEL`], shared by all that it is given to.
    other_label: Arc<str>,
}

#[derive(Debug, Clone, Copy)]
struct NameEntry {
    registry: u32,
    endpoint: u32,
}

impl PolicySet {
    /// Compiles the rules into a set.
    ///
    /// # Errors
    /// Every fault that registries have among one another: a login, data or regional endpoint that
    /// stands in two, a host that is `also` in one and such an endpoint of another; and clients
    /// that a registry names and nobody knows; and parents likewise.
    pub fn new(generation: u64, rules: Rules) -> Result<Self, Vec<Fault>> {
        let mut hosts: HashMap<Name, Vec<NameEntry>> = HashMap::new();
        let mut faults = Vec::new();
        let mut owners: BTreeMap<&Target, (usize, EndpointKind, &Location)> = BTreeMap::new();
        for (index, registry) in rules.registries.iter().enumerate() {
            for (position, endpoint) in registry.endpoints().iter().enumerate() {
                let (Ok(number), Ok(place)) = (u32::try_from(index), u32::try_from(position))
                else {
                    break;
                };
                let entry = NameEntry { registry: number, endpoint: place };
                hosts.entry(endpoint.target.name.clone()).or_default().push(entry);
                match owners.get(&endpoint.target) {
                    Some((_, EndpointKind::Also, _)) if endpoint.kind == EndpointKind::Also => {}
                    Some((owner, _, first)) if *owner != index => faults.push(Fault {
                        place: endpoint.place.clone(),
                        what: format!("{} is also in another registry ({first})", endpoint.target),
                        remedy: "keep it in one of the two".into(),
                    }),
                    Some(_) => {}
                    None => {
                        owners.insert(&endpoint.target, (index, endpoint.kind, &endpoint.place));
                    }
                }
            }
        }
        let mirrors = rules.registries.iter().map(|one| one.mirror().map(|mirror| &**mirror));
        let mirror_names = MirrorNames::new(mirrors).unwrap_or_else(|found| {
            faults.extend(found);
            MirrorNames::default()
        });
        let (default_route, routes) =
            routes(&rules.parents, &rules.parent, &rules.registries, &mut faults);
        match Clients::new(&rules.clients, &rules.registries) {
            Ok(clients) if faults.is_empty() => {
                let other_label = OTHER_LABEL.into();
                let strangers = Strangers::new(&rules.registries);
                Ok(Self {
                    generation,
                    rules,
                    hosts,
                    strangers,
                    clients,
                    mirror_names,
                    routes,
                    default_route,
                    other_label,
                })
            }
            Ok(_) => Err(faults),
            Err(of_clients) => {
                faults.extend(of_clients);
                Err(faults)
            }
        }
    }

    /// Returns the number of sets that this process has compiled, with this one.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns the rules that it was compiled from.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Returns the users.
    #[must_use]
    pub fn users(&self) -> &Users {
        &self.rules.users
    }

    /// Returns the limits.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.rules.limits
    }

    /// Returns the static addresses of a name, which take precedence over DNS.
    #[must_use]
    pub fn pins(&self, name: &Name) -> Option<&[StaticAddress]> {
        self.rules.pins.get(name).map(Vec::as_slice)
    }

    /// Judges a target before any name is resolved.
    ///
    /// # Errors
    /// The denial. In report mode, reportable reasons are allowed and stored in the [`Allowed`].
    pub fn judge_name(
        &self,
        target: &Target,
        asker: &ClientIdentity,
        enforcement: Enforcement,
    ) -> Result<Allowed, Denial> {
        let reported = |denial: Denial| {
            let passes = enforcement == Enforcement::Report && denial.reason.is_reportable();
            if passes { Ok(denial) } else { Err(denial) }
        };
        let group = || self.clients.group_of(asker).cloned();
        let (registry, grant) = match self.grant(target) {
            Ok(found) => found,
            Err(denial) => {
                let would_deny = Some(reported(denial)?);
                let (target, client) = (target.clone(), group());
                let route = self.default_route.clone();
                return Ok(Allowed { target, grant: None, client, would_deny, route });
            }
        };
        let (client, would_deny) = match self.clients.admit(registry, asker) {
            Ok(client) => (client, None),
            Err(denial) => (group(), Some(reported(denial)?)),
        };
        let (target, route) = (target.clone(), self.route(registry));
        Ok(Allowed { target, grant: Some(grant), client, would_deny, route })
    }

    /// Returns the right to look up a host that a registry names, for the gate's own use,
    /// independent of clients and of `tunnel`.
    ///
    /// # Errors
    /// The denial of a host that no registry names.
    pub fn judge_own(&self, target: &Target) -> Result<Allowed, Denial> {
        let entries = self.hosts.get(&target.name).map_or(&[][..], Vec::as_slice);
        let grant = entries.iter().find_map(|entry| {
            let registry = self.rules.registries.get(entry.registry as usize)?;
            let endpoint = registry.endpoints().get(entry.endpoint as usize)?;
            let is_it = endpoint.target.port == target.port;
            let number = entry.registry as usize;
            is_it.then(|| (self.route(number), self.grant_of(number, registry, endpoint)))
        });
        match grant {
            Some((route, grant)) => {
                let (target, grant) = (target.clone(), Some(grant));
                Ok(Allowed { target, grant, client: None, would_deny: None, route })
            }
            None => Err(self.grant(target).err().unwrap_or(Reason::HostNotAllowed.into())),
        }
    }

    /// Judges a target for any client of a group.
    ///
    /// # Errors
    /// The denial.
    pub fn judge_name_for(&self, target: &Target, group: &Arc<Client>) -> Result<Allowed, Denial> {
        let (registry, grant) = self.grant(target)?;
        self.clients.admit_group(registry, group)?;
        let (target, client) = (target.clone(), Some(group.clone()));
        let route = self.route(registry);
        Ok(Allowed { target, grant: Some(grant), client, would_deny: None, route })
    }

    /// Returns the registry that names a target, for any client.
    ///
    /// # Errors
    /// Why no registry does.
    pub fn named(&self, target: &Target) -> Result<Grant, Denial> {
        self.grant(target).map(|(_, grant)| grant)
    }

    /// Returns the first group of the client.
    #[must_use]
    pub fn group_of(&self, asker: &ClientIdentity) -> Option<&Arc<Client>> {
        self.clients.group_of(asker)
    }

    /// Returns the groups that a registry admits; `None` if it admits all clients.
    #[must_use]
    pub fn admitted(&self, registry: &str) -> Option<&[Arc<Client>]> {
        let mut registries = self.rules.registries.iter();
        match registries.position(|one| &**one.name() == registry) {
            Some(position) => self.clients.admitted(position),
            None => Some(&[]),
        }
    }

    /// Judges a name without a port, for a DNS query: any port on which it is allowed counts.
    ///
    /// # Errors
    /// As [`Self::judge_name`].
    pub fn judge_host(
        &self,
        name: &Name,
        asker: &ClientIdentity,
        enforcement: Enforcement,
    ) -> Result<Allowed, Denial> {
        let judge =
            |port| self.judge_name(&Target { name: name.clone(), port }, asker, enforcement);
        let named = self.hosts.get(name).map_or(&[][..], Vec::as_slice);
        let ports = named.iter().filter_map(|entry| {
            let registry = self.rules.registries.get(entry.registry as usize)?;
            Some(registry.endpoints().get(entry.endpoint as usize)?.target.port)
        });
        let mut denied = None;
        for port in ports {
            match judge(port) {
                Ok(allowed) => return Ok(allowed),
                Err(denial) => denied = Some(denial),
            }
        }
        denied.map_or_else(|| judge(HTTPS), Err)
    }

    /// Returns the registry that names a target, and its grant.
    fn grant(&self, target: &Target) -> Result<(usize, Grant), Denial> {
        let Some(entries) = self.hosts.get(&target.name) else {
            let is_named = |host: &str| self.hosts.contains_key(host);
            return Err(self.strangers.denial(&target.name, is_named));
        };
        let found = entries.iter().find_map(|entry| {
            let registry = self.rules.registries.get(entry.registry as usize)?;
            let endpoint = registry.endpoints().get(entry.endpoint as usize)?;
            (endpoint.target.port == target.port).then_some((entry, registry, endpoint))
        });
        let Some((entry, registry, endpoint)) = found else {
            return Err(Reason::PortNotAllowed.into());
        };
        if !registry.tunnel().include(endpoint.kind) {
            let remedy = "its registry is reached through the mirror";
            return Err(Denial::with_remedy(Reason::HostNotAllowed, remedy));
        }
        let at = entry.registry as usize;
        Ok((at, self.grant_of(at, registry, endpoint)))
    }

    /// Returns the grant of a registry for one of its endpoints.
    pub(super) fn grant_of(&self, at: usize, registry: &Registry, endpoint: &Endpoint) -> Grant {
        let label = if at < LABELLED_REGISTRIES {
            registry.name().clone()
        } else {
            self.other_label.clone()
        };
        Grant {
            registry: registry.name().clone(),
            label,
            endpoint: endpoint.kind,
            place: endpoint.place.clone(),
            upload: registry.budgets().of(endpoint.kind),
            download_bytes_per_second: registry.download_bytes_per_second(),
            ca: registry.ca().clone(),
            inspect: registry
                .inspect()
                .filter(|inspect| inspect.hosts().include(endpoint.kind))
                .cloned(),
            private_addresses: registry.private_addresses().clone(),
            private_only: registry.private_only(),
        }
    }

    /// Judges where an allowed name resolved to; what is left may be dialled.
    ///
    /// # Errors
    /// If no address remains.
    pub fn judge_addresses(
        &self,
        allowed: Allowed,
        found: &[SocketAddr],
        own: &OwnAddresses,
    ) -> Result<Vetted, NoneVetted> {
        let mut addresses = Vec::with_capacity(found.len());
        let mut dropped = Vec::new();
        for address in found {
            let address = SocketAddr::new(addresses::canonical(address.ip()), address.port());
            match self.judge_address(allowed.grant.as_ref(), address, own) {
                Ok(()) if addresses.contains(&address) => {}
                Ok(()) => addresses.push(address),
                Err(fault) => dropped.push((address, fault)),
            }
        }
        if addresses.is_empty() {
            let denial = Denial::with_remedy(Reason::AddressNotAllowed, remedy_for(&dropped));
            return Err(NoneVetted { denial, dropped });
        }
        Ok(Vetted { permit: Permit { allowed, addresses }, dropped })
    }

    pub(super) fn judge_address(
        &self,
        grant: Option<&Grant>,
        address: SocketAddr,
        own: &OwnAddresses,
    ) -> Result<(), AddressFault> {
        // A translator may route back to the gate, so contained addresses are compared as well.
        let reached = || addresses::reached(address.ip());
        if reached().any(|ip| own.listens_at(SocketAddr::new(ip, address.port()))) {
            return Err(AddressFault::Listener);
        }
        let everywhere = self.rules.allowed_addresses.as_slice();
        let opened = AddressExceptions {
            everywhere,
            private: grant.map_or(&[], |grant| &grant.private_addresses),
            private_only: grant.map_or(PrivateOnly::No, |grant| grant.private_only),
        };
        addresses::judge(address.ip(), &opened)?;
        let is_own = reached().any(|ip| own.interfaces.contains(&ip));
        if is_own && !everywhere.iter().any(|range| range.contains(&address.ip())) {
            return Err(AddressFault::Own);
        }
        Ok(())
    }

    /// Judges the name in the ClientHello against the permit.
    ///
    /// # Errors
    /// `sni-mismatch`; `hello-malformed` for a single label that no registry names.
    pub fn judge_hello(&self, permit: Permit, server_name: &Name) -> Result<Cleared, Denial> {
        if *server_name != permit.allowed.target.name {
            let is_stray = server_name.is_single_label() && !self.hosts.contains_key(server_name);
            let reason = if is_stray { Reason::HelloMalformed } else { Reason::SniMismatch };
            return Err(reason.into());
        }
        Ok(Cleared { permit })
    }
}

/// Returns the remedy for the first address that a key can allow, or for the first address.
fn remedy_for(dropped: &[(SocketAddr, AddressFault)]) -> &'static str {
    let mut faults = dropped.iter().map(|(_, fault)| *fault);
    let first = faults.clone().next();
    let has_key =
        |fault: &AddressFault| !matches!(fault, AddressFault::Never(_) | AddressFault::Listener);
    faults.find(has_key).or(first).map_or("check what the DNS answers", AddressFault::remedy)
}

#[cfg(test)]
mod tests;
