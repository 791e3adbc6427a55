//! Restricts the process before it serves: no new privileges, no core dumps, and access only to
//! files that it needs (Landlock).
//!
//! An attacker who controls the process can read and write few files. Files are allowed by folder,
//! because editors, Kubernetes and resolvers replace them. If the kernel lacks a feature, that is
//! logged once and the other restrictions apply.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetError, RulesetStatus, path_beneath_rules,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::set_no_new_privs;
use tracing::{info, warn};

use crate::config::{AdminAddress, AuditTarget, FileAccess, Settings};
use crate::reload;

/// The Landlock access rights that are restricted: those of Linux 6.10. Older kernels ignore the
/// ones they do not know.
const RIGHTS: ABI = ABI::V5;

/// Paths that every gate reads: resolv.conf, which is replaced when it changes, kernel information
/// about the process, pipes and sockets, the memory of its control group, and random numbers. A
/// statically linked program cannot look up getrandom(2) at run time and opens these instead.
const READ_ALWAYS: &[&str] = &["/etc", "/proc", "/sys/fs/cgroup", "/dev/urandom", "/dev/random"];

/// Where a program finds its interpreter, its libraries and the commands that it runs.
const RUN_FOR_HELPERS: &[&str] = &["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64"];

/// What programs write what nobody reads to, and the relay discards duplicates to.
const NULL: &str = "/dev/null";

/// The file that names the system's DNS servers; often a link to where a resolver writes it.
const RESOLVER: &str = "/etc/resolv.conf";

/// Forbids new privileges and core dumps, which would contain relayed data.
pub fn drop_privileges() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let parts = [
        ("PR_SET_NO_NEW_PRIVS", set_no_new_privs(true)),
        ("PR_SET_DUMPABLE", set_dumpable_behavior(DumpableBehavior::NotDumpable)),
        ("RLIMIT_CORE", setrlimit(Resource::Core, none)),
    ];
    for (part, done) in parts {
        if let Err(error) = done {
            warn!(%error, "{part} is not to be had here");
        }
    }
}

/// Restricts this thread, and threads that it starts, to the files that the configuration needs.
/// Must be called while there is only one thread.
pub fn restrict_files(main: &Path, settings: &Settings) {
    if settings.conduct.files == FileAccess::All {
        info!("landlock = false: the files' modes alone decide what the process reaches");
        return;
    }
    match restrict(&Needs::new(main, settings)) {
        Ok(RulesetStatus::FullyEnforced) => {}
        Ok(RulesetStatus::PartiallyEnforced) => {
            info!("this kernel's Landlock is old: some rights to files stay");
        }
        Ok(RulesetStatus::NotEnforced) => {
            info!("this kernel has no Landlock: the files' modes alone decide");
        }
        Err(error) => warn!(%error, "Landlock cannot be set up: the files' modes alone decide"),
    }
}

/// The folders and files that are needed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Needs {
    read: Vec<PathBuf>,
    /// Folders in which files are created and appended to.
    append: Vec<PathBuf>,
    /// Folders in which sockets are created and replaced.
    sockets: Vec<PathBuf>,
    /// Programs, and the folders of what they run and load: for `credentials-command`.
    run: Vec<PathBuf>,
}

impl Needs {
    fn new(main: &Path, settings: &Settings) -> Self {
        let mut needs = Self { read: reload::directories(main), ..Self::default() };
        needs.read.extend(READ_ALWAYS.iter().map(PathBuf::from));
        let resolver = std::fs::canonicalize(RESOLVER);
        needs.read.extend(resolver.iter().filter_map(|path| path.parent()).map(Path::to_owned));
        needs.read.extend(settings.conduct.readable.iter().cloned());
        if let AuditTarget::File(path) = &settings.audit {
            needs.append.push(folder(path));
        }
        if let Some(AdminAddress::Unix(path)) = &settings.admin {
            needs.sockets.push(folder(path));
        }
        if !settings.helpers.is_empty() {
            needs.run.extend(RUN_FOR_HELPERS.iter().map(PathBuf::from));
            needs.run.extend(settings.helpers.iter().cloned());
        }
        needs
    }
}

/// Returns the folder of a file.
fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn restrict(needs: &Needs) -> Result<RulesetStatus, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let append: BitFlags<AccessFs> = AccessFs::WriteFile | AccessFs::MakeReg;
    let sockets = AccessFs::MakeSock | AccessFs::RemoveFile;
    let run = read | AccessFs::Execute;
    // A path that is not there is left out: nothing can be read there.
    let restricted = Ruleset::default()
        .handle_access(AccessFs::from_all(RIGHTS))?
        .create()?
        .add_rules(path_beneath_rules(&needs.read, read))?
        .add_rules(path_beneath_rules(&needs.run, run))?
        .add_rules(path_beneath_rules([NULL], AccessFs::ReadFile | AccessFs::WriteFile))?
        .add_rules(path_beneath_rules(&needs.append, append))?
        .add_rules(path_beneath_rules(&needs.sockets, sockets))?
        .restrict_self()?;
    Ok(restricted.ruleset)
}
