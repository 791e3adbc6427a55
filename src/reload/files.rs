//! Reads the operator's files, and recognises when they change.
//!
//! A file may be a FIFO, lie on a file system that does not answer, or be in the middle of being
//! written. So files are opened without blocking, only regular files are read, every reading has a
//! time limit, and files are believed only once they have been left alone for a second.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, Metadata, OpenOptions};
use std::hash::{Hash as _, Hasher as _};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::OFlags;

use crate::config::{self, File, Files, Named, Readers, ReferencedFile};
use crate::policy::{Fault, Location};

/// Maximum size of a configuration file, in bytes.
const LARGEST_FILE: u64 = 16 * 1024 * 1024;

/// How long the files must not have changed before they are believed.
const SETTLED: Duration = Duration::from_secs(1);

/// How long files that keep changing are read again.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long reading all files may take, waiting for changes included.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads the main file, the registry files in its folder, and other files that it names.
///
/// # Errors
/// What could not be read, as faults with a remedy; a file system that does not answer, after a time
/// limit.
pub fn read_files(main: &Path) -> Result<Files, Vec<Fault>> {
    within_time_limit(main, |main, progress| Reading::of(main, progress).files)
}

/// Reads all files as [`read_files`] does, but waits until nobody is writing them.
///
/// # Errors
/// As [`read_files`], and for files that keep changing.
pub fn read_settled(main: &Path) -> Result<Files, Vec<Fault>> {
    within_time_limit(main, |main, progress| Reading::settled(main, progress).files)
}

/// Runs `work` in a thread of its own, so that a file system that does not answer holds up nobody.
fn within_time_limit(
    main: &Path,
    work: impl FnOnce(&Path, &Progress) -> Result<Files, Vec<Fault>> + Send + 'static,
) -> Result<Files, Vec<Fault>> {
    let (progress, main) = (Progress::new(main), main.to_owned());
    let seen = progress.clone();
    let (done, result) = mpsc::sync_channel(1);
    let thread = thread::Builder::new().name("read-files".to_owned());
    let thread = thread.spawn(move || done.send(work(&main, &seen)));
    let thread = thread.map_err(|error| vec![progress.fault(&format!("no thread: {error}"))])?;
    let read = result.recv_timeout(READ_TIMEOUT).map_err(|_| vec![progress.timed_out()])?;
    // It has ended: some callers need to be the only thread.
    let _ = thread.join();
    read
}

/// Which file is being read, for the error message when that does not end.
#[derive(Debug, Clone)]
pub(super) struct Progress(Arc<Mutex<PathBuf>>);

impl Progress {
    pub(super) fn new(main: &Path) -> Self {
        Self(Arc::new(Mutex::new(main.to_owned())))
    }

    fn at(&self, path: &Path) {
        path.clone_into(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn fault(&self, what: &str) -> Fault {
        let path = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        fault(&path, what, "check the file system that it is on")
    }

    /// Returns the fault of a reading that did not end within the time limit.
    pub(super) fn timed_out(&self) -> Fault {
        self.fault(&format!("reading it took longer than {} s", READ_TIMEOUT.as_secs()))
    }
}

fn fault(path: &Path, what: &str, remedy: &str) -> Fault {
    let place = Location { file: path.display().to_string().into(), line: 0 };
    Fault { place, what: what.to_owned(), remedy: remedy.to_owned() }
}

/// What identifies a version of a file; `None`: it cannot be examined.
type Stamp = Option<(u64, u64, u64, (i64, i64), (i64, i64))>;

fn stamp_of(path: &Path) -> Stamp {
    fs::metadata(path).ok().map(|found| stamp(&found))
}

fn stamp(found: &Metadata) -> (u64, u64, u64, (i64, i64), (i64, i64)) {
    let modified = (found.mtime(), found.mtime_nsec());
    let changed = (found.ctime(), found.ctime_nsec());
    (found.dev(), found.ino(), found.size(), modified, changed)
}

/// Returns when a version of a file was last written, renamed or given another mode.
fn changed_at(stamp: Stamp) -> Option<SystemTime> {
    let (.., (seconds, nanos)) = stamp?;
    let since = Duration::new(seconds.try_into().ok()?, nanos.try_into().ok()?);
    SystemTime::UNIX_EPOCH.checked_add(since)
}

/// The versions of all files, without their content: cheap to find out, and equal as long as no file
/// was changed, replaced, added or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Versions {
    registries: PathBuf,
    further: Vec<PathBuf>,
    hash: u64,
}

impl Versions {
    /// Returns whether the files still are the ones that were read.
    pub(super) fn are_current(&self, main: &Path) -> bool {
        let mut hasher = DefaultHasher::new();
        let registries = registry_files(&self.registries).unwrap_or_default();
        let all = std::iter::once(main).chain(registries.iter().map(PathBuf::as_path));
        for path in all.chain(self.further.iter().map(PathBuf::as_path)) {
            (path, stamp_of(path)).hash(&mut hasher);
        }
        hasher.finish() == self.hash
    }
}

/// One reading of all files.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) files: Result<Files, Vec<Fault>>,
    /// `None` where the main file does not say which files there are.
    pub(super) versions: Option<Versions>,
    /// A file that changed while it was read or just before, and when it will have settled.
    unsettled: Option<(PathBuf, SystemTime)>,
}

impl Reading {
    /// Reads all files once, even while they are written.
    pub(super) fn of(main: &Path, progress: &Progress) -> Self {
        let mut reader = Reader::new(progress);
        let mut versions = None;
        let files = reader.files(main, &mut versions);
        Self { files, versions, unsettled: reader.unsettled }
    }

    /// Reads all files until none of them has changed for a second.
    pub(super) fn settled(main: &Path, progress: &Progress) -> Self {
        let began = Instant::now();
        loop {
            let reading = Self::of(main, progress);
            let Some((path, at)) = &reading.unsettled else { return reading };
            if began.elapsed() >= SETTLE_TIMEOUT {
                let what = format!("it keeps changing for {} s", SETTLE_TIMEOUT.as_secs());
                let remedy = "write to another file, and rename that to this name";
                return Self { files: Err(vec![fault(path, &what, remedy)]), ..reading };
            }
            let wait = at.duration_since(SystemTime::now()).unwrap_or_default();
            thread::sleep(wait.clamp(Duration::from_millis(20), SETTLED));
        }
    }
}

/// Reads files, and notes their versions.
struct Reader<'a> {
    progress: &'a Progress,
    hasher: DefaultHasher,
    unsettled: Option<(PathBuf, SystemTime)>,
}

impl<'a> Reader<'a> {
    fn new(progress: &'a Progress) -> Self {
        Self { progress, hasher: DefaultHasher::new(), unsettled: None }
    }

    fn files(&mut self, main: &Path, versions: &mut Option<Versions>) -> Result<Files, Vec<Fault>> {
        let main = self.file(main);
        let Named { registries: folder, mut further, .. } = config::named_by(&main)?;
        let registries = registry_files(&folder)
            .map_err(|error| config::faults_without_folder(&main, &error.to_string()))?;
        let registries: Vec<File> = registries.iter().map(|path| self.file(path)).collect();
        further.extend(registries.iter().flat_map(config::named_by_registry));
        further.sort();
        further.dedup();
        let read = further.iter().map(|path| self.further(path.clone())).collect();
        let hash = self.hasher.finish();
        *versions = Some(Versions { registries: folder, further, hash });
        Ok(Files { main, registries, further: read })
    }

    fn file(&mut self, path: &Path) -> File {
        self.watched(path, read_main)
    }

    fn further(&mut self, path: PathBuf) -> ReferencedFile {
        self.watched(&path.clone(), |_| read_further(path))
    }

    /// Reads a file, and notes which version of it that was and whether it is still being written.
    fn watched<T>(&mut self, path: &Path, read: impl FnOnce(&Path) -> T) -> T {
        self.progress.at(path);
        let before = stamp_of(path);
        (path, before).hash(&mut self.hasher);
        let content = read(path);
        let now = SystemTime::now();
        let settles = if stamp_of(path) == before {
            changed_at(before).and_then(|at| at.checked_add(SETTLED))
        } else {
            now.checked_add(SETTLED)
        };
        // The clock of a file server may be ahead: a time further off says nothing.
        if let Some(at) = settles.filter(|at| *at > now && *at <= now + SETTLED)
            && self.unsettled.as_ref().is_none_or(|(_, known)| *known < at)
        {
            self.unsettled = Some((path.to_owned(), at));
        }
        content
    }
}

/// Reads only the main file.
#[must_use]
pub fn read_main(path: &Path) -> File {
    File {
        path: path.display().to_string().into(),
        text: read_text(path).map_err(|e| e.to_string()),
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    config::decode(read_bytes(&mut open(path)?)?).map_err(io::Error::other)
}

/// Opens a regular file, and waits for nobody: not for the writer of a FIFO.
fn open(path: &Path) -> io::Result<fs::File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !kind.is_file() {
        return Err(io::Error::other("it is not a regular file but a FIFO or a device"));
    }
    Ok(file)
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
    let read = open(&path).and_then(|mut file| {
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

/// Returns the directories to watch: those of the main file, of the registries and of further
/// files, the folder of registries, and targets of links.
#[must_use]
pub fn directories(main: &Path) -> Vec<PathBuf> {
    let mut paths = vec![main.to_owned()];
    if let Ok(Named { registries, further, .. }) = config::named_by(&read_main(main)) {
        paths.push(registries.join("any"));
        let files = registry_files(&registries).unwrap_or_default();
        let named = files.iter().flat_map(|path| config::named_by_registry(&read_main(path)));
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

/// A hash of all content. Not cryptographic, because the operator writes the files.
pub(super) fn digest(files: &Files) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in std::iter::once(&files.main).chain(&files.registries) {
        (&file.path, &file.text).hash(&mut hasher);
    }
    files.further.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    const MAIN: &str = "[policy]\ndeny-all = true\n";

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("registries.d")).unwrap();
        let main = folder.path().join("pullgate.toml");
        fs::write(&main, MAIN).unwrap();
        (folder, main)
    }

    #[test]
    fn a_fifo_is_a_fault_and_is_not_waited_for() {
        let (folder, main) = folder();
        let fifo = folder.path().join("registries.d/contoso.toml");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let files = read_files(&main).unwrap();
        let error = files.registries[0].text.as_ref().unwrap_err();
        assert!(error.contains("not a regular file"), "{error}");
        mknodat(CWD, folder.path().join("a.pem"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(read_further(folder.path().join("a.pem")).content.is_err());
    }

    #[test]
    fn files_are_believed_once_nobody_writes_them() {
        let (folder, main) = folder();
        let file = folder.path().join("registries.d/contoso.toml");
        let (half, whole) = ("login-server = \"contoso.azurecr.io\"\n", "private-only = true\n");
        fs::write(&file, half).unwrap();
        let at_once = Reading::of(&main, &Progress::new(&main));
        assert_eq!(at_once.files.unwrap().registries[0].text.as_deref(), Ok(half));
        assert!(at_once.unsettled.is_some(), "it was written within the last second");
        // The second half comes while the reader waits for the first to settle.
        let writer = thread::spawn({
            let file = file.clone();
            move || {
                use std::io::Write as _;
                OpenOptions::new().append(true).open(file).unwrap().write_all(whole.as_bytes())
            }
        });
        let files = read_settled(&main).unwrap();
        writer.join().unwrap().unwrap();
        assert_eq!(files.registries[0].text, Ok(format!("{half}{whole}")));
    }

    #[test]
    fn every_change_is_another_version() {
        let (folder, main) = folder();
        let registries = folder.path().join("registries.d");
        let file = registries.join("contoso.toml");
        let changes: [&dyn Fn(); 5] = [
            &|| fs::write(&file, "a").unwrap(),
            &|| fs::write(&file, "b").unwrap(),
            &|| {
                fs::write(folder.path().join("draft"), "c").unwrap();
                fs::rename(folder.path().join("draft"), &file).unwrap();
            },
            &|| {
                // A link above the folder, as a deployment swaps it.
                fs::rename(&registries, folder.path().join("old")).unwrap();
                fs::create_dir(folder.path().join("new")).unwrap();
                fs::write(folder.path().join("new/contoso.toml"), "c").unwrap();
                std::os::unix::fs::symlink("new", &registries).unwrap();
            },
            &|| fs::remove_file(&file).unwrap(),
        ];
        for (number, change) in changes.iter().enumerate() {
            let versions = Reading::settled(&main, &Progress::new(&main)).versions.unwrap();
            assert!(versions.are_current(&main), "before {number}");
            change();
            assert!(!versions.are_current(&main), "change {number} is seen");
        }
    }
}
