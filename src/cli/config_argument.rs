//! `--config`: the configuration that a command reads.

use std::path::{Path, PathBuf};

use super::output;
use crate::config::Loaded;
use crate::{config, reload};

/// The default paths of the configuration, in order. The first that exists is used.
pub const CONFIG_PATHS: &[&str] = &["config/pullgate.toml", "/etc/pullgate/pullgate.toml"];

/// The `--config` option, which several commands share.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigArgument {
    /// The configuration. Default: config/pullgate.toml, else /etc/pullgate/pullgate.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgument {
    /// Returns the file of `--config`, or the first of [`CONFIG_PATHS`] that exists.
    pub(crate) fn path(&self) -> PathBuf {
        if let Some(path) = &self.config {
            return path.clone();
        }
        let found = CONFIG_PATHS.iter().map(Path::new).find(|path| path.exists());
        found.or(CONFIG_PATHS.last().map(Path::new)).unwrap_or(Path::new("pullgate.toml")).into()
    }

    /// Reads and compiles the configuration. `None` if it has errors, which are printed.
    pub(crate) fn load(&self) -> Option<Loaded> {
        let files = reload::read_files(&self.path());
        match files.and_then(|files| config::compile(&files, 1)) {
            Ok(loaded) => Some(loaded),
            Err(faults) => {
                output::print_faults(&faults);
                None
            }
        }
    }
}
