//! `registries.d/*.toml`: one registry per file.

use std::sync::Arc;

use super::clients;
use super::inspect;
use super::mirror;
use super::parents;
use super::preset_keys::{OwnHosts, PresetKeys};
use super::presets::Catalog;
use super::referenced_files::ReferencedFile;
use super::source::Source;
use super::table::{OneOrMany, Table};
use super::uploads::Uploads;
use super::values::{DOWNLOAD, RegistryDefaults};
use crate::policy::{DataSpec, Located, Origin, PresetInUse, PrivateOnly, RegistrySpec};

/// The value that stands for the data endpoints of all regions of the cloud.
const EVERY_REGION: &str = "every-region";

/// Parses a registry file; `None` if it is too malformed to be judged.
///
/// `inherited`: the defaults of the main file. `files`: the content of the files that registry
/// files name.
pub(super) fn read(
    source: &Source<'_>,
    name: Arc<str>,
    inherited: &RegistryDefaults,
    files: &[ReferencedFile],
) -> Option<RegistrySpec> {
    let toml = source.toml();
    let mut file = Table::of_file(source, &toml);
    let preset = PresetKeys::read(&mut file);
    let login = file.string("login-server");
    let azure_login = file.string("azure-login-server");
    let login_is_absent = !file.has("login-server");
    let data = file.string_or_strings("data-endpoints");
    let data = data.map_or(DataSpec::Listed(Vec::new()), |data| data_endpoints(source, data));
    let regional = file.strings("regional-endpoints");
    let private_addresses = file.strings("private-addresses");
    let private_only = file.boolean("private-only").filter(|found| found.value);
    let also = file.strings("also");
    let accept_shared_storage = file.strings("accept-shared-storage");
    let accept_single_label = file.strings("accept-single-label");
    let says_clients = file.has("clients");
    let clientele = clients::clientele(source, &mut file);
    let clientele = clientele.unwrap_or_else(|| inherited.clientele.clone());
    let download = file.number("download-bytes-per-second", DOWNLOAD).or(inherited.download);
    let parent = parents::choice(&mut file);
    let connected = file.boolean("connected-registry").is_some_and(|found| found.value);
    let budgets = Uploads::read(&mut file).budgets(&inherited.uploads, connected);
    judge_private_only(source, &file, private_only.as_ref(), &private_addresses);
    let tunnel = mirror::tunnel(source, &mut file);
    let ca_is_used = file.has("mirror") || file.has("inspect") || inherited.verify_upstream;
    let ca = mirror::ca(source, &mut file, files, ca_is_used);
    let mirror = mirror::read(source, &mut file, files, says_clients);
    let inspect = inspect::read(source, &mut file, tunnel);
    file.finish();
    let is_of_preset = preset.are_used();
    let mut hosts = Hosts { login, data, regional, also };
    let preset = hosts.expand(source, preset, &accept_shared_storage, inherited);
    let Hosts { login, data, regional, also } = hosts;
    let is_missing = login_is_absent && !is_of_preset && source.is_well_formed();
    let judged = login.is_some() || is_missing;
    judged.then(|| RegistrySpec {
        name,
        file: source.file().clone(),
        origin: Origin::Operator,
        login,
        azure_login,
        data,
        regional,
        also,
        private_addresses,
        private_only: private_only.map_or(PrivateOnly::No, |_| PrivateOnly::Yes),
        accept_shared_storage,
        accept_single_label,
        budgets,
        clientele,
        download_bytes_per_second: download,
        tunnel,
        mirror,
        inspect,
        ca,
        preset,
        parent,
    })
}

/// The hosts of a registry.
struct Hosts {
    login: Option<Located<String>>,
    data: DataSpec,
    regional: Vec<Located<String>>,
    also: Vec<Located<String>>,
}

impl Hosts {
    /// Adds the hosts of a preset, if the file uses one.
    fn expand(
        &mut self,
        source: &Source<'_>,
        preset: PresetKeys,
        accepted: &[Located<String>],
        inherited: &RegistryDefaults,
    ) -> Option<PresetInUse> {
        let Self { login, data, regional, also } = self;
        let listed = login.iter().chain(data.listed()).chain(&*regional).chain(&*also);
        let own = OwnHosts { listed: listed.collect(), login: login.as_ref(), accepted };
        let catalog = inherited.presets.get_or_init(Catalog::built_in);
        let expanded = preset.expand(source, catalog, &own)?;
        *login = login.take().or(expanded.login);
        data.listed_mut().extend(expanded.data);
        also.extend(expanded.also);
        Some(expanded.in_use)
    }
}

/// Reports `private-only` without any private address.
fn judge_private_only(
    source: &Source<'_>,
    file: &Table<'_>,
    private_only: Option<&Located<bool>>,
    private_addresses: &[Located<String>],
) {
    if let Some(Located { place, .. }) = private_only
        && private_addresses.is_empty()
        && !file.has("private-addresses")
    {
        let what = "private-only without private-addresses leaves no address to dial";
        let remedy = "list the ranges of the private endpoints in private-addresses";
        source.missing(place, what, remedy);
    }
}

fn data_endpoints(source: &Source<'_>, written: OneOrMany) -> DataSpec {
    let mut hosts = match written {
        OneOrMany::Many(hosts) => hosts,
        OneOrMany::One(word) if word.value == EVERY_REGION => vec![word],
        OneOrMany::One(other) => {
            let what = format!("data-endpoints is {:?}", other.value);
            source.fault(other.place, what, "write a list of hosts, or \"every-region\"");
            Vec::new()
        }
    };
    match hosts.iter().position(|host| host.value == EVERY_REGION) {
        Some(at) => DataSpec::EveryRegion { place: hosts.remove(at).place, further: hosts },
        None => DataSpec::Listed(hosts),
    }
}
