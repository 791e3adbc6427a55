//! A compiled configuration, before anything is started.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tracing::warn;

use super::sandbox;
use crate::account::ClockBehind;
use crate::config::{self, Files, Loaded, Mode};
use crate::dial::TlsClients;
use crate::policy::{Enforcement, Fault};
use crate::reload;

/// All errors in the configuration, as one error.
#[derive(Debug, thiserror::Error)]
#[error("the configuration has {} fault(s):\n{}", .0.len(), lines(.0))]
pub struct Faults(pub Vec<Fault>);

fn lines(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("  {fault}")).collect::<Vec<_>>().join("\n")
}

/// A valid configuration.
#[derive(Debug)]
pub struct Prepared {
    pub(super) main: PathBuf,
    pub(super) files: Files,
    pub(super) loaded: Loaded,
    /// Read before the sandbox blocks the system's files.
    pub(super) roots: Arc<TlsClients>,
}

impl Prepared {
    /// Reads the configuration.
    ///
    /// # Errors
    /// All errors in it.
    pub fn read(main: &Path) -> Result<Self, Faults> {
        let files = reload::read_settled(main).map_err(Faults)?;
        let loaded = config::compile(&files, 1).map_err(Faults)?;
        let roots = Arc::new(TlsClients::with_system_roots());
        Ok(Self { main: main.to_owned(), files, loaded, roots })
    }

    /// Permanently drops privileges that the gate does not need. Must be called while there is only
    /// one thread.
    pub fn confine(&self) {
        sandbox::drop_privileges();
        sandbox::restrict_files(&self.main, &self.loaded.settings);
    }

    /// Logs the warnings, and the listeners in report mode.
    pub(super) fn log_warnings(&self) {
        let Loaded { settings, policy, warnings, .. } = &self.loaded;
        for warning in reload::expiry_warnings(&self.loaded) {
            warn!("{warning}");
        }
        for warning in warnings {
            warn!("{warning}");
        }
        let mirrors = settings.listeners.iter().any(|one| one.mode == Mode::Mirror);
        let inspects = self.loaded.authority.is_some();
        if (mirrors || inspects || policy.rules().verify_upstream) && self.roots.is_empty() {
            warn!("no root certificates found: install ca-certificates, or set ca per registry");
        }
        if let Some(behind) = ClockBehind::at(SystemTime::now()) {
            warn!("{behind}");
        }
        let default = policy.rules().enforcement;
        for listener in &settings.listeners {
            if listener.enforcement.unwrap_or(default) == Enforcement::Report {
                warn!(
                    "{} only reports: what the policy would deny passes, and is recorded as \
                     would-deny",
                    listener.address
                );
            }
        }
    }
}
