//! `--config`: which configuration a command reads.

use std::path::{Path, PathBuf};

/// Where the configuration is looked for, in this order, when `--config` names none.
pub const CONFIG_PATHS: &[&str] = &["config/pullgate.toml", "/etc/pullgate/pullgate.toml"];

/// The configuration's file, as `--config` of several commands names it.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigArgument {
    /// The configuration; config/pullgate.toml, else /etc/pullgate/pullgate.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgument {
    /// The file that was named, or the first of [`CONFIG_PATHS`] that is there.
    pub(crate) fn path(&self) -> PathBuf {
        if let Some(path) = &self.config {
            return path.clone();
        }
        let found = CONFIG_PATHS.iter().map(Path::new).find(|path| path.exists());
        found.or(CONFIG_PATHS.last().map(Path::new)).unwrap_or(Path::new("pullgate.toml")).into()
    }
}
