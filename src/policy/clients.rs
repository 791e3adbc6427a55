//! Client identity, group membership, and the registries that admit each group.
//!
//! A group is a `[[client]]` of the configuration. A client is a member of a group if it fulfils
//! all its criteria. If it is a member of several, the first that the registry admits counts.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;

use ipnet::IpNet;

use super::certificate::{CertificateName, CertificateNames};
use super::location::{Fault, Located, Location};
use super::reason::{Denial, Reason};
use super::registry::Registry;
use super::registry_spec::Clientele;
use super::users::User;

/// The client address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientAddress(pub IpAddr);

/// The identity of a client, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    /// Its address.
    pub address: ClientAddress,
    /// The names of its verified certificate; `None` without one.
    pub certificate: Option<Box<CertificateNames>>,
    /// The user whose password was verified.
    pub login: Login,
}

/// The state of password authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// The protocol has no way to ask for a password.
    Impossible,
    /// The client sent no password, and can be asked for one.
    Absent,
    /// The password was verified.
    Proved(Box<User>),
}

/// Returns the address that identifies a subscriber: for IPv6 its /64 network, because one
/// subscriber has at least that (RFC 6177).
#[must_use]
pub fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => IpAddr::V6(Ipv6Addr::from_bits(six.to_bits() & (!0 << 64))),
        four @ IpAddr::V4(_) => four,
    }
}

impl ClientIdentity {
    /// Creates an identity of which only the address is known.
    #[must_use]
    pub fn at(address: IpAddr) -> Self {
        Self {
            address: ClientAddress(address.to_canonical()),
            certificate: None,
            login: Login::Absent,
        }
    }
}

/// A group of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Its name, used in audit lines, metrics and registry files.
    pub name: Arc<str>,
    /// Its place in the configuration.
    pub place: Location,
    /// The networks of its members; empty means any.
    pub networks: Vec<IpNet>,
    /// The accepted certificate names; empty means that none is required.
    pub certificate_names: Vec<CertificateName>,
    /// The accepted users; empty means that none is required.
    pub users: Vec<Arc<str>>,
    /// The limits of all members together.
    pub limits: ClientLimits,
}

/// The limits of all members of a group together; `None` means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientLimits {
    /// Maximum number of open sessions.
    pub open_sessions: Option<usize>,
    /// Maximum number of new sessions per second.
    pub new_sessions_per_second: Option<NonZeroU32>,
    /// Maximum upload per hour, in bytes.
    pub upload_bytes_per_hour: Option<u64>,
    /// Maximum download rate, in bytes per second.
    pub download_bytes_per_second: Option<u64>,
}

impl Client {
    fn includes(&self, asker: &ClientIdentity) -> bool {
        let is_user = match &asker.login {
            _ if self.users.is_empty() => true,
            Login::Proved(user) => self.users.contains(&user.name),
            Login::Impossible | Login::Absent => false,
        };
        is_user && self.includes_but_for_user(asker)
    }

    /// Returns whether only the password of a user is missing.
    fn might_include(&self, asker: &ClientIdentity) -> bool {
        asker.login == Login::Absent && !self.users.is_empty() && self.includes_but_for_user(asker)
    }

    fn includes_but_for_user(&self, asker: &ClientIdentity) -> bool {
        let ClientAddress(address) = asker.address;
        let is_there = self.networks.is_empty()
            || self.networks.iter().any(|network| network.contains(&address));
        let is_named = || {
            let names = asker.certificate.as_deref();
            self.certificate_names.is_empty()
                || names.is_some_and(|names| {
                    self.certificate_names.iter().any(|name| name.is_among(names))
                })
        };
        is_there && is_named()
    }
}

/// The groups, and which registry admits which.
#[derive(Debug, Default)]
pub(super) struct Clients {
    groups: Vec<Arc<Client>>,
    /// In the order of the registries.
    admitted: Vec<Admitted>,
}

#[derive(Debug)]
enum Admitted {
    Everyone,
    /// In the order of the groups.
    Groups(Vec<Arc<Client>>),
}

impl Clients {
    /// Resolves the groups that the registries name.
    pub(super) fn new(groups: &[Arc<Client>], registries: &[Registry]) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut known: HashMap<&str, usize> = HashMap::with_capacity(groups.len());
        for (position, group) in groups.iter().enumerate() {
            if let Some(first) = known.insert(&group.name, position) {
                let first = groups.get(first).map(|first| first.place.line).unwrap_or_default();
                faults.push(Fault {
                    place: group.place.clone(),
                    what: format!("the client {:?} is already defined in line {first}", group.name),
                    remedy: "give each its own name".into(),
                });
            }
        }
        let mut admitted = Vec::with_capacity(registries.len());
        for registry in registries {
            admitted.push(match registry.clientele() {
                Clientele::Unsaid if groups.is_empty() => Admitted::Everyone,
                Clientele::Everyone => Admitted::Everyone,
                Clientele::Unsaid => Admitted::Groups(Vec::new()),
                Clientele::Named(names) => {
                    let mut positions = Vec::with_capacity(names.len());
                    for name in names {
                        match known.get(name.value.as_str()) {
                            Some(position) => positions.push(*position),
                            None => faults.push(stranger(name, groups)),
                        }
                    }
                    positions.sort_unstable();
                    positions.dedup();
                    let named = positions.iter().filter_map(|at| groups.get(*at).cloned());
                    Admitted::Groups(named.collect())
                }
            });
        }
        match faults.is_empty() {
            true => Ok(Self { groups: groups.to_vec(), admitted }),
            false => Err(faults),
        }
    }

    /// Returns the first group that includes the client.
    pub(super) fn group_of(&self, asker: &ClientIdentity) -> Option<&Arc<Client>> {
        self.groups.iter().find(|group| group.includes(asker))
    }

    /// Returns the group as which a registry admits the client.
    pub(super) fn admit(
        &self,
        registry: usize,
        asker: &ClientIdentity,
    ) -> Result<Option<Arc<Client>>, Denial> {
        let groups = match self.admitted.get(registry) {
            Some(Admitted::Everyone) => return Ok(self.group_of(asker).cloned()),
            Some(Admitted::Groups(groups)) => groups.as_slice(),
            None => &[],
        };
        match groups.iter().find(|group| group.includes(asker)) {
            Some(group) => Ok(Some(group.clone())),
            None if groups.iter().any(|group| group.might_include(asker)) => {
                Err(Reason::CredentialsRequired.into())
            }
            None => Err(not_admitted(self.group_of(asker).map(|group| &**group), Some(asker))),
        }
    }

    /// Returns whether a registry admits a group.
    pub(super) fn admit_group(&self, registry: usize, group: &Client) -> Result<(), Denial> {
        let admitted = match self.admitted.get(registry) {
            Some(Admitted::Everyone) => true,
            Some(Admitted::Groups(groups)) => groups.iter().any(|one| one.name == group.name),
            None => false,
        };
        if admitted { Ok(()) } else { Err(not_admitted(Some(group), None)) }
    }

    /// Returns the groups that a registry admits; `None` if it admits all clients.
    pub(super) fn admitted(&self, registry: usize) -> Option<&[Arc<Client>]> {
        match self.admitted.get(registry) {
            Some(Admitted::Everyone) => None,
            Some(Admitted::Groups(groups)) => Some(groups),
            None => Some(&[]),
        }
    }
}

fn not_admitted(group: Option<&Client>, asker: Option<&ClientIdentity>) -> Denial {
    let certificate = asker.and_then(|asker| asker.certificate.as_deref());
    let remedy = match (group, certificate) {
        (Some(group), _) => format!("{} may not use it", group.name),
        (None, None) => "it is in no [[client]]".to_owned(),
        (None, Some(names)) if names.is_empty() => {
            "its certificate has no DNS or URI name".to_owned()
        }
        (None, Some(_)) => "no [[client]] has its certificate's names".to_owned(),
    };
    Denial::with_remedy(Reason::ClientNotAllowed, remedy)
}

fn stranger(name: &Located<String>, groups: &[Arc<Client>]) -> Fault {
    let known: Vec<&str> = groups.iter().map(|group| &*group.name).collect();
    let remedy = match known.as_slice() {
        [] => "write a [[client]] with that name into the main file".to_owned(),
        known => format!("add it, or use one of {}", known.join(", ")),
    };
    Fault {
        place: name.place.clone(),
        what: format!("the [[client]] {:?} does not exist", name.value),
        remedy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::registry_spec::RegistrySpec;

    fn group(name: &str, networks: &[&str]) -> Arc<Client> {
        let place = Location { file: "pullgate.toml".into(), line: 7 };
        let networks = networks.iter().map(|text| text.parse().unwrap()).collect();
        let limits = ClientLimits::default();
        let name = name.into();
        let (certificate_names, users) = (Vec::new(), Vec::new());
        Arc::new(Client { name, place, networks, certificate_names, users, limits })
    }

    fn registry(label: &str, clientele: Clientele) -> Registry {
        let place = Location { file: format!("registries.d/{label}.toml").into(), line: 1 };
        let login = Located { value: format!("{label}.azurecr.io"), place };
        let spec = RegistrySpec::new(label.into(), login);
        Registry::new(&RegistrySpec { clientele, ..spec }).unwrap()
    }

    fn named(names: &[&str]) -> Clientele {
        let place = Location { file: "registries.d/a.toml".into(), line: 3 };
        let located = |name: &&str| Located { value: (*name).to_owned(), place: place.clone() };
        Clientele::Named(names.iter().map(located).collect())
    }

    #[test]
    fn each_registry_lets_its_own_in() {
        let groups = [
            group("agents", &["10.1.0.0/16", "fd00:1::/64"]),
            group("fleet", &["10.2.0.0/16"]),
            group("ops", &["10.1.9.0/24"]),
        ];
        let registries = [
            registry("contoso", named(&["agents"])),
            registry("fabrikam", named(&["ops", "fleet"])),
            registry("silent", Clientele::Unsaid),
            registry("open", Clientele::Everyone),
        ];
        let clients = Clients::new(&groups, &registries).unwrap();
        // Who asks, and as whom each registry lets it in.
        let cases = [
            ("10.1.0.7", [Some("agents"), None, None, Some("agents")]),
            ("::ffff:10.1.0.7", [Some("agents"), None, None, Some("agents")]),
            ("fd00:1::7", [Some("agents"), None, None, Some("agents")]),
            ("10.2.0.7", [None, Some("fleet"), None, Some("fleet")]),
            ("10.1.9.7", [Some("agents"), Some("ops"), None, Some("agents")]),
            ("10.9.0.7", [None, None, None, Some("nobody")]),
        ];
        for (address, expected) in cases {
            let asker = ClientIdentity::at(address.parse().unwrap());
            for (at, expected) in expected.into_iter().enumerate() {
                let found = clients.admit(at, &asker).map(|group| {
                    group.map_or_else(|| "nobody".to_owned(), |group| group.name.to_string())
                });
                assert_eq!(found.ok().as_deref(), expected, "{address} at {at}");
            }
        }
        let refused = |address: &str| {
            clients
                .admit(2, &ClientIdentity::at(address.parse().unwrap()))
                .unwrap_err()
                .remedy
                .unwrap()
        };
        assert_eq!(refused("10.1.0.7"), "agents may not use it");
        assert_eq!(refused("10.9.0.7"), "it is in no [[client]]");
    }

    #[test]
    fn silence_means_everyone_only_while_there_is_no_client() {
        let registries = [registry("contoso", Clientele::Unsaid)];
        let asker = ClientIdentity::at("10.9.0.7".parse().unwrap());
        let of = |groups: &[Arc<Client>]| Clients::new(groups, &registries).unwrap();
        assert_eq!(of(&[]).admit(0, &asker), Ok(None));
        let reason = of(&[group("agents", &[])]).admit(0, &asker).unwrap_err().reason;
        assert_eq!(reason, Reason::ClientNotAllowed);
    }

    #[test]
    fn a_subscribers_addresses_are_one() {
        let cases = [
            ("10.0.0.7", "10.0.0.7"),
            ("::ffff:10.0.0.7", "10.0.0.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ];
        for (from, expected) in cases {
            assert_eq!(subscriber(from.parse().unwrap()), expected.parse::<IpAddr>().unwrap());
        }
    }

    #[test]
    fn strangers_and_namesakes_are_faults() {
        let groups = [group("agents", &[]), group("agents", &[])];
        let registries = [registry("contoso", named(&["agent"]))];
        let faults = Clients::new(&groups, &registries).unwrap_err();
        let said: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].starts_with("pullgate.toml:7: ") && said[1].contains("\"agent\""));
    }
}
