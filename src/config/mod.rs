//! The operator's files, from text to [`Settings`] and a [`PolicySet`].
//!
//! Pure: whoever calls has read the files. Every fault of every file is found at once, each with
//! its file, its line, what is wrong and what to do about it.

mod azure;
mod main_file;
mod registry_file;
mod source;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use azure::{Import, ImportedEndpoints, import};

use crate::policy::{Enforcement, Fault, HostKind, Place, PolicySet, Registry};
use source::Source;

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
}

/// How clients come to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As to a forward proxy, with CONNECT.
    Connect,
    /// Without knowing: their traffic is redirected here, and the hello names the target.
    Transparent,
}

impl Mode {
    /// The word of the configuration.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Transparent => "transparent",
        }
    }
}

/// Where clients come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// How.
    pub mode: Mode,
    /// Where; port 0 takes a free one.
    pub address: SocketAddr,
    /// Its own enforcement, ahead of the policy's.
    pub enforcement: Option<Enforcement>,
}

/// Where the operator looks in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Where audit lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditTarget {
    /// Standard output.
    StandardOutput,
    /// A file.
    File(PathBuf),
}

/// What takes effect at start only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where clients come in; at least one.
    pub listeners: Vec<Listener>,
    /// Where the operator looks in, if anywhere.
    pub admin: Option<AdminAddress>,
    /// Where audit lines go.
    pub audit: AuditTarget,
}

/// A configuration without fault.
#[derive(Debug)]
pub struct Loaded {
    /// What takes effect at start only.
    pub settings: Settings,
    /// What a reload swaps.
    pub policy: PolicySet,
    /// What is allowed and probably not meant.
    pub warnings: Vec<Fault>,
}

/// The folder that the main file names, relative to that file.
///
/// # Errors
/// When the file could not be read. Its other faults are [`compile`]'s.
pub fn registries_folder(main: &File) -> Result<PathBuf, Vec<Fault>> {
    let text =
        text_of(main, "create it, or name another with --config").map_err(|fault| vec![fault])?;
    let source = Source::new(&main.path, text);
    let folder = main_file::read(&source).registries;
    Ok(Path::new(&*main.path).parent().unwrap_or(Path::new("")).join(folder))
}

/// Compiles the files into what is used.
///
/// # Errors
/// Every fault of every file, by file and line.
pub fn compile(files: &Files, generation: u64) -> Result<Loaded, Vec<Fault>> {
    let mut faults = Vec::new();
    let main = text_of(&files.main, "create it, or name another with --config")
        .map_err(|fault| vec![fault])
        .map(|text| Source::new(&files.main.path, text));
    let main = main.map(|source| {
        let main = main_file::read(&source);
        faults.extend(source.take_faults());
        main
    });
    let registries = registries(&files.registries, &mut faults);
    let mut main = main.inspect_err(|main| faults.extend(main.clone()))?;
    if files.registries.is_empty() && !main.deny_all {
        faults.push(Fault {
            place: Place { file: files.main.path.clone(), line: 0 },
            what: format!("the folder {} holds no registry", main.registries),
            remedy: "put az acr show-endpoints' output into it, or write [policy] deny-all = true"
                .to_owned(),
        });
    }
    main.rules.registries = registries;
    let warnings = warnings(&files.main.path, &main);
    match PolicySet::new(generation, main.rules) {
        Ok(policy) if faults.is_empty() => Ok(Loaded { settings: main.settings, policy, warnings }),
        Ok(_) => Err(sorted(faults)),
        Err(more) => {
            faults.extend(more);
            Err(sorted(faults))
        }
    }
}

fn sorted(mut faults: Vec<Fault>) -> Vec<Fault> {
    faults.sort();
    faults.dedup();
    faults
}

fn text_of<'a>(file: &'a File, remedy: &str) -> Result<&'a str, Fault> {
    file.text.as_deref().map_err(|error| Fault {
        place: Place { file: file.path.clone(), line: 0 },
        what: format!("it cannot be read: {error}"),
        remedy: remedy.to_owned(),
    })
}

fn registries(files: &[File], faults: &mut Vec<Fault>) -> Vec<Registry> {
    let mut registries = Vec::with_capacity(files.len());
    let mut stems: HashMap<Arc<str>, &Arc<str>> = HashMap::with_capacity(files.len());
    for file in files {
        let text = match text_of(file, "make it readable for the gate's user, or take it away") {
            Ok(text) => text,
            Err(fault) => {
                faults.push(fault);
                continue;
            }
        };
        let source = Source::new(&file.path, text);
        let path = Path::new(&*file.path);
        let stem: Arc<str> =
            path.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default().into();
        if !is_plain(&stem) {
            source.fault(
                source.whole(),
                format!("the file's name {stem:?} cannot be a registry's name"),
                "use up to 64 letters, digits, dots, dashes and underscores",
            );
        }
        if let Some(other) = stems.insert(stem.clone(), &file.path) {
            source.fault(
                source.whole(),
                format!("{other} has the same name, and a registry has one file"),
                "rename or remove one of the two",
            );
        }
        let json = path.extension().is_some_and(|kind| kind == "json");
        let spec =
            if json { azure::read(&source, stem) } else { registry_file::read(&source, stem) };
        match spec.as_ref().map(Registry::new) {
            Some(Ok(registry)) => registries.push(registry),
            Some(Err(more)) => faults.extend(more),
            None => {}
        }
        faults.extend(source.take_faults());
    }
    registries
}

/// Whether a file's stem can be a metric label and a word in a log.
fn is_plain(stem: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    (1..=64).contains(&stem.len()) && stem.bytes().all(plain)
}

fn warnings(file: &Arc<str>, main: &main_file::Main) -> Vec<Fault> {
    let mut warnings = Vec::new();
    let mut warn = |what: String, remedy: &str| {
        let place = Place { file: file.clone(), line: 0 };
        warnings.push(Fault { place, what, remedy: remedy.to_owned() });
    };
    let mut storage: Vec<&str> = (main.rules.pins.keys())
        .filter(|name| matches!(HostKind::of(name), HostKind::Storage { .. }))
        .map(|name| name.as_str())
        .collect();
    storage.sort_unstable();
    for name in storage {
        warn(format!("[dns.hosts] answers for the storage account {name}"), "no policy allows it");
    }
    for Listener { address, .. } in &main.settings.listeners {
        if address.ip().is_unspecified() {
            let remedy = "name the address of the network that the clients are in";
            warn(format!("{address} is open to every network of this machine"), remedy);
        }
    }
    warnings
}
