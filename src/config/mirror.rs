//! The keys `[mirror]`, `ca` and `tunnel` of a registry file, and the files that they name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::referenced_files::{self, Readers, ReferencedFile, Secret};
use super::source::Source;
use super::table::{OneOrMany, Table};
use super::values::beside;
use crate::oci::{Listing, RepositoryGlobs, RequestRules, TagGlobs};
use crate::policy::{
    BlobHosts, Blobs, Located, MirrorSpec, RegistryCredentials, TunnelHosts, parse_blob_host,
};

/// The value that allows any host that the registry redirects to.
const ANNOUNCED: &str = "announced";

/// Maximum length of credentials, in bytes.
const LONGEST_CREDENTIALS: usize = 16 * 1024;

/// Returns the files that a registry file names, so that they can be read. An invalid file names
/// none; compiling it reports its errors.
#[must_use]
pub fn paths_of(path: &str, text: &str) -> Vec<PathBuf> {
    // Parsing 100,000 files twice would be slow, and most name no file.
    let json = Path::new(path).extension().is_some_and(|kind| kind == "json");
    let names_ca = |line: &str| {
        line.trim_start().strip_prefix("ca").is_some_and(|rest| rest.starts_with([' ', '\t', '=']))
    };
    if json || !(text.contains("credentials-file") || text.lines().any(names_ca)) {
        return Vec::new();
    }
    let source = Source::new(&path.into(), text);
    let toml = source.toml();
    let mut table = Table::of_file(&source, &toml);
    let mut paths: Vec<PathBuf> = Vec::new();
    paths.extend(table.string("ca").map(|path| beside(&source, &path.value)));
    if let Some(mut mirror) = table.table("mirror", "[mirror]") {
        let path = mirror.string("credentials-file");
        paths.extend(path.map(|path| beside(&source, &path.value)));
    }
    paths
}

/// Parses `tunnel`.
pub(super) fn tunnel(source: &Source<'_>, file: &mut Table<'_>) -> TunnelHosts {
    let Some(written) = file.string("tunnel") else { return TunnelHosts::default() };
    match written.value.as_str() {
        "all" => TunnelHosts::All,
        "data" => TunnelHosts::Data,
        "none" => TunnelHosts::None,
        other => {
            let what = format!("tunnel {other:?} is unknown");
            source.fault(written.place, what, "write \"all\", \"data\" or \"none\"");
            TunnelHosts::None
        }
    }
}

/// Reads `ca`. `is_used`: whether anything makes TLS connections to this registry.
pub(super) fn ca(
    source: &Source<'_>,
    file: &mut Table<'_>,
    files: &[ReferencedFile],
    is_used: bool,
) -> Arc<[CertificateDer<'static>]> {
    let Some(written) = file.string("ca") else { return Arc::default() };
    let ca = authorities(source, &written, files);
    if !is_used {
        let what = "ca has no effect without [mirror], [inspect] or [policy] verify-upstream";
        source.fault(written.place, what, "write one of them, or remove ca");
    }
    ca.into()
}

/// Parses `[mirror]`. `says_clients`: whether the file has the key `clients`.
pub(super) fn read(
    source: &Source<'_>,
    file: &mut Table<'_>,
    files: &[ReferencedFile],
    says_clients: bool,
) -> Option<MirrorSpec> {
    let mut table = file.table("mirror", "[mirror]")?;
    let place = table.place().clone();
    let names = table.strings("names");
    let default = table.boolean("default").filter(|found| found.value).map(|found| found.place);
    let rules = rules(source, &mut table, "repositories");
    let blobs = blobs(source, &mut table);
    let credentials = table.string("credentials-file");
    let credentials = credentials.and_then(|written| credentials_in(source, &written, files));
    table.finish();
    if credentials.is_some() && !says_clients {
        let what = "credentials-file without clients would lend the gate's rights to everyone";
        let remedy = "name the groups in clients, or write clients = \"everyone\"";
        source.fault(place.clone(), what, remedy);
    }
    Some(MirrorSpec { place, names, default, rules, blobs, credentials })
}

/// Parses the rules for requests. `pull`: the key of the repositories that can be pulled.
pub(super) fn rules(
    source: &Source<'_>,
    table: &mut Table<'_>,
    pull: &'static str,
) -> RequestRules {
    let key = pull;
    let pull = repositories(source, table, key);
    if table.is_empty_list(key) {
        let what = format!("{key} is empty, so nothing can be pulled");
        let remedy = "list repositories, or remove the key to allow all of them";
        source.missing(table.place(), what, remedy);
    }
    let tags = table.has("tags").then(|| {
        let mut globs = TagGlobs::default();
        for written in table.strings("tags") {
            if let Err(fault) = globs.add(&written.value) {
                let what = format!("the pattern {:?} {fault}", written.value);
                source.fault(written.place, what, "write it as \"v*\" or \"1.2\"");
            }
        }
        globs
    });
    let listing = match table.boolean("listing") {
        Some(Located { value: true, .. }) => Listing::Allowed,
        Some(_) | None => Listing::Refused,
    };
    RequestRules { pull, tags, listing, ..RequestRules::default() }
}

/// Parses patterns of repositories; `None` if the key is absent.
pub(super) fn repositories(
    source: &Source<'_>,
    table: &mut Table<'_>,
    key: &'static str,
) -> Option<RepositoryGlobs> {
    table.has(key).then(|| {
        let mut globs = RepositoryGlobs::default();
        for written in table.strings(key) {
            if let Err(fault) = globs.add(&written.value) {
                let what = format!("the pattern {:?} {fault}", written.value);
                let remedy = "write it as \"team/**\" or \"base/alpine\"";
                source.fault(written.place, what, remedy);
            }
        }
        globs
    })
}

fn blobs(source: &Source<'_>, table: &mut Table<'_>) -> Blobs {
    let written = table.string("blobs");
    let relays = match written.as_ref().map(|written| written.value.as_str()) {
        None | Some("redirect") => false,
        Some("relay") => true,
        Some(other) => {
            let what = format!("blobs {other:?} is unknown");
            let place = written.as_ref().map_or_else(|| source.whole(), |one| one.place.clone());
            source.fault(place, what, "write \"redirect\" or \"relay\"");
            false
        }
    };
    let hosts = table.string_or_strings("blob-hosts");
    if let (false, Some(hosts)) = (relays, &hosts)
        && let Some(first) = match hosts {
            OneOrMany::One(one) => Some(one),
            OneOrMany::Many(many) => many.first(),
        }
    {
        let what = "blob-hosts has no effect with blobs = \"redirect\"";
        let remedy = "write blobs = \"relay\", or remove blob-hosts";
        source.fault(first.place.clone(), what, remedy);
    }
    if !relays {
        return Blobs::Redirect;
    }
    Blobs::Relay(match hosts {
        None => BlobHosts::Listed(Vec::new()),
        Some(OneOrMany::One(word)) if word.value == ANNOUNCED => BlobHosts::Announced,
        Some(OneOrMany::One(other)) => {
            let what = format!("blob-hosts is {:?}", other.value);
            source.fault(other.place, what, "write a list of hosts, or \"announced\"");
            BlobHosts::Listed(Vec::new())
        }
        Some(OneOrMany::Many(written)) => {
            let mut hosts = Vec::with_capacity(written.len());
            for host in written {
                match parse_blob_host(&host.value) {
                    Ok(name) => hosts.push(name),
                    Err((what, remedy)) => {
                        source.fault(host.place, format!("{:?}: {what}", host.value), remedy);
                    }
                }
            }
            BlobHosts::Listed(hosts)
        }
    })
}

/// Returns the content of a file that a registry file names. Reports an error if it cannot be used.
fn content<'a>(
    source: &Source<'_>,
    written: &Located<String>,
    files: &'a [ReferencedFile],
    remedy: &str,
) -> Option<(&'a ReferencedFile, &'a [u8])> {
    let path = beside(source, &written.value);
    let found = referenced_files::find(files, &path);
    let content = found.map_or(Err("it was not read"), |file| {
        file.content.as_ref().map(Secret::expose).map_err(String::as_str)
    });
    match (found, content) {
        (Some(file), Ok(bytes)) => Some((file, bytes)),
        (_, Err(error)) => {
            let what = format!("{}: it cannot be read: {error}", path.display());
            source.fault(written.place.clone(), what, remedy);
            None
        }
        (None, Ok(_)) => None,
    }
}

fn authorities(
    source: &Source<'_>,
    written: &Located<String>,
    files: &[ReferencedFile],
) -> Vec<CertificateDer<'static>> {
    let remedy = "name a PEM file with the certificates of the authorities";
    let Some((_, bytes)) = content(source, written, files, remedy) else { return Vec::new() };
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let mut roots = rustls::RootCertStore::empty();
    match read {
        Ok(found)
            if !found.is_empty() && found.iter().all(|one| roots.add(one.clone()).is_ok()) =>
        {
            found
        }
        Ok(_) | Err(_) => {
            let what = format!("{:?} holds no certificate, or one that is broken", written.value);
            source.fault(written.place.clone(), what, remedy);
            Vec::new()
        }
    }
}

fn credentials_in(
    source: &Source<'_>,
    written: &Located<String>,
    files: &[ReferencedFile],
) -> Option<RegistryCredentials> {
    let remedy = "write user:password, or a refresh token, into one line";
    let (file, bytes) = content(source, written, files, remedy)?;
    let path = file.path.display();
    if file.readers == Readers::Everybody {
        let what = format!("{path} can be read by every user of this machine");
        source.fault(written.place.clone(), what, format!("chmod o= {path}"));
        return None;
    }
    // The error does not quote the value, which may be secret.
    let fault = |what: &str| {
        source.fault(written.place.clone(), format!("{path}: {what}"), remedy);
        None
    };
    let Ok(text) = std::str::from_utf8(bytes) else { return fault("it is not UTF-8 text") };
    let text = text.trim_matches(['\r', '\n']);
    if text.is_empty() || text.len() > LONGEST_CREDENTIALS {
        return fault("it is empty, or longer than 16 KiB");
    }
    if text.contains(|letter: char| letter.is_ascii_control()) {
        return fault("it has more than one line");
    }
    Some(match text.split_once(':') {
        Some(("", _) | (_, "")) => return fault("the user or the password is empty"),
        Some((user, password)) => {
            RegistryCredentials::Password { user: user.into(), password: password.into() }
        }
        None if text.contains(' ') => return fault("a token has no spaces"),
        None => RegistryCredentials::IdentityToken(text.into()),
    })
}
