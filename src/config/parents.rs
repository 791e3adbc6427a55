//! `[[parent]]`: the proxies through which registries are reached, and what is made of their files.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};

use super::referenced_files::{Readers, ReferencedFile, find};
use super::source::Source;
use super::table::Table;
use super::tls::Maker;
use super::values::{PLAIN_NAME, beside, is_plain_name};
use crate::policy::{
    ConnectBy, Fault, Located, Location, NO_LABEL, NO_PARENT, OTHER_LABEL, Parent, ParentAddress,
    ParentChoice, ParentCredentials, ParentHost, ParentTls, never_a_parent,
};

/// Each has a metric series and a health record of its own.
const MOST: usize = 100;

/// At most this many addresses of one parent are tried in turn.
const MOST_ADDRESSES: usize = 16;

/// The longest user and password together, in bytes.
const LONGEST_CREDENTIALS: usize = 1024;

const WRITE_CONNECT: &str = "write connect = \"address\" (the gate chooses the registry's address) \
                             or connect = \"name\" (the parent does)";
const WRITE_ADDRESSES: &str = "write addresses = [\"proxy.corp.example:8080\"]";

/// A `[[parent]]` as it is written; its files are not read yet.
#[derive(Debug)]
pub(super) struct ParentSpec {
    name: Arc<str>,
    place: Location,
    addresses: Vec<ParentAddress>,
    connect: ConnectBy,
    credentials: Option<CredentialsSource>,
    tls: Option<Located<ParentTlsSpec>>,
    proxy_protocol: bool,
}

/// Where the credentials come from.
#[derive(Debug)]
enum CredentialsSource {
    File(Located<PathBuf>),
    Command(Vec<String>),
}

/// `tls` of a parent.
#[derive(Debug)]
struct ParentTlsSpec {
    authorities: PathBuf,
    own: Option<(PathBuf, PathBuf)>,
    server_name: Option<ServerName<'static>>,
}

impl ParentSpec {
    /// The files that it names.
    pub(super) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        let credentials = match &self.credentials {
            Some(CredentialsSource::File(file)) => Some(&file.value),
            Some(CredentialsSource::Command(_)) | None => None,
        };
        let tls = self.tls.iter().flat_map(|tls| {
            let own = tls.value.own.iter().flat_map(|(certificate, key)| [certificate, key]);
            own.chain([&tls.value.authorities])
        });
        credentials.into_iter().chain(tls)
    }

    /// The program that prints its credentials.
    pub(super) fn program(&self) -> Option<PathBuf> {
        match &self.credentials {
            Some(CredentialsSource::Command(command)) => command.first().map(PathBuf::from),
            Some(CredentialsSource::File(_)) | None => None,
        }
    }
}

/// Reads `parent` of `[policy]` or of a registry's file.
pub(super) fn choice(table: &mut Table<'_>) -> ParentChoice {
    match table.string("parent") {
        None => ParentChoice::Inherited,
        Some(written) if written.value == NO_PARENT => ParentChoice::Direct,
        Some(written) => ParentChoice::Named(written),
    }
}

/// Reads every `[[parent]]`. One that has a fault is returned as far as it is known, so that a
/// registry that names it is not reported as well.
pub(super) fn read(source: &Source<'_>, file: &mut Table<'_>) -> Vec<ParentSpec> {
    let tables = file.tables("parent", "[[parent]]");
    if let Some(beyond) = tables.get(MOST) {
        let what = format!("there are {} [[parent]] tables; at most {MOST} work", tables.len());
        source.fault(beyond.place().clone(), what, "remove those that no registry uses");
    }
    tables.into_iter().filter_map(|table| parent(source, table)).collect()
}

fn parent(source: &Source<'_>, mut table: Table<'_>) -> Option<ParentSpec> {
    let place = table.place().clone();
    let name = name(source, &mut table);
    let addresses = addresses(source, &mut table);
    let connect = connect(source, &mut table);
    let credentials = credentials(source, &mut table);
    let tls = table.table("tls", "tls").and_then(|tls| self::tls(source, tls));
    let proxy_protocol = table.boolean("proxy-protocol").is_some_and(|found| found.value);
    table.finish();
    if let Some(tls) = &tls {
        source.warn(
            tls.place.clone(),
            "tunnels through a parent with tls are copied, not spliced: each byte costs more \
             processor time",
            "leave tls out if the network between the gate and the parent is trusted",
        );
    }
    Some(ParentSpec {
        name: name?.into(),
        place,
        addresses,
        connect,
        credentials,
        tls,
        proxy_protocol,
    })
}

fn name(source: &Source<'_>, table: &mut Table<'_>) -> Option<String> {
    let Some(written) = table.string("name") else {
        if !table.has("name") {
            source.missing(table.place(), "a [[parent]] has no name", "write name = \"corp\"");
        }
        return None;
    };
    if !is_plain_name(&written.value) {
        let what = format!("the name {:?} cannot be a parent's name", written.value);
        source.fault(written.place, what, PLAIN_NAME);
    } else if [NO_PARENT, NO_LABEL, OTHER_LABEL].contains(&&*written.value) {
        let what =
            format!("a parent cannot have the name {:?}: it has another meaning", written.value);
        source.fault(written.place, what, "choose another name");
    }
    Some(written.value)
}

fn addresses(source: &Source<'_>, table: &mut Table<'_>) -> Vec<ParentAddress> {
    let is_named = table.has("addresses");
    let written = table.strings("addresses");
    if !is_named || table.is_empty_list("addresses") {
        let what = "a [[parent]] has no address";
        source.missing(table.place(), what, WRITE_ADDRESSES);
    }
    if let Some(beyond) = written.get(MOST_ADDRESSES) {
        let what = format!("there are {} addresses; at most {MOST_ADDRESSES} work", written.len());
        source.fault(beyond.place.clone(), what, "name a few proxies that are near");
    }
    let mut seen = HashSet::new();
    let mut found = Vec::with_capacity(written.len());
    for Located { value, place } in written {
        let address = match ParentAddress::parse(&value) {
            Ok(address) => address,
            Err(why) => {
                let what = format!("{value:?} is not the address of a proxy: {why}");
                let remedy = "write it as \"proxy.corp.example:8080\" (the name in full), \
                              \"10.0.0.8:8080\" or \"[fd00::8]:8080\"";
                source.fault(place, what, remedy);
                continue;
            }
        };
        if let ParentHost::Ip(ip) = address.host()
            && let Some(why) = never_a_parent(*ip)
        {
            let what = format!("{ip} is {why}, which is never dialled");
            source.fault(place, what, "name the address of a proxy");
            continue;
        }
        if !seen.insert(address.text().clone()) {
            source.fault(place, format!("{address} is listed twice"), "keep one");
            continue;
        }
        found.push(address);
    }
    found
}

fn connect(source: &Source<'_>, table: &mut Table<'_>) -> ConnectBy {
    let Some(written) = table.string("connect") else {
        if !table.has("connect") {
            source.missing(table.place(), "a [[parent]] has no connect", WRITE_CONNECT);
        }
        return ConnectBy::Address;
    };
    match written.value.as_str() {
        "address" => {}
        "name" => {
            let what = "with connect = \"name\" the parent looks the registry up and chooses its \
                        address: the gate's rules for addresses do not apply";
            let remedy = "write connect = \"address\" if the parent allows CONNECT to addresses";
            source.warn(written.place, what, remedy);
            return ConnectBy::Name;
        }
        other => {
            let what = format!("connect {other:?} is unknown");
            source.fault(written.place, what, WRITE_CONNECT);
        }
    }
    ConnectBy::Address
}

fn credentials(source: &Source<'_>, table: &mut Table<'_>) -> Option<CredentialsSource> {
    let file = table.string("credentials-file");
    let has_command = table.has("credentials-command");
    let command = table.strings("credentials-command");
    let Some(first) = command.first().cloned() else {
        if has_command && table.is_empty_list("credentials-command") {
            let what = "credentials-command is empty";
            source.fault(table.place().clone(), what, "write the path of a program, or remove it");
        }
        let value = |path: &str| beside(source, path);
        return file.map(|file| {
            CredentialsSource::File(Located { value: value(&file.value), place: file.place })
        });
    };
    if let Some(file) = file {
        let what = "credentials-file and credentials-command exclude each other";
        source.fault(file.place, what, "keep one");
    }
    if !Path::new(&first.value).is_absolute() {
        let what =
            format!("credentials-command begins with {:?}, not an absolute path", first.value);
        source.fault(first.place, what, "write the program's path from / on; no shell is used");
    }
    for argument in command.iter().filter(|argument| argument.value.contains('\0')) {
        let what = "an argument of credentials-command has a NUL character";
        source.fault(argument.place.clone(), what, "remove the character");
    }
    Some(CredentialsSource::Command(command.into_iter().map(|one| one.value).collect()))
}

fn tls(source: &Source<'_>, mut table: Table<'_>) -> Option<Located<ParentTlsSpec>> {
    let place = table.place().clone();
    let authorities = table.string("ca");
    if authorities.is_none() && !table.has("ca") {
        let remedy = "write tls = { ca = \"corp-ca.pem\" }";
        source.missing(&place, "tls of a [[parent]] has no ca", remedy);
    }
    let (certificate, key) = (table.string("certificate"), table.string("key"));
    let server_name = table.string("server-name");
    table.finish();
    let own = match (certificate, key) {
        (Some(certificate), Some(key)) => {
            Some((beside(source, &certificate.value), beside(source, &key.value)))
        }
        (None, None) => None,
        (Some(one), None) | (None, Some(one)) => {
            let what = "certificate and key of a parent's tls are required together";
            source.fault(one.place, what, "write both, or neither");
            None
        }
    };
    let server_name = server_name.and_then(|written| {
        let parsed = ServerName::try_from(written.value.clone());
        if parsed.is_err() {
            let what = format!("server-name {:?} is not a host name or an address", written.value);
            source.fault(written.place, what, "write the name in the parent's certificate");
        }
        parsed.ok()
    });
    let authorities = beside(source, &authorities?.value);
    Some(Located { value: ParentTlsSpec { authorities, own, server_name }, place })
}

/// Makes the parents of what the files hold.
pub(super) fn make(
    specs: &[ParentSpec],
    files: &[ReferencedFile],
    faults: &mut Vec<Fault>,
) -> Vec<Arc<Parent>> {
    let make = |spec: &ParentSpec| {
        let mut fault = |fault| faults.push(fault);
        let credentials = spec.credentials.as_ref().and_then(|source| match source {
            CredentialsSource::Command(command) => {
                Some(ParentCredentials::Command(command.clone()))
            }
            CredentialsSource::File(file) => {
                basic(file, files).map(ParentCredentials::Value).map_err(&mut fault).ok()
            }
        });
        let tls = spec.tls.as_ref().and_then(|tls| {
            let maker = Maker { files, place: &tls.place };
            client_config(&maker, &tls.value).map_err(&mut fault).ok()
        });
        Arc::new(Parent {
            name: spec.name.clone(),
            place: spec.place.clone(),
            addresses: spec.addresses.clone(),
            connect: spec.connect,
            credentials,
            tls,
            proxy_protocol: spec.proxy_protocol,
        })
    };
    specs.iter().map(make).collect()
}

/// The value of `Proxy-Authorization` that a file of `user:password` makes (RFC 7617). What is wrong
/// with its content is not quoted: it is secret.
fn basic(file: &Located<PathBuf>, files: &[ReferencedFile]) -> Result<String, Fault> {
    let maker = Maker { files, place: &file.place };
    let path = &file.value;
    let content = maker.content(path)?;
    if find(files, path).is_some_and(|found| found.readers == Readers::Everybody) {
        let what = format!("{}: every user of this machine can read the password", path.display());
        let remedy = format!("chown root:pullgate {0} && chmod 640 {0}", path.display());
        return Err(Fault { place: file.place.clone(), what, remedy });
    }
    let bytes = content.expose();
    let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let has_user = line.iter().position(|byte| *byte == b':').is_some_and(|at| at > 0);
    let is_one_line = !line.iter().any(u8::is_ascii_control);
    if !has_user || !is_one_line || line.len() > LONGEST_CREDENTIALS {
        let what = "it does not hold one line user:password";
        return Err(maker.bad(path, what, "write one line, the user, a colon and the password"));
    }
    Ok(format!("Basic {}", STANDARD.encode(line)))
}

fn client_config(maker: &Maker<'_>, spec: &ParentTlsSpec) -> Result<ParentTls, Fault> {
    const AUTHORITIES: &str = "write the certificates of the parent's authorities as PEM";
    const OWN: &str = "write certificate and key as PEM, the key without a passphrase";
    let mut roots = RootCertStore::empty();
    for authority in
        maker.all::<CertificateDer<'static>>(&spec.authorities, "certificate", AUTHORITIES)?
    {
        roots
            .add(authority)
            .map_err(|error| maker.bad(&spec.authorities, &error.to_string(), AUTHORITIES))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| maker.bad(&spec.authorities, &error.to_string(), AUTHORITIES))?
        .with_root_certificates(roots);
    let mut client = match &spec.own {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = maker.all::<CertificateDer<'static>>(certificate, "certificate", OWN)?;
            let parsed = PrivateKeyDer::from_pem_slice(maker.content(key)?.expose());
            let parsed = parsed.map_err(|_| maker.bad(key, "it holds no private key", OWN))?;
            builder
                .with_client_auth_cert(chain, parsed)
                .map_err(|error| maker.bad(certificate, &error.to_string(), OWN))?
        }
    };
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(ParentTls { client: Arc::new(client), server_name: spec.server_name.clone() })
}
