//! The options of the command line.

use std::path::PathBuf;

use anyhow::bail;

use crate::peer::Kind;
use crate::row::{ROWS, Row};
use crate::wan;

/// Compares pullgate with other proxies.
#[derive(Debug, clap::Parser)]
pub struct Options {
    /// Measure only these rows, by code (see benches/peers/row.rs and wan.rs).
    #[arg(long, value_delimiter = ',', value_name = "ROW,…")]
    pub only: Vec<String>,
    /// Measure only these proxies.
    #[arg(long, value_delimiter = ',', value_name = "PROXY,…")]
    pub peers: Vec<Kind>,
    /// Number of rounds of every row.
    #[arg(long)]
    pub rounds: Option<usize>,
    /// Another build of pullgate to measure beside this one.
    #[arg(long, value_name = "PROGRAM")]
    pub beside: Option<PathBuf>,
    /// Write the figures and the chart into README.md and docs/.
    #[arg(long)]
    pub publish: bool,
    /// Measure nothing; use the stored results of an earlier run.
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Measure over long links in place of the loopback interface. Requires root.
    #[arg(long)]
    pub wan: bool,
    /// Added by `cargo bench`; ignored.
    #[arg(long, hide = true)]
    pub bench: bool,
}

impl Options {
    pub fn through(&self, kind: Kind) -> bool {
        let chosen = self.peers.is_empty() || self.peers.contains(&kind);
        chosen && (!kind.is_other() || self.beside.is_some())
    }

    /// Returns the rows to measure, or an error that names a code that none of them has.
    pub fn rows(&self) -> anyhow::Result<Vec<&'static Row>> {
        let all = if self.wan { wan::ROWS } else { ROWS };
        if let Some(code) = self.only.iter().find(|code| all.iter().all(|row| row.code != **code)) {
            let codes: Vec<&str> = all.iter().map(|row| row.code).collect();
            bail!("there is no row {code}; the rows are {}", codes.join(", "));
        }
        let chosen =
            |row: &&Row| self.only.is_empty() || self.only.iter().any(|code| code == row.code);
        Ok(all.iter().filter(chosen).collect())
    }
}
