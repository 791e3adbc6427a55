//! `[[client]]`, and the `clients` keys of `[policy]` and of registry files.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::source::Source;
use super::table::{OneOrMany, Table};
use super::tls::TlsPaths;
use super::values::{DOWNLOAD, PLAIN_NAME, SESSIONS, is_plain_name, new_sessions};
use crate::policy::{
    CertificateName, Client, ClientLimits, Clientele, Located, NO_LABEL, Registry, parse_range,
};

/// Maximum number of groups. Each has its own metric series.
const MOST: usize = 1_000;

/// The value that admits all clients, also those without a group.
const EVERYONE: &str = "everyone";

/// From the size of one pull to one pebibyte.
const UPLOAD: RangeInclusive<u64> = 64 * 1024..=1 << 50;

/// `tls`: the TLS settings of the listeners, some of which may request certificates. `asked`:
/// collects the users that the groups name.
pub(super) fn read(
    source: &Source<'_>,
    file: &mut Table<'_>,
    tls: &[Located<TlsPaths>],
    asked: &mut Vec<Located<String>>,
) -> Vec<Arc<Client>> {
    let tables = file.tables("client", "[[client]]");
    if let Some(beyond) = tables.get(MOST) {
        let what = format!("there are {} [[client]]s, and {MOST} are the most", tables.len());
        source.fault(beyond.place().clone(), what, "put those with the same rights together");
    }
    let clients: Vec<Client> =
        tables.into_iter().filter_map(|table| client(source, table, asked)).collect();
    let asked_for = tls.iter().any(|tls| tls.value.clients.is_some());
    for client in clients.iter().filter(|one| !asked_for && !one.certificate_names.is_empty()) {
        let what = "no listener requests client certificates, so they cannot match";
        source.warn(client.place.clone(), what, "add client-ca to the tls of a [[listen]]");
    }
    clients.into_iter().map(Arc::new).collect()
}

/// `asked`: collects the users that the group names.
fn client(
    source: &Source<'_>,
    mut table: Table<'_>,
    asked: &mut Vec<Located<String>>,
) -> Option<Client> {
    let name = table.string("name");
    if name.is_none() && !table.has("name") {
        source.missing(table.place(), "a [[client]] has no name", "write name = \"build-agents\"");
    }
    let written = table.strings("networks");
    let certificate_names = certificate_names(source, &mut table);
    let users = table.strings("users");
    let kinds = ["networks", "certificate-names", "users"];
    if !kinds.iter().any(|kind| table.has(kind)) {
        let what = "a [[client]] has no criteria";
        source.missing(
            table.place(),
            what,
            "write networks, certificate-names or users, or several of them",
        );
    }
    for kind in kinds {
        if table.is_empty_list(kind) {
            let what = format!("{kind} is empty, so no client matches");
            source.missing(table.place(), what, "fill it, or remove it");
        }
    }
    let networks = written.iter().filter_map(|written| {
        let network = parse_range(&written.value);
        if network.is_none() {
            let what = format!("{:?} is not an address range", written.value);
            let remedy = "write it as 10.1.0.0/24, fd00:1::/64 or a single address";
            source.fault(written.place.clone(), what, remedy);
        }
        network
    });
    let networks = networks.collect();
    let open_sessions = table.number("open-sessions", SESSIONS);
    let limits = ClientLimits {
        open_sessions: open_sessions.and_then(|number| usize::try_from(number).ok()),
        new_sessions_per_second: new_sessions(&mut table, "new-sessions-per-second"),
        upload_bytes_per_hour: table.number("upload-bytes-per-hour", UPLOAD),
        download_bytes_per_second: table.number("download-bytes-per-second", DOWNLOAD),
    };
    let place = table.place().clone();
    table.finish();
    let Located { value: name, place: at } = name?;
    if !is_plain_name(&name) {
        source.fault(at, format!("{name:?} cannot be a client's name"), PLAIN_NAME);
        return None;
    }
    if [EVERYONE, NO_LABEL].contains(&name.as_str()) {
        let what = format!("{name:?} is reserved");
        source.fault(at, what, "choose another name");
        return None;
    }
    asked.extend(users.iter().cloned());
    let users = users.into_iter().map(|user| user.value.into()).collect();
    Some(Client { name: name.into(), place, networks, certificate_names, users, limits })
}

fn certificate_names(source: &Source<'_>, table: &mut Table<'_>) -> Vec<CertificateName> {
    let written = table.strings("certificate-names");
    let name = |written: &Located<String>| match CertificateName::parse(&written.value) {
        Ok(name) => Some(name),
        Err(fault) => {
            let what = format!("{:?}: {fault}", written.value);
            let remedy = "write it as agent-1.contoso.com or spiffe://contoso.com/agent-1";
            source.fault(written.place.clone(), what, remedy);
            None
        }
    };
    written.iter().filter_map(name).collect()
}

/// Returns the clients of a registry, if the file has the key.
pub(super) fn clientele(source: &Source<'_>, table: &mut Table<'_>) -> Option<Clientele> {
    Some(match table.string_or_strings("clients")? {
        OneOrMany::Many(names) => Clientele::Named(names),
        OneOrMany::One(word) if word.value == EVERYONE => Clientele::Everyone,
        OneOrMany::One(Located { value, place }) => {
            let what = format!("clients is {value:?}");
            source.fault(place, what, "write a list of names, or \"everyone\"");
            Clientele::Named(Vec::new())
        }
    })
}

/// Warns about a registry that no client can use, because its file names none.
pub(super) fn warn_about_unusable_registry(
    source: &Source<'_>,
    clients: &[Arc<Client>],
    registry: &Registry,
) {
    let (what, remedy) = match registry.clientele() {
        Clientele::Unsaid if !clients.is_empty() => (
            "[[client]]s are configured but this registry names none, so no client can use it",
            "add clients to it, or to [policy] as the default",
        ),
        Clientele::Named(names) if names.is_empty() => (
            "clients is empty, so no client can use the registry",
            "name one, or write \"everyone\"",
        ),
        Clientele::Unsaid | Clientele::Everyone | Clientele::Named(_) => return,
    };
    source.warn(source.whole(), what, remedy);
}
