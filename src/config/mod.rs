//! The operator's files, from text to [`Settings`] and a [`PolicySet`].
//!
//! Pure: whoever calls has read the files. Every fault of every file is found at once, each with
//! its file, its line, what is wrong and what to do about it.

mod azure;
mod clients;
mod main_file;
mod referenced_files;
mod registry_file;
mod source;
mod table;
mod tls;
mod uploads;
mod users;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

pub use azure::{Import, ImportedEndpoints, import};
pub use referenced_files::{Readers, ReferencedFile, Secret};
pub use tls::{ClientPaths, Presence, Tls, TlsOfListeners, TlsPaths};
pub use users::{is_user_name, names as user_names, with_user, without_user};

use crate::policy::{
    Client, Clientele, Endpoint, EndpointKind, Enforcement, Fault, HostKind, Located, Location,
    NO_LABEL, OTHER_LABEL, PolicySet, Registry, Rules, Users,
};
use main_file::Main;
use source::Source;
use uploads::Uploads;

/// A file that was read, or could not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// The path as the operator would write it.
    pub path: Arc<str>,
    /// Its text, or why there is none.
    pub text: Result<String, String>,
}

/// The operator's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// `pullgate.toml`.
    pub main: File,
    /// The registries' files, sorted by name.
    pub registries: Vec<File>,
    /// Further files that the main file names.
    pub further: Vec<ReferencedFile>,
}

/// How clients come to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As to a forward proxy, with CONNECT.
    Connect,
    /// Without knowing: their traffic is brought here, and the hello names the target.
    Transparent(Capture),
}

/// How traffic is brought to a transparent listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capture {
    /// nftables' `redirect` or `dnat`; the kernel keeps the destination that it replaced.
    Redirect,
    /// nftables' `tproxy`; the connection keeps its destination. Listening takes CAP_NET_ADMIN.
    Tproxy,
}

impl Mode {
    /// The word of the configuration.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Transparent(_) => "transparent",
        }
    }
}

/// A `[[listen]]`. The sockets, the sessions and the admin pages share it from the start on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSpec {
    /// How clients reach it.
    pub mode: Mode,
    /// Its address. Port 0 stands for a free port, until the socket is bound.
    pub address: SocketAddr,
    /// The address as text, as audit lines carry it.
    pub name: Arc<str>,
    /// Its own enforcement, which takes precedence over the policy's.
    pub enforcement: Option<Enforcement>,
    /// The networks of load balancers, which must send a PROXY header. `None`: no header is read.
    pub balancers: Option<Vec<IpNet>>,
    /// TLS towards clients; `None`: it speaks none.
    pub tls: Option<TlsPaths>,
}

impl ListenerSpec {
    /// Returns the same listener at another address: the one that its socket has been bound to.
    #[must_use]
    pub fn bound_at(&self, address: SocketAddr) -> Self {
        Self { address, name: address.to_string().into(), ..self.clone() }
    }
}

/// The DNS server for the clients of a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answerer {
    /// Where it is asked, over UDP and TCP; at least one, each a single address and a port.
    pub addresses: Vec<SocketAddr>,
    /// What it says of an allowed name.
    pub answer: Answer,
    /// So many queries of one client are answered in a second.
    pub queries_per_second: u32,
}

/// What an answerer says of an allowed name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The gate's own addresses: clients come to a transparent listener there.
    Gate(Vec<IpAddr>),
    /// Where the name resolves to, as far as it may be dialled.
    Real,
}

/// Where the operator looks in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket, relative to the main file's folder where it is not absolute.
    Unix(PathBuf),
}

/// Where audit lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditTarget {
    /// Standard output.
    StandardOutput,
    /// A file, relative to the main file's folder where it is not absolute.
    File(PathBuf),
    /// The socket of a syslog service.
    Syslog(PathBuf),
    /// The socket of systemd's journal.
    Journal(PathBuf),
}

/// What becomes of new sessions while the audit cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFull {
    /// They are served.
    #[default]
    GoOn,
    /// They are refused.
    Stop,
}

/// Whether a second process may listen at the gate's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ports {
    /// None may.
    #[default]
    Own,
    /// One of the same user may (SO_REUSEPORT), so that it takes over before this one ends.
    Shared,
}

/// Which files the process may reach, beside what their modes allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FileAccess {
    /// Those that it needs (Landlock).
    #[default]
    Needed,
    /// Any.
    All,
}

/// How much of the machine the gate is to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// A thread for each processor.
    #[default]
    Normal,
    /// One thread, few sessions and small pipes: for a gateway with little memory.
    Small,
}

/// `[process]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conduct {
    /// `profile`.
    pub profile: Profile,
    /// `reuse-port`.
    pub ports: Ports,
    /// `landlock`.
    pub files: FileAccess,
    /// Further folders and files that may be read, relative to the main file's folder where they
    /// are not absolute.
    pub readable: Vec<PathBuf>,
}

/// What takes effect at start only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where clients come in; at least one.
    pub listeners: Vec<Arc<ListenerSpec>>,
    /// The DNS server for a gateway's clients, if there is one.
    pub answerer: Option<Answerer>,
    /// Where the operator looks in, if anywhere.
    pub admin: Option<AdminAddress>,
    /// Where audit lines go.
    pub audit: AuditTarget,
    /// What becomes of new sessions while they cannot be written.
    pub on_full: OnFull,
    /// The longest that bytes of a bulk flow wait for more; `None`: not at all.
    pub batch: Option<Duration>,
    /// What concerns the process as a whole.
    pub conduct: Conduct,
}

/// How long bytes of a bulk flow wait for more where `[relay] batch-ms` is silent. With what the
/// runtime's clock adds it stays below 10 ms, the most that a transfer's last byte may be late.
pub const BATCH: Duration = Duration::from_millis(8);

/// A configuration without fault.
#[derive(Debug)]
pub struct Loaded {
    /// What takes effect at start only.
    pub settings: Settings,
    /// What a reload swaps.
    pub policy: PolicySet,
    /// TLS of the listeners, swapped with it.
    pub tls: TlsOfListeners,
    /// What is allowed and probably not meant.
    pub warnings: Vec<Fault>,
}

/// What `[policy]` says of the registries whose own files are silent.
#[derive(Debug, Default)]
struct Inherited {
    uploads: Uploads,
    clientele: Clientele,
    download: Option<u64>,
}

/// What to do about a main file that cannot be read.
const NAME_ANOTHER: &str = "create it, or name another with --config";

/// What the main file names, relative to that file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The folder of the registries' files.
    pub registries: PathBuf,
    /// The users' file, which is among the further ones only if a client names a user.
    pub users: PathBuf,
    /// Further files.
    pub further: Vec<PathBuf>,
    /// Where the admin listener is.
    pub admin: Option<AdminAddress>,
}

/// What the main file names.
///
/// # Errors
/// When the file could not be read. Its other faults are [`compile`]'s.
pub fn named_by(main: &File) -> Result<Named, Vec<Fault>> {
    let text = text_of(main, NAME_ANOTHER).map_err(|fault| vec![fault])?;
    let source = Source::new(&main.path, text);
    let main = main_file::read(&source);
    let mut further: Vec<PathBuf> =
        main.tls.iter().flat_map(|tls| tls.value.paths().cloned()).collect();
    if !main.named_users.is_empty() {
        further.push(main.users_file.clone());
    }
    further.sort();
    further.dedup();
    let registries = main_file::beside(&source, &main.registries.value);
    let admin = main.settings.admin;
    Ok(Named { registries, users: main.users_file, further, admin })
}

/// Every fault of the main file where the folder that it names cannot be read, that one included.
#[must_use]
pub fn faults_without_folder(main: &File, error: &str) -> Vec<Fault> {
    let source = match text_of(main, NAME_ANOTHER) {
        Ok(text) => Source::new(&main.path, text),
        Err(fault) => return vec![fault],
    };
    let Located { value: folder, place } = main_file::read(&source).registries;
    let folder = main_file::beside(&source, &folder);
    let what = format!("the folder {} cannot be read: {error}", folder.display());
    source.missing(&place, what, "create it, or name another in [policy] registries");
    sorted(source.take_faults())
}

/// Compiles the files into what is used.
///
/// # Errors
/// Every fault of every file, by file and line.
pub fn compile(files: &Files, generation: u64) -> Result<Loaded, Vec<Fault>> {
    let mut found = Found::default();
    let main = match text_of(&files.main, NAME_ANOTHER) {
        Ok(text) => main(&Source::new(&files.main.path, text), &files.registries, &mut found),
        Err(fault) => {
            found.faults.push(fault);
            registries(&files.registries, &Inherited::default(), &[], &mut found);
            return Err(sorted(found.faults));
        }
    };
    let (inherited, clients) = (&main.inherited, &main.rules.clients);
    let registries = registries(&files.registries, inherited, clients, &mut found);
    let (tls, faults, warnings) = tls::make(&main.tls, &files.further);
    found.faults.extend(faults);
    found.warnings.extend(warnings);
    let users = users(&main, &files.further, &mut found);
    let rules = Rules { registries, users, ..main.rules };
    match PolicySet::new(generation, rules) {
        Ok(policy) if found.faults.is_empty() => {
            let warnings = sorted(found.warnings);
            Ok(Loaded { settings: main.settings, policy, tls, warnings })
        }
        Ok(_) => Err(sorted(found.faults)),
        Err(among_registries) => {
            found.faults.extend(among_registries);
            Err(sorted(found.faults))
        }
    }
}

/// The users, where a client names one; each that is named must be there.
fn users(main: &Main, files: &[ReferencedFile], found: &mut Found) -> Users {
    let Some(first) = main.named_users.first() else { return Users::default() };
    let path = &main.users_file;
    let before = found.faults.len();
    let told = (&mut found.faults, &mut found.warnings);
    let users = users::read(referenced_files::find(files, path), path, &first.place, told);
    if found.faults.len() == before {
        let strangers = main.named_users.iter().filter(|user| !users.has(&user.value));
        found.faults.extend(strangers.map(|user| Fault {
            place: user.place.clone(),
            what: format!("{:?} is no user in {}", user.value, path.display()),
            remedy: format!("pullgate user add {}", user.value),
        }));
    }
    users
}

/// What was found on the way, file by file.
#[derive(Debug, Default)]
struct Found {
    faults: Vec<Fault>,
    warnings: Vec<Fault>,
}

impl Found {
    fn take(&mut self, source: &Source<'_>) {
        self.faults.extend(source.take_faults());
        self.warnings.extend(source.take_warnings());
    }
}

fn sorted(mut faults: Vec<Fault>) -> Vec<Fault> {
    faults.sort();
    faults.dedup();
    faults
}

fn text_of<'a>(file: &'a File, remedy: &str) -> Result<&'a str, Fault> {
    file.text.as_deref().map_err(|error| Fault {
        place: Location { file: file.path.clone(), line: 0 },
        what: format!("it cannot be read: {error}"),
        remedy: remedy.to_owned(),
    })
}

fn main(source: &Source<'_>, registries: &[File], found: &mut Found) -> Main {
    let main = main_file::read(source);
    match &main.deny_all {
        None if registries.is_empty() && !main.allow_empty => source.missing(
            &main.registries.place,
            format!("the folder {} holds no registry", main.registries.value),
            "put az acr show-endpoints' output into it, or write [policy] allow-empty = true",
        ),
        Some(place) if !registries.is_empty() => source.warn(
            place.clone(),
            "deny-all only says that an empty folder is meant, and the folder has registries",
            "they are allowed; take their files away, or deny-all",
        ),
        None | Some(_) => {}
    }
    found.take(source);
    main
}

fn registries(
    files: &[File],
    inherited: &Inherited,
    clients: &[Arc<Client>],
    found: &mut Found,
) -> Vec<Registry> {
    let mut registries = Vec::with_capacity(files.len());
    let mut stems: HashMap<Arc<str>, &Arc<str>> = HashMap::with_capacity(files.len());
    for file in files {
        let remedy = "make it UTF-8 text that the gate's user may read, or take it away";
        let text = match text_of(file, remedy) {
            Ok(text) => text,
            Err(fault) => {
                found.faults.push(fault);
                continue;
            }
        };
        let source = Source::new(&file.path, text);
        let path = Path::new(&*file.path);
        let stem: Arc<str> =
            path.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default().into();
        if let Some((what, remedy)) = objection_to_stem(&stem) {
            source.fault(source.whole(), what, remedy);
        }
        if let Some(other) = stems.insert(stem.clone(), &file.path) {
            let what = format!("{other} has the same name, and a registry has one file");
            source.fault(source.whole(), what, "rename or remove one of the two");
        }
        let json = path.extension().is_some_and(|kind| kind == "json");
        let spec = match json {
            true => azure::read(&source, stem, inherited),
            false => registry_file::read(&source, stem, inherited),
        };
        match spec.as_ref().map(Registry::new) {
            Some(Ok(registry)) => {
                warn_of_absent_data(&source, &registry);
                clients::warn_of_nobody(&source, clients, &registry);
                registries.push(registry);
            }
            // By way of the source, which keeps silent about lines that are broken already.
            Some(Err(faults)) => faults
                .into_iter()
                .for_each(|Fault { place, what, remedy }| source.fault(place, what, remedy)),
            None => {}
        }
        found.take(&source);
    }
    registries
}

/// What a name that is a metric label and a word in a log may be made of.
const PLAIN_NAME: &str = "use up to 64 letters, digits, dots, dashes and underscores";

fn is_plain_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(plain)
}

/// Why a file's stem cannot be a registry's name.
fn objection_to_stem(stem: &str) -> Option<(String, &'static str)> {
    if !is_plain_name(stem) {
        let what = format!("the file's name {stem:?} cannot be a registry's name");
        return Some((what, PLAIN_NAME));
    }
    let taken = [OTHER_LABEL, NO_LABEL].contains(&stem);
    taken.then(|| (format!("{stem:?} is a metric label with another meaning"), "rename the file"))
}

/// An Azure registry without data endpoints serves its layers from storage accounts.
fn warn_of_absent_data(source: &Source<'_>, registry: &Registry) {
    let endpoints = registry.endpoints();
    let azure = |endpoint: &&Endpoint| {
        endpoint.kind == EndpointKind::Login
            && matches!(HostKind::of(&endpoint.target.name), HostKind::Login { .. })
    };
    let Some(login) = endpoints.iter().find(azure) else { return };
    if !endpoints.iter().any(|endpoint| endpoint.kind == EndpointKind::Data) {
        let what = "without data endpoints its layers come from storage accounts, which are denied";
        source.warn(login.place.clone(), what, "list data-endpoints, or write \"every-region\"");
    }
}
