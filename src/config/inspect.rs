//! The keys `[inspect]` of the main file and of a registry file.

use std::path::PathBuf;
use std::time::Duration;

use super::mirror;
use super::source::Source;
use super::table::Table;
use super::values::beside;
use crate::oci::{AzureApi, RequestRules};
use crate::policy::{InspectSpec, InspectedHosts, Located, Location, TunnelHosts};

/// Range of `leaf-hours`, and its default.
const LEAF_HOURS: std::ops::RangeInclusive<u64> = 1..=30 * 24;
const DEFAULT_LEAF_HOURS: u64 = 24;

const WRITE_CA: &str = "write ca = { certificate = \"inspect/ca.pem\", key = \"inspect/ca.key\" }";

/// The paths of the authority that signs certificates for inspected tunnels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityPaths {
    /// Its certificate, and older ones that clients still trust.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl AuthorityPaths {
    /// Returns both.
    pub(super) fn paths(&self) -> [&PathBuf; 2] {
        [&self.certificate, &self.key]
    }
}

/// `[inspect]` of the main file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InspectTable {
    pub(super) place: Location,
    pub(super) authority: AuthorityPaths,
    /// How long a leaf certificate is valid.
    pub(super) leaf: Duration,
}

/// Parses `[inspect]` of the main file. Returns whether there is one, and its content if it is valid.
pub(super) fn main_table(
    source: &Source<'_>,
    file: &mut Table<'_>,
) -> (bool, Option<InspectTable>) {
    let table = file.table("inspect", "[inspect]");
    (file.has("inspect"), table.and_then(|table| inspect_table(source, table)))
}

fn inspect_table(source: &Source<'_>, mut table: Table<'_>) -> Option<InspectTable> {
    let place = table.place().clone();
    if !cfg!(feature = "inspect") {
        let what = "[inspect] is not part of this build";
        source.fault(place, what, "use a build with the feature `inspect`");
        return None;
    }
    let ca = table.table("ca", "ca");
    if ca.is_none() && !table.has("ca") {
        source.missing(&place, "[inspect] has no ca", WRITE_CA);
    }
    let hours = table.number("leaf-hours", LEAF_HOURS).unwrap_or(DEFAULT_LEAF_HOURS);
    table.finish();
    let mut ca = ca?;
    let mut path = |key: &'static str| {
        let written = ca.string(key);
        if written.is_none() && !ca.has(key) {
            source.missing(ca.place(), format!("ca has no {key}"), WRITE_CA);
        }
        written.map(|written| beside(source, &written.value))
    };
    let (certificate, key) = (path("certificate"), path("key"));
    ca.finish();
    let authority = AuthorityPaths { certificate: certificate?, key: key? };
    Some(InspectTable { place, authority, leaf: Duration::from_secs(hours * 60 * 60) })
}

/// Parses `[inspect]` of a registry file.
pub(super) fn read(
    source: &Source<'_>,
    file: &mut Table<'_>,
    tunnel: TunnelHosts,
) -> Option<InspectSpec> {
    let mut table = file.table("inspect", "[inspect]")?;
    let place = table.place().clone();
    let hosts = match table.string("hosts") {
        None => InspectedHosts::Login,
        Some(Located { value, place }) => match value.as_str() {
            "login" => InspectedHosts::Login,
            "all" => InspectedHosts::All,
            other => {
                let what = format!("hosts {other:?} is unknown");
                source.fault(place, what, "write \"login\" or \"all\"");
                InspectedHosts::Login
            }
        },
    };
    let rules = mirror::rules(source, &mut table, "pull");
    let push = mirror::repositories(source, &mut table, "push").unwrap_or_default();
    let azure = match table.boolean("acr-api") {
        Some(Located { value: true, .. }) => AzureApi::ReadOnly,
        Some(_) | None => AzureApi::Refused,
    };
    table.finish();
    if tunnel != TunnelHosts::All {
        let what = "[inspect] has no effect: tunnel lets nothing reach the login server";
        source.fault(place.clone(), what, "remove tunnel, or remove [inspect]");
    }
    let rules = RequestRules { push, azure, ..rules };
    Some(InspectSpec { place, hosts, rules })
}
