//! Reads the configuration files, and replaces the policy when they change.
//!
//! A file system event is a hint; the content decides. Editors and Kubernetes replace files and
//! folders instead of writing to them, so the *parent* directories are watched. A configuration
//! with an error is rejected as a whole: the last good policy stays active, and the log, a metric
//! and `/readyz` report it. Changes of `listen`, `admin`, `audit` and `process` require a restart,
//! which a reload also reports.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{EventKind, ModifyKind};
use notify::{RecursiveMode, Watcher as _};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{error, info, warn};

use crate::config::{
    self, AuditTarget, File, Files, Named, Readers, ReferencedFile, Settings, TlsOfListeners,
};
use crate::policy::{Fault, PolicySet};

/// Maximum size of a configuration file, in bytes.
const LARGEST_FILE: u64 = 16 * 1024 * 1024;

/// Editors and deployments write several files at once. A burst ends after this quiet time.
const QUIET: Duration = Duration::from_millis(50);

/// A burst that does not end is read after this time.
const PATIENCE: Duration = Duration::from_millis(500);

/// Polling interval without file system events.
const POLL: Duration = Duration::from_secs(5);

/// Reads the main file, the registry files in its folder, and other files that it names.
///
/// # Errors
/// Read errors, with a remedy.
pub fn read_files(main: &Path) -> Result<Files, Vec<Fault>> {
    let main = read_file(main);
    let Named { registries, further, .. } = config::named_by(&main)?;
    let registries = registry_files(&registries)
        .map_err(|error| config::faults_without_folder(&main, &error.to_string()))?;
    let registries: Vec<File> = registries.iter().map(|path| read_file(path)).collect();
    let mut further = further;
    further.extend(registries.iter().flat_map(config::named_by_registry));
    further.sort();
    further.dedup();
    Ok(Files { main, registries, further: further.into_iter().map(read_further).collect() })
}

/// Reads only the main file.
#[must_use]
pub fn read_main(path: &Path) -> File {
    read_file(path)
}

fn read_file(path: &Path) -> File {
    File {
        path: path.display().to_string().into(),
        text: read_text(path).map_err(|e| e.to_string()),
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    config::decode(read_bytes(&mut fs::File::open(path)?)?).map_err(io::Error::other)
}

fn read_bytes(file: &mut fs::File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(io::Error::other("it is larger than 16 MiB"));
    }
    Ok(bytes)
}

fn read_further(path: PathBuf) -> ReferencedFile {
    const BY_OTHERS: u32 = 0o004;
    let read = fs::File::open(&path).and_then(|mut file| {
        let mode = file.metadata()?.permissions().mode();
        Ok((read_bytes(&mut file)?, mode))
    });
    let (content, mode) = match read {
        Ok((bytes, mode)) => (Ok(bytes.into()), mode),
        Err(error) => (Err(error.to_string()), 0),
    };
    let readers = if mode & BY_OTHERS == 0 { Readers::Few } else { Readers::Everybody };
    ReferencedFile { path, content, readers }
}

/// Returns the registry files, sorted by name. Hidden files are ignored: Kubernetes stores volume
/// generations in `..data`, editors their swap files.
fn registry_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let kind = path.extension().is_some_and(|kind| kind == "toml" || kind == "json");
        if !hidden && kind {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Reports reloads to the operator.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Staleness(pub Option<Arc<str>>);

/// Watches the files and replaces the policy.
#[derive(Debug)]
pub struct Reloader {
    main: PathBuf,
    settings: Settings,
    digest: u64,
    policy: watch::Sender<Arc<PolicySet>>,
    tls: watch::Sender<Arc<TlsOfListeners>>,
    stale: watch::Sender<Staleness>,
}

impl Reloader {
    /// Creates a reloader for files that were loaded before.
    #[must_use]
    pub fn new(
        main: &Path,
        files: &Files,
        settings: Settings,
        policy: watch::Sender<Arc<PolicySet>>,
        tls: watch::Sender<Arc<TlsOfListeners>>,
    ) -> Self {
        let (stale, _) = watch::channel(Staleness::default());
        Self { main: main.to_owned(), settings, digest: digest(files), policy, tls, stale }
    }

    /// Reports whether the current policy is older than the files, and why.
    #[must_use]
    pub fn staleness(&self) -> watch::Receiver<Staleness> {
        self.stale.subscribe()
    }

    /// Reloads at every change of the files and on every request in `asked`, until its sender is
    /// dropped. Each request is answered when its reload has finished.
    pub async fn run(mut self, mut asked: mpsc::Receiver<oneshot::Sender<()>>) {
        let (hint, mut hinted) = mpsc::channel(1);
        let mut watching = Watching::begin(&self.main, &self.settings.audit, hint.clone());
        // The files may have changed between the first read and the start of the watch.
        self.reload().await;
        loop {
            let waited = async {
                match &watching {
                    Ok(_) => hinted.recv().await,
                    Err(_) => {
                        tokio::time::sleep(POLL).await;
                        Some(())
                    }
                }
            };
            let demand = tokio::select! {
                request = asked.recv() => match request {
                    Some(done) => Some(done),
                    None => return,
                },
                _ = waited => None,
            };
            // Renew the watch before reading: later changes cause another event, and a replaced
            // folder is watched by its new inode.
            watching = Watching::begin(&self.main, &self.settings.audit, hint.clone());
            if demand.is_none() {
                let end = Instant::now() + PATIENCE;
                while let Ok(Ok(Some(()))) = timeout_at(end, timeout(QUIET, hinted.recv())).await {}
            }
            self.reload().await;
            // The requester may have gone.
            let _ = demand.map(|done| done.send(()));
        }
    }

    async fn reload(&mut self) {
        let main = self.main.clone();
        let generation = self.policy.borrow().generation() + 1;
        let known = self.digest;
        // Parsing a large policy takes long, so it must not run on a worker thread.
        let loaded = tokio::task::spawn_blocking(move || {
            let files = read_files(&main)?;
            let digest = digest(&files);
            if digest == known {
                return Ok(None);
            }
            config::compile(&files, generation).map(|loaded| Some((digest, loaded)))
        });
        match loaded.await {
            Ok(Ok(None)) => self.settle(None),
            Ok(Ok(Some((digest, loaded)))) => {
                for warning in &loaded.warnings {
                    warn!("{warning}");
                }
                if loaded.settings != self.settings {
                    warn!(
                        "[[listen]], [answerer], [admin], [relay], [audit] and [process] take effect at the \
                         next start only"
                    );
                }
                self.digest = digest;
                info!(
                    generation,
                    registries = loaded.policy.rules().registries.len(),
                    "policy reloaded"
                );
                self.renew_tls(loaded.tls);
                retire(self.policy.send_replace(Arc::new(loaded.policy)));
                self.settle(None);
            }
            Ok(Err(faults)) => {
                for fault in &faults {
                    error!("policy not reloaded: {fault}");
                }
                self.settle(faults.first().map(ToString::to_string));
            }
            Err(error) => self.settle(Some(format!("the reload itself failed: {error}"))),
        }
    }

    /// Before the policy, whose change makes live tunnels check again.
    fn renew_tls(&self, fresh: TlsOfListeners) {
        self.tls.send_modify(|known| {
            // A listener whose paths changed keeps its TLS until a restart.
            let mut all = TlsOfListeners::clone(known);
            all.extend(fresh);
            *known = Arc::new(all);
        });
    }

    fn settle(&self, fault: Option<String>) {
        self.stale.send_replace(Staleness(fault.map(Into::into)));
    }
}

/// Interval of checks whether a replaced set is unused.
const RETIRING: Duration = Duration::from_secs(1);

/// Drops a set once no session uses it. Sessions that are being established still hold it, and
/// dropping 100,000 registries must not happen on a worker thread.
fn retire(set: Arc<PolicySet>) {
    tokio::spawn(async move {
        while Arc::strong_count(&set) > 1 {
            tokio::time::sleep(RETIRING).await;
        }
        // Nothing waits for this task.
        tokio::task::spawn_blocking(move || drop(set));
    });
}

/// A hash of all content. Not cryptographic, because the operator writes the files.
fn digest(files: &Files) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in std::iter::once(&files.main).chain(&files.registries) {
        (&file.path, &file.text).hash(&mut hasher);
    }
    files.further.hash(&mut hasher);
    hasher.finish()
}

/// A watch on the directories of the files. It ends when dropped.
struct Watching {
    _watcher: notify::RecommendedWatcher,
}

impl Watching {
    fn begin(
        main: &Path,
        audit: &AuditTarget,
        hint: mpsc::Sender<()>,
    ) -> Result<Self, notify::Error> {
        let begun = Self::over(&directories(main), audit.clone(), hint);
        if let Err(error) = &begun {
            warn!(%error, "the files cannot be watched; reading them every {} s", POLL.as_secs());
        }
        begun
    }

    fn over(
        directories: &[PathBuf],
        audit: AuditTarget,
        hint: mpsc::Sender<()>,
    ) -> Result<Self, notify::Error> {
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                if !event.is_ok_and(|event| tells_nothing(&event, &audit)) {
                    // A full channel already holds a hint.
                    let _ = hint.try_send(());
                }
            })?;
        for directory in directories {
            watcher.watch(directory, RecursiveMode::NonRecursive)?;
        }
        Ok(Self { _watcher: watcher })
    }
}

/// Returns whether an event cannot be a change of the configuration: the gate itself reads its
/// files and writes its audit, maybe in the same directory.
fn tells_nothing(event: &notify::Event, audit: &AuditTarget) -> bool {
    let of_audit = || match audit {
        AuditTarget::File(audit) => event.paths.iter().all(|path| path == audit),
        _ => false,
    };
    match event.kind {
        EventKind::Access(_) => true,
        EventKind::Modify(ModifyKind::Data(_)) => of_audit(),
        _ => false,
    }
}

/// Returns the directories to watch: those of the main file, of the registries and of further
/// files, the folder of registries, and targets of links.
#[must_use]
pub fn directories(main: &Path) -> Vec<PathBuf> {
    let mut paths = vec![main.to_owned()];
    if let Ok(Named { registries, further, .. }) = config::named_by(&read_file(main)) {
        paths.push(registries.join("any"));
        let files = registry_files(&registries).unwrap_or_default();
        let named = files.iter().flat_map(|path| config::named_by_registry(&read_file(path)));
        paths.extend(named);
        paths.push(registries);
        paths.extend(further);
    }
    let mut found: Vec<PathBuf> = Vec::new();
    for path in paths {
        let resolved = fs::canonicalize(&path).ok();
        for one in [Some(path), resolved].into_iter().flatten() {
            let Some(parent) = one.parent() else { continue };
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            if parent.is_dir() && !found.iter().any(|known| known == parent) {
                found.push(parent.to_owned());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use notify::Event;
    use notify::event::{AccessKind, CreateKind, DataChange, MetadataKind, RenameMode};

    use super::*;

    #[test]
    fn what_the_gate_does_itself_tells_nothing() {
        let data = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let event = |kind, path: &str| Event::new(kind).add_path(path.into());
        let audit = AuditTarget::File("/etc/gate/audit.jsonl".into());
        for (event, nothing) in [
            (event(EventKind::Access(AccessKind::Any), "/etc/gate/gate.toml"), true),
            (event(data, "/etc/gate/audit.jsonl"), true),
            (event(data, "/etc/gate/gate.toml"), false),
            (event(data, "/etc/gate/audit.jsonl").add_path("/etc/gate/gate.toml".into()), false),
            (event(EventKind::Create(CreateKind::File), "/etc/gate/audit.jsonl"), false),
            (event(EventKind::Modify(ModifyKind::Name(RenameMode::To)), "/etc/gate/..data"), false),
            (
                event(EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)), "/etc/gate/key"),
                false,
            ),
        ] {
            assert_eq!(tells_nothing(&event, &audit), nothing, "{event:?}");
        }
        let kept = event(data, "/etc/gate/audit.jsonl");
        assert!(!tells_nothing(&kept, &AuditTarget::StandardOutput));
    }
}
