//! Reads the configuration files, and replaces the policy when they change.
//!
//! A file system event is a hint; the content decides. Editors and Kubernetes replace files and
//! folders instead of writing to them, so the *parent* directories are watched. A configuration
//! with an error is rejected as a whole: the last good policy stays active, and the log, a metric
//! and `/readyz` report it. Changes of `listen`, `admin`, `audit` and `process` require a restart,
//! which a reload also reports.

mod files;
mod watching;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{error, info, warn};

pub use files::{directories, read_files, read_main, read_settled};

use crate::config::{self, AuditTarget, Authority, Files, Loaded, Settings, TlsOfListeners};
use crate::policy::{Fault, PolicySet};
use files::{Progress, READ_TIMEOUT, Reading, Versions, digest};
use watching::Watching;

/// Editors and deployments write several files at once. A burst ends after this quiet time.
const QUIET: Duration = Duration::from_millis(50);

/// A burst that does not end is read after this time.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often the files are examined where inotify watches them. It does not see everything: not the
/// change of a bind-mounted file, nor of a link above a folder.
const LOOK: Duration = Duration::from_secs(30);

/// How often they are examined where nothing watches them.
const POLL: Duration = Duration::from_secs(5);

/// Returns a warning for each file of certificates that has expired or expires soon.
#[must_use]
pub fn expiry_warnings(loaded: &Loaded) -> Vec<String> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let authority = loaded.authority.as_ref().map(|authority| authority.expiry());
    config::expiry_warnings(
        &loaded.tls,
        authority,
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
    )
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
    authority: watch::Sender<Option<Arc<Authority>>>,
    stale: watch::Sender<Staleness>,
    /// `None`: nothing watches the files.
    watching: Option<Watching>,
    has_warned: bool,
    /// The versions of the files that were read last, with a fault or without.
    versions: Option<Versions>,
    /// A reading that has not ended within its time limit.
    unfinished: Option<Job>,
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
        authority: watch::Sender<Option<Arc<Authority>>>,
    ) -> Self {
        let (stale, _) = watch::channel(Staleness::default());
        Self {
            main: main.to_owned(),
            settings,
            digest: digest(files),
            policy,
            tls,
            authority,
            stale,
            watching: None,
            has_warned: false,
            versions: None,
            unfinished: None,
        }
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
        // The files may have changed between the first read and the start of the watch.
        self.look(Cause::Demand, &hint).await;
        loop {
            let period = if self.watching.is_some() { LOOK } else { POLL };
            let (cause, demand) = tokio::select! {
                request = asked.recv() => match request {
                    Some(done) => (Cause::Demand, Some(done)),
                    None => return,
                },
                _ = hinted.recv() => (Cause::Hint, None),
                () = sleep(period) => (Cause::Time, None),
            };
            if cause == Cause::Hint {
                let end = Instant::now() + PATIENCE;
                while let Ok(Ok(Some(()))) = timeout_at(end, timeout(QUIET, hinted.recv())).await {}
            }
            self.look(cause, &hint).await;
            // The requester may have gone.
            let _ = demand.map(|done| done.send(()));
        }
    }

    /// Reads the files if they have changed, and puts what they say in force. A file system that does
    /// not answer is waited for no longer than [`READ_TIMEOUT`], and by one thread only.
    async fn look(&mut self, cause: Cause, hint: &mpsc::Sender<()>) {
        loop {
            let (is_left, mut job) = match self.unfinished.take() {
                Some(job) => (true, job),
                None => match self.begin(cause, hint.clone()) {
                    Ok(job) => (false, job),
                    Err(error) => return self.settle(Some(format!("no thread to read: {error}"))),
                },
            };
            match timeout(READ_TIMEOUT, &mut job.seen).await {
                Ok(Ok(seen)) => self.take(seen),
                Ok(Err(_)) => self.settle(Some("the reload itself failed".to_owned())),
                Err(_) => {
                    let fault = job.progress.timed_out();
                    error!("policy not reloaded: {fault}");
                    self.unfinished = Some(job);
                    return self.settle(Some(fault.to_string()));
                }
            }
            // What one that was left over has read may be old by now.
            if !is_left {
                return;
            }
        }
    }

    /// Begins to read in a thread of its own, which nobody waits for when the gate ends.
    fn begin(&self, cause: Cause, hint: mpsc::Sender<()>) -> std::io::Result<Job> {
        let job = Task {
            main: self.main.clone(),
            audit: self.settings.audit.clone(),
            // What failed to load is loaded again when asked for.
            versions: self.versions.clone().filter(|_| cause == Cause::Time),
            is_watched: self.watching.is_some(),
            digest: self.digest,
            generation: self.policy.borrow().generation() + 1,
            hint,
        };
        let (done, seen) = oneshot::channel();
        let progress = Progress::new(&self.main);
        let noted = progress.clone();
        let thread = thread::Builder::new().name("reload".to_owned());
        // The gate may be gone by the time it is done.
        thread.spawn(move || done.send(job.run(&noted)).ok())?;
        Ok(Job { progress, seen })
    }

    fn take(&mut self, seen: Seen) {
        if let Some(watching) = seen.watching {
            self.watch_with(watching);
        }
        let Some((versions, loaded)) = seen.read else { return };
        self.versions = versions;
        match loaded {
            Ok(None) => self.settle(None),
            Ok(Some((digest, loaded))) => self.put_in_force(digest, *loaded),
            Err(faults) => {
                for fault in &faults {
                    error!("policy not reloaded: {fault}");
                }
                self.settle(faults.first().map(ToString::to_string));
            }
        }
    }

    /// Keeps the new watch. Says once that there is none, not at every try.
    fn watch_with(&mut self, watching: Result<Watching, notify::Error>) {
        let watching = match watching {
            Ok(watching) => Some(watching),
            Err(error) => {
                if !std::mem::replace(&mut self.has_warned, true) {
                    warn!(
                        %error,
                        "the files cannot be watched, so they are examined every {} s; raise \
                         fs.inotify.max_user_watches and fs.inotify.max_user_instances",
                        POLL.as_secs()
                    );
                }
                None
            }
        };
        if watching.is_some() && std::mem::take(&mut self.has_warned) {
            info!("the files are watched again");
        }
        self.watching = watching;
    }

    fn put_in_force(&mut self, digest: u64, loaded: Loaded) {
        for warning in &loaded.warnings {
            warn!("{warning}");
        }
        for warning in expiry_warnings(&loaded) {
            warn!("{warning}");
        }
        if loaded.settings != self.settings {
            warn!(
                "[[listen]], [answerer], [admin], [relay], [audit], [process] and the \
                 program of a credentials-command take effect at the next start only"
            );
        }
        self.digest = digest;
        let generation = loaded.policy.generation();
        info!(generation, registries = loaded.policy.rules().registries.len(), "policy reloaded");
        self.renew_tls(loaded.tls);
        // Before the policy, too: a new host needs a certificate.
        self.authority.send_replace(loaded.authority);
        retire(self.policy.send_replace(Arc::new(loaded.policy)));
        self.settle(None);
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
            sleep(RETIRING).await;
        }
        // Nothing waits for this task.
        tokio::task::spawn_blocking(move || drop(set));
    });
}

/// Why the files are examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The gate has started, or the operator asks for it.
    Demand,
    /// Something in the directories has changed.
    Hint,
    /// It is time to.
    Time,
}

/// A reading that has begun.
#[derive(Debug)]
struct Job {
    progress: Progress,
    seen: oneshot::Receiver<Seen>,
}

/// What a reading needs to know.
struct Task {
    main: PathBuf,
    audit: AuditTarget,
    /// Unless these have changed, nothing is read.
    versions: Option<Versions>,
    is_watched: bool,
    digest: u64,
    generation: u64,
    hint: mpsc::Sender<()>,
}

/// The content of the files, unless it is what is in force already.
type Content = Result<Option<(u64, Box<Loaded>)>, Vec<Fault>>;

/// What a reading found.
#[derive(Debug)]
struct Seen {
    /// `None`: the old watch goes on.
    watching: Option<Result<Watching, notify::Error>>,
    /// `None`: no file has changed.
    read: Option<(Option<Versions>, Content)>,
}

impl Task {
    /// May block for as long as a file system likes.
    fn run(self, progress: &Progress) -> Seen {
        let is_current = self.versions.as_ref().is_some_and(|one| one.are_current(&self.main));
        if is_current && self.is_watched {
            return Seen { watching: None, read: None };
        }
        // Watch anew before reading: what changes from here on gives a hint of its own, and a
        // folder that was replaced is watched by its new inode.
        let watching = Some(Watching::begin(&self.main, &self.audit, self.hint.clone()));
        if is_current {
            return Seen { watching, read: None };
        }
        let Reading { files, versions, .. } = Reading::settled(&self.main, progress);
        let content = files.and_then(|files| {
            let digest = digest(&files);
            if digest == self.digest {
                return Ok(None);
            }
            let loaded = config::compile(&files, self.generation)?;
            Ok(Some((digest, Box::new(loaded))))
        });
        Seen { watching, read: Some((versions, content)) }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const MAIN: &str = "[[listen]]\nmode = \"connect\"\naddress = \"127.0.0.1:0\"\n\
                        [policy]\nregistries = \"current/registries.d\"\n\
                        [audit]\npath = \"audit.jsonl\"\n";

    /// A reloader of a folder in which `current` is a link to the version `one`.
    fn reloader(folder: &Path) -> (Reloader, watch::Receiver<Arc<PolicySet>>) {
        let main = folder.join("pullgate.toml");
        fs::write(&main, MAIN).unwrap();
        for (version, registry) in [("one", "contoso"), ("two", "fabrikam")] {
            let registries = folder.join(version).join("registries.d");
            fs::create_dir_all(&registries).unwrap();
            let text = format!("login-server = \"{registry}.azurecr.io\"\n");
            fs::write(registries.join(format!("{registry}.toml")), text).unwrap();
        }
        symlink("one", folder.join("current")).unwrap();
        let files = read_settled(&main).unwrap();
        let Loaded { settings, policy, tls, .. } = config::compile(&files, 1).unwrap();
        let (policy, seen) = watch::channel(Arc::new(policy));
        let (tls, _) = watch::channel(Arc::new(tls));
        let (authority, _) = watch::channel(None);
        (Reloader::new(&main, &files, settings, policy, tls, authority), seen)
    }

    fn registry_of(policy: &watch::Receiver<Arc<PolicySet>>) -> String {
        policy.borrow().rules().registries[0].name().to_string()
    }

    #[tokio::test]
    async fn a_link_above_the_folder_is_seen_without_an_event() {
        let folder = tempfile::tempdir().unwrap();
        let (mut reloader, policy) = reloader(folder.path());
        let (hint, _) = mpsc::channel(1);
        reloader.look(Cause::Demand, &hint).await;
        reloader.look(Cause::Time, &hint).await;
        assert_eq!(policy.borrow().generation(), 1, "nothing has changed");
        let before = registry_of(&policy);
        symlink("two", folder.path().join("next")).unwrap();
        fs::rename(folder.path().join("next"), folder.path().join("current")).unwrap();
        reloader.look(Cause::Time, &hint).await;
        assert_eq!(policy.borrow().generation(), 2);
        assert_ne!(registry_of(&policy), before);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_system_that_does_not_answer_makes_the_policy_stale() {
        let folder = tempfile::tempdir().unwrap();
        let (mut reloader, _policy) = reloader(folder.path());
        let (hint, _) = mpsc::channel(1);
        let stale = reloader.staleness();
        let (answer, seen) = oneshot::channel();
        let progress = Progress::new(&folder.path().join("pullgate.toml"));
        reloader.unfinished = Some(Job { progress, seen });
        for _ in 0..2 {
            reloader.look(Cause::Time, &hint).await;
            let why = stale.borrow().0.clone().unwrap();
            assert!(why.contains("pullgate.toml: reading it took longer than 30 s"), "{why}");
            assert!(reloader.unfinished.is_some(), "no second thread waits beside it");
        }
        tokio::time::resume();
        answer.send(Seen { watching: None, read: Some((None, Ok(None))) }).unwrap();
        reloader.look(Cause::Time, &hint).await;
        assert_eq!(*stale.borrow(), Staleness(None));
    }
}
