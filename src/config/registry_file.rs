//! `registries.d/*.toml`: one registry a file.

use std::sync::Arc;

use super::source::{OneOrMany, Source, Table};
use crate::policy::{DataSpec, PrivateOnly, RegistrySpec};

/// What stands for a data endpoint in each of the cloud's regions.
const EVERY_REGION: &str = "every-region";

/// Reads a registry's file; nothing where its login server is missing.
pub(super) fn read(source: &Source<'_>, name: Arc<str>) -> Option<RegistrySpec> {
    let table = source.toml();
    let mut file = Table::new(source, table.get_ref(), "");
    let login = file.string("login-server");
    let data = match file.string_or_strings("data-endpoints") {
        Some(OneOrMany::One(word)) if word.value == EVERY_REGION => {
            DataSpec::EveryRegion(word.place)
        }
        Some(OneOrMany::One(word)) => {
            source.fault(
                word.place,
                format!("data-endpoints is {:?}", word.value),
                "write a list of hosts, or \"every-region\"",
            );
            DataSpec::Listed(Vec::new())
        }
        Some(OneOrMany::Many(hosts)) => DataSpec::Listed(hosts),
        None => DataSpec::Listed(Vec::new()),
    };
    let regional = file.strings("regional-endpoints");
    let private_addresses = file.strings("private-addresses");
    let private_only = match file.boolean("private-only") {
        Some(found) if found.value => PrivateOnly::Yes,
        _ => PrivateOnly::No,
    };
    let also = file.strings("also");
    let accept_shared_storage = file.strings("accept-shared-storage");
    if private_only == PrivateOnly::Yes && private_addresses.is_empty() {
        source.fault(
            file.place_of("private-only").unwrap_or_else(|| source.whole()),
            "private-only without private-addresses leaves no address to dial",
            "list the ranges of the private endpoints in private-addresses",
        );
    }
    file.finish();
    if login.is_none() {
        source.fault(
            source.whole(),
            "there is no login-server",
            "write login-server = \"contoso.azurecr.io\"",
        );
    }
    Some(RegistrySpec {
        name,
        login: login?,
        data,
        regional,
        also,
        private_addresses,
        private_only,
        accept_shared_storage,
    })
}
