//! The request rules of a registry file: the names that the mirror offers it under, the rules for
//! requests, and the hosts of its blobs.

use std::collections::HashMap;
use std::fmt;

use super::endpoint::{Endpoint, EndpointKind};
use super::host::parse_host;
use super::location::{Fault, Located, Location};
use super::name::Name;
use super::target::{HTTPS, Target};
use crate::oci::{RegistryName, RequestRules};

/// The hosts of a registry that CONNECT and transparent listeners allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TunnelHosts {
    /// All hosts.
    #[default]
    All,
    /// Its data endpoints: requests use the mirror, layers do not.
    Data,
    /// None: all traffic uses the mirror.
    None,
}

impl TunnelHosts {
    /// Returns whether tunnels can reach a host of this kind.
    #[must_use]
    pub fn include(self, kind: EndpointKind) -> bool {
        match self {
            Self::All => true,
            Self::Data => kind == EndpointKind::Data,
            Self::None => false,
        }
    }
}

/// The credentials of the gate for a registry. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub enum RegistryCredentials {
    /// A user, service principal or scope-map token, and its password.
    Password {
        /// The name.
        user: Box<str>,
        /// The password.
        password: Box<str>,
    },
    /// An OAuth 2 refresh token (identity token).
    IdentityToken(Box<str>),
}

impl fmt::Debug for RegistryCredentials {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("RegistryCredentials(***)")
    }
}

/// Where blobs are fetched from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blobs {
    /// Clients follow the redirect of the registry themselves.
    Redirect,
    /// The gate follows the redirect, to these hosts and the data endpoints.
    Relay(BlobHosts),
}

/// Hosts that the gate can fetch blobs from, besides the data endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlobHosts {
    /// These hosts.
    Listed(Vec<Name>),
    /// Any host that the registry redirects to.
    Announced,
}

/// `[mirror]` of a registry file, as written.
#[derive(Debug, Clone)]
pub struct MirrorSpec {
    /// The place of the table.
    pub place: Location,
    /// Further names that clients can use, besides the login server.
    pub names: Vec<Located<String>>,
    /// The place of `default = true`.
    pub default: Option<Location>,
    /// The rules for requests.
    pub rules: RequestRules,
    /// Where blobs are fetched from.
    pub blobs: Blobs,
    /// The credentials of the gate.
    pub credentials: Option<RegistryCredentials>,
}

/// A registry that the mirror offers. Reaching its hosts requires an allowed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The first is its login server.
    names: Vec<(RegistryName, Location)>,
    default: Option<Location>,
    rules: RequestRules,
    blobs: Blobs,
    credentials: Option<RegistryCredentials>,
    pub(super) endpoints: Vec<Endpoint>,
}

impl Mirror {
    /// Judges the table. `endpoints`: those of the registry, the login server first.
    ///
    /// # Errors
    /// All errors.
    pub(super) fn new(spec: &MirrorSpec, endpoints: &[Endpoint]) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut names: Vec<(RegistryName, Location)> = Vec::new();
        if let Some(login) = endpoints.first() {
            let text = match login.target.port {
                // Image references name a single label with its port; without, it is a repository.
                HTTPS if !login.target.name.is_single_label() => {
                    login.target.name.as_str().to_owned()
                }
                _ => login.target.to_string(),
            };
            names.extend(RegistryName::parse(&text).map(|name| (name, login.place.clone())));
        }
        for written in &spec.names {
            match RegistryName::parse(&written.value) {
                Some(name) if names.iter().any(|(one, _)| *one == name) => faults.push(Fault {
                    place: written.place.clone(),
                    what: format!("{name} is already a name of this registry"),
                    remedy: "remove it".into(),
                }),
                Some(name) => names.push((name, written.place.clone())),
                None => faults.push(Fault {
                    place: written.place.clone(),
                    what: format!("{:?} is not a registry's name", written.value),
                    remedy: "write a host as image references do, such as \"docker.io\"".into(),
                }),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self {
            names,
            default: spec.default.clone(),
            rules: spec.rules.clone(),
            blobs: spec.blobs.clone(),
            credentials: spec.credentials.clone(),
            endpoints: endpoints.to_vec(),
        })
    }

    /// Returns the names of the registry, its login server first.
    pub fn names(&self) -> impl Iterator<Item = &RegistryName> {
        self.names.iter().map(|(name, _)| name)
    }

    /// Returns whether it serves requests that name no registry.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.default.is_some()
    }

    /// Returns the rules for requests.
    #[must_use]
    pub fn rules(&self) -> &RequestRules {
        &self.rules
    }

    /// Returns where blobs are fetched from.
    #[must_use]
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Returns the credentials of the gate; `None` if it has none.
    #[must_use]
    pub fn credentials(&self) -> Option<&RegistryCredentials> {
        self.credentials.as_ref()
    }
}

/// Parses a host that blobs can be fetched from.
///
/// # Errors
/// What is wrong with it, and the remedy.
pub fn parse_blob_host(text: &str) -> Result<Name, (String, &'static str)> {
    match parse_host(text) {
        Ok(Target { name, port: HTTPS }) => Ok(name),
        Ok(_) => Err(("blobs are fetched on port 443 only".into(), "write the host alone")),
        Err(fault) => Err((fault.to_string(), fault.remedy())),
    }
}

/// The registries of the mirror, by name.
#[derive(Debug, Default)]
pub(super) struct MirrorNames {
    names: HashMap<RegistryName, usize>,
    default: Option<usize>,
}

impl MirrorNames {
    /// Collects the names. `mirrors`: those of all registries, in order.
    ///
    /// # Errors
    /// Each name that two registries have, and a second default.
    pub(super) fn new<'a>(
        mirrors: impl Iterator<Item = Option<&'a Mirror>>,
    ) -> Result<Self, Vec<Fault>> {
        let mut found = Self::default();
        let mut places: HashMap<&RegistryName, &Location> = HashMap::new();
        let mut default: Option<&Location> = None;
        let mut faults = Vec::new();
        for (at, mirror) in mirrors.enumerate() {
            let Some(mirror) = mirror else { continue };
            for (name, place) in &mirror.names {
                match places.insert(name, place) {
                    Some(first) => faults.push(Fault {
                        place: place.clone(),
                        what: format!("{name} is also a name of another registry ({first})"),
                        remedy: "keep it in one of the two".into(),
                    }),
                    None => drop(found.names.insert(name.clone(), at)),
                }
            }
            match (&mirror.default, default) {
                (Some(place), Some(first)) => faults.push(Fault {
                    place: place.clone(),
                    what: format!("another registry is the default already ({first})"),
                    remedy: "keep default = true in one of the two".into(),
                }),
                (Some(place), None) => {
                    default = Some(place);
                    found.default = Some(at);
                }
                (None, _) => {}
            }
        }
        if faults.is_empty() { Ok(found) } else { Err(faults) }
    }

    /// Returns the registry that a client requests; `None` if there is none.
    pub(super) fn find(&self, name: Option<&RegistryName>) -> Option<usize> {
        match name {
            Some(name) => self.names.get(name).copied(),
            None => self.default,
        }
    }
}
