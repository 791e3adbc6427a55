//! Compiles the text of all files to [`Settings`] and a [`PolicySet`], or returns every error in
//! every file.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::authority::Authority;
use super::inspect::AuthorityPaths;
use super::main_file::{self, Main};
use super::parents::{self, ParentSpec};
use super::referenced_files::{self, ReferencedFile};
use super::settings::{AdminAddress, Mode, Settings};
use super::source::Source;
use super::tls::{self, TlsOfListeners};
use super::values::{PLAIN_NAME, RegistryDefaults, beside, is_plain_name};
use super::{azure, clients, mirror, registry_file, users, without_password};
use crate::policy::{
    Client, Endpoint, EndpointKind, Fault, HostKind, Located, Location, NO_LABEL, Name,
    OTHER_LABEL, PolicySet, Registry, Rules, Users,
};

/// A file, readable or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// The path as the operator would write it.
    pub path: Arc<str>,
    /// Its text, or the read error.
    pub text: Result<String, String>,
}

/// The files of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// `pullgate.toml`.
    pub main: File,
    /// The registry files, sorted by name.
    pub registries: Vec<File>,
    /// Further files that the main file names.
    pub further: Vec<ReferencedFile>,
}

/// A valid configuration.
#[derive(Debug)]
pub struct Loaded {
    /// Settings that take effect at start only.
    pub settings: Settings,
    /// The policy, which a reload replaces.
    pub policy: PolicySet,
    /// The TLS of the listeners, replaced with it.
    pub tls: TlsOfListeners,
    /// The authority of inspected tunnels, replaced with it; `None` if none is inspected.
    pub authority: Option<Arc<Authority>>,
    /// Valid but probably unintended settings.
    pub warnings: Vec<Fault>,
}

/// The remedy for a main file that cannot be read.
const NAME_ANOTHER: &str = "create it, or name another with --config";

/// The paths that the main file names, relative to that file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The folder of the registry files.
    pub registries: PathBuf,
    /// The users file. It is in `further` only if a client names a user.
    pub users: PathBuf,
    /// Further files.
    pub further: Vec<PathBuf>,
    /// The address of the admin listener.
    pub admin: Option<AdminAddress>,
}

/// Returns the paths that the main file names.
///
/// # Errors
/// If the file could not be read. [`compile`] reports its other errors.
pub fn named_by(main: &File) -> Result<Named, Vec<Fault>> {
    let text = text_of(main, NAME_ANOTHER).map_err(|fault| vec![fault])?;
    let source = Source::new(&main.path, text);
    let main = main_file::read(&source);
    let mut further: Vec<PathBuf> =
        main.tls.iter().flat_map(|tls| tls.value.paths().cloned()).collect();
    further.extend(main.parents.iter().flat_map(ParentSpec::paths).cloned());
    let inspect = main.inspect.iter().flat_map(|inspect| inspect.authority.paths());
    further.extend(inspect.cloned());
    if !main.named_users.is_empty() {
        further.push(main.users_file.clone());
    }
    further.sort();
    further.dedup();
    let registries = beside(&source, &main.registries.value);
    let admin = main.settings.admin;
    Ok(Named { registries, users: main.users_file, further, admin })
}

/// Returns the files that a registry file names.
#[must_use]
pub fn named_by_registry(file: &File) -> Vec<PathBuf> {
    file.text.as_ref().map(|text| mirror::paths_of(&file.path, text)).unwrap_or_default()
}

/// Returns every error in the main file if its folder of registries cannot be read, with that
/// error.
#[must_use]
pub fn faults_without_folder(main: &File, error: &str) -> Vec<Fault> {
    let source = match text_of(main, NAME_ANOTHER) {
        Ok(text) => Source::new(&main.path, text),
        Err(fault) => return vec![fault],
    };
    let Located { value: folder, place } = main_file::read(&source).registries;
    let folder = beside(&source, &folder);
    let what = format!("the folder {} cannot be read: {error}", folder.display());
    source.missing(&place, what, "create it, or name another in [policy] registries");
    sorted(source.take_faults())
}

/// Compiles the files.
///
/// # Errors
/// Every error in every file, with file and line.
pub fn compile(files: &Files, generation: u64) -> Result<Loaded, Vec<Fault>> {
    let mut found = CompileState::default();
    let main = match text_of(&files.main, NAME_ANOTHER) {
        Ok(text) => main(&Source::new(&files.main.path, text), &files.registries, &mut found),
        Err(fault) => {
            found.faults.push(fault);
            registries(files, &RegistryDefaults::default(), &[], &mut found);
            return Err(sorted(found.faults));
        }
    };
    let (inherited, clients) = (&main.inherited, &main.rules.clients);
    let registries = registries(files, inherited, clients, &mut found);
    judge_mirrors(&main.settings, &registries, &mut found);
    let (tls, faults, warnings) = tls::make(&main.tls, &files.further);
    found.faults.extend(faults);
    found.warnings.extend(warnings);
    let authority = authority(&main, &files.further, &registries, &mut found);
    found.warnings.extend(without_password::warnings(clients, &registries));
    let users = users(&main, &files.further, &mut found);
    let parents = parents::make(&main.parents, &files.further, &mut found.faults);
    let rules = Rules { registries, users, parents, ..main.rules };
    match PolicySet::new(generation, rules) {
        Ok(policy) if found.faults.is_empty() => {
            let warnings = sorted(found.warnings);
            Ok(Loaded { settings: main.settings, policy, tls, authority, warnings })
        }
        Ok(_) => Err(sorted(found.faults)),
        Err(among_registries) => {
            found.faults.extend(among_registries);
            Err(sorted(found.faults))
        }
    }
}

/// Reads the users if a client names one. Each named user must exist.
fn users(main: &Main, files: &[ReferencedFile], found: &mut CompileState) -> Users {
    let Some(first) = main.named_users.first() else { return Users::default() };
    let path = &main.users_file;
    let before = found.faults.len();
    let sinks = (&mut found.faults, &mut found.warnings);
    let users = users::read(referenced_files::find(files, path), path, &first.place, sinks);
    if found.faults.len() == before {
        let strangers = main.named_users.iter().filter(|user| !users.has(&user.value));
        found.faults.extend(strangers.map(|user| Fault {
            place: user.place.clone(),
            what: format!("{:?} is not a user in {}", user.value, path.display()),
            remedy: format!("pullgate user add {}", user.value),
        }));
    }
    users
}

/// The results so far, file by file.
#[derive(Debug, Default)]
struct CompileState {
    faults: Vec<Fault>,
    warnings: Vec<Fault>,
}

impl CompileState {
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

fn main(source: &Source<'_>, registries: &[File], found: &mut CompileState) -> Main {
    let main = main_file::read(source);
    match &main.deny_all {
        None if registries.is_empty() && !main.allow_empty => source.missing(
            &main.registries.place,
            format!("the folder {} contains no registry", main.registries.value),
            "put az acr show-endpoints' output into it, or write [policy] allow-empty = true",
        ),
        Some(place) if !registries.is_empty() => source.warn(
            place.clone(),
            "deny-all only permits an empty folder, but the folder has registries",
            "they are allowed; remove their files or deny-all",
        ),
        None | Some(_) => {}
    }
    found.take(source);
    main
}

fn registries(
    all: &Files,
    inherited: &RegistryDefaults,
    clients: &[Arc<Client>],
    found: &mut CompileState,
) -> Vec<Registry> {
    let files = &all.registries;
    let mut registries = Vec::with_capacity(files.len());
    let mut stems: HashMap<Arc<str>, &Arc<str>> = HashMap::with_capacity(files.len());
    for file in files {
        let remedy = "make it UTF-8 text that the gate's user can read, or remove it";
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
            let what = format!("{other} has the same name, but a registry must have one file");
            source.fault(source.whole(), what, "rename or remove one of the two");
        }
        let json = path.extension().is_some_and(|kind| kind == "json");
        let spec = match json {
            true => azure::read(&source, stem, inherited),
            false => registry_file::read(&source, stem, inherited, &all.further),
        };
        match spec.as_ref().map(Registry::new) {
            Some(Ok(registry)) => {
                warn_of_absent_data(&source, &registry);
                warn_of_docker_io(&source, &registry);
                clients::warn_about_unusable_registry(&source, clients, &registry);
                registries.push(registry);
            }
            // Reported through the source, which ignores lines that are already broken.
            Some(Err(faults)) => faults
                .into_iter()
                .for_each(|Fault { place, what, remedy }| source.fault(place, what, remedy)),
            None => {}
        }
        found.take(&source);
    }
    registries
}

/// Finds registries that no mirror listener offers.
fn judge_mirrors(settings: &Settings, registries: &[Registry], found: &mut CompileState) {
    let listens = settings.listeners.iter().any(|listener| listener.mode == Mode::Mirror);
    let mirrored = registries.iter().find(|registry| registry.mirror().is_some());
    if let Some(registry) = mirrored.filter(|_| !listens) {
        found.warnings.push(Fault {
            place: Location { file: registry.file().clone(), line: 1 },
            what: "it has a [mirror], but there is no mirror listener".into(),
            remedy: "write a [[listen]] with mode = \"mirror\", or remove [mirror]".into(),
        });
    }
}

/// The names of all inspected hosts.
fn inspected_names(registries: &[Registry]) -> BTreeSet<Name> {
    registries.iter().filter_map(Registry::inspect).flat_map(|one| one.names()).cloned().collect()
}

/// Returns what `pullgate ca` needs: the paths of the authority, which need not exist yet, and the
/// names that it is to permit.
///
/// # Errors
/// Every error in the files, besides those of the authority; and that nothing is inspected.
pub fn inspected(files: &Files) -> Result<(AuthorityPaths, BTreeSet<Name>), Vec<Fault>> {
    let mut found = CompileState::default();
    let text = text_of(&files.main, NAME_ANOTHER).map_err(|fault| vec![fault])?;
    let source = Source::new(&files.main.path, text);
    let main = main(&source, &files.registries, &mut found);
    let registries = registries(files, &main.inherited, &main.rules.clients, &mut found);
    if !found.faults.is_empty() {
        return Err(sorted(found.faults));
    }
    let names = inspected_names(&registries);
    let fault = |what: &str, remedy: &str| {
        vec![Fault { place: source.whole(), what: what.into(), remedy: remedy.into() }]
    };
    let Some(inspect) = main.inspect else {
        return Err(fault("it has no [inspect]", NEEDS_AUTHORITY));
    };
    if names.is_empty() {
        let remedy = "write [inspect] into the files of registries";
        return Err(fault("no registry is inspected", remedy));
    }
    Ok((inspect.authority, names))
}

/// The remedy where an authority is needed and none is named.
const NEEDS_AUTHORITY: &str = "write [inspect] ca = { certificate = \"inspect/ca.pem\", key = \"inspect/ca.key\" } \
     into pullgate.toml, and run `pullgate ca create`";

/// Reads the authority if a registry is inspected. Each inspected registry needs one.
fn authority(
    main: &Main,
    files: &[ReferencedFile],
    registries: &[Registry],
    found: &mut CompileState,
) -> Option<Arc<Authority>> {
    let inspected = registries.iter().find_map(Registry::inspect);
    match (&main.inspect, inspected) {
        (None, None) => None,
        // Its own fault is reported where it stands.
        (None, Some(_)) if main.has_inspect => None,
        (None, Some(inspect)) => {
            found.faults.push(Fault {
                place: inspect.place().clone(),
                what: "there is no authority to inspect with".into(),
                remedy: NEEDS_AUTHORITY.into(),
            });
            None
        }
        (Some(table), None) => {
            found.warnings.push(Fault {
                place: table.place.clone(),
                what: "no registry is inspected".into(),
                remedy: "write [inspect] into the files of registries, or remove it here".into(),
            });
            None
        }
        (Some(table), Some(_)) => {
            let names = inspected_names(registries);
            let sinks = (&mut found.faults, &mut found.warnings);
            super::authority::make(table, files, &names, sinks)
        }
    }
}

/// Returns why the stem of a file cannot be the name of a registry.
fn objection_to_stem(stem: &str) -> Option<(String, &'static str)> {
    if !is_plain_name(stem) {
        let what = format!("the file's name {stem:?} cannot be a registry's name");
        return Some((what, PLAIN_NAME));
    }
    let taken = [OTHER_LABEL, NO_LABEL].contains(&stem);
    taken.then(|| (format!("{stem:?} is a metric label with another meaning"), "rename the file"))
}

/// Clients that name no registry ask Docker Hub at another host than the name in image references.
fn warn_of_docker_io(source: &Source<'_>, registry: &Registry) {
    const ASKED: &str = "registry-1.docker.io";
    let login = registry.endpoints().iter().find(|one| one.kind == EndpointKind::Login);
    let Some(login) = login else { return };
    if ["docker.io", "index.docker.io"].contains(&login.target.name.as_str()) {
        let what = format!("no client pulls from {}: they ask {ASKED}", login.target.name);
        let remedy = format!("write login-server = \"{ASKED}\", or preset = \"docker-hub\"");
        source.warn(login.place.clone(), what, remedy);
    }
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
