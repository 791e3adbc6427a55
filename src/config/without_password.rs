//! Finds clients that gain by omitting their password: without it they fall into another group, or
//! into none, whose limits are looser.
//!
//! Registries do not matter: a client that authenticates is a member of the groups without users,
//! too.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;

use crate::policy::{Client, ClientLimits, Clientele, Fault, Registry};

/// Warns about each group whose members escape a limit by omitting their password.
pub(super) fn warnings(clients: &[Arc<Client>], registries: &[Registry]) -> Vec<Fault> {
    let with_users = clients.iter().filter(|client| !client.users.is_empty());
    with_users.flat_map(|group| escapes(group, clients, registries)).collect()
}

/// Returns a warning for each group that the members of `group` can fall into.
fn escapes(group: &Client, clients: &[Arc<Client>], registries: &[Registry]) -> Vec<Fault> {
    // By the name of the other group; `None`: no group.
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for registry in registries {
        let admits = |client: &Client| match registry.clientele() {
            Clientele::Everyone => true,
            Clientele::Named(names) => names.iter().any(|name| *name.value == *client.name),
            Clientele::Unsaid => false,
        };
        if !admits(group) {
            continue;
        }
        // The first group that admits a client counts, so only later ones matter.
        let later = clients.iter().skip_while(|client| client.name != group.name).skip(1);
        let mut others = later.filter(|client| admits(client) && takes_without_user(client, group));
        let other = others.next().map(|client| &**client);
        if other.is_none() && !matches!(registry.clientele(), Clientele::Everyone) {
            continue;
        }
        let limits = other.map_or(ClientLimits::default(), |other| other.limits);
        let name = other.map(|other| other.name.clone());
        let Some(key) = looser(&group.limits, &limits) else { continue };
        if seen.insert(name.clone()) {
            found.push(warning(group, name.as_deref(), key, registry));
        }
    }
    found
}

fn warning(group: &Client, other: Option<&str>, key: &str, registry: &Registry) -> Fault {
    let other = match other {
        Some(other) => format!("counts as {other:?}"),
        None => "counts as no group".to_owned(),
    };
    Fault {
        place: group.place.clone(),
        what: format!(
            "a client of {:?} that leaves out its password {other} at {}, where {key} is not as \
             strict",
            group.name,
            registry.name()
        ),
        remedy: "give every group that these clients can fall into the same limits, and let only \
                 named clients use the registry"
            .into(),
    }
}

/// Returns whether a client of `group` can be a member of `other` without its password.
fn takes_without_user(other: &Client, group: &Client) -> bool {
    let overlap = |a: &IpNet, b: &IpNet| a.contains(b) || b.contains(a);
    let networks = group.networks.is_empty()
        || other.networks.is_empty()
        || group.networks.iter().any(|a| other.networks.iter().any(|b| overlap(a, b)));
    // A certificate entitles a client to the limits of the other group.
    let certificates = other.certificate_names.is_empty()
        || other.certificate_names.iter().any(|name| group.certificate_names.contains(name));
    other.users.is_empty() && networks && certificates
}

/// Returns the key of the first limit that is looser in `other`, if there is one.
fn looser(group: &ClientLimits, other: &ClientLimits) -> Option<&'static str> {
    fn is_looser<T: PartialOrd>(limit: Option<T>, other: Option<T>) -> bool {
        limit.is_some_and(|limit| other.is_none_or(|other| other > limit))
    }
    let keys = [
        (is_looser(group.open_sessions, other.open_sessions), "open-sessions"),
        (
            is_looser(group.new_sessions_per_second, other.new_sessions_per_second),
            "new-sessions-per-second",
        ),
        (
            is_looser(group.upload_bytes_per_hour, other.upload_bytes_per_hour),
            "upload-bytes-per-hour",
        ),
        (
            is_looser(group.download_bytes_per_second, other.download_bytes_per_second),
            "download-bytes-per-second",
        ),
    ];
    keys.into_iter().find(|(is_looser, _)| *is_looser).map(|(_, key)| key)
}
