//! The options of the command line.

use std::path::PathBuf;

use crate::peer::Kind;

/// Compares pullgate with other proxies.
#[derive(Debug, clap::Parser)]
pub struct Options {
    /// Measure only these rows, by code (see benches/peers/row.rs).
    #[arg(long, value_delimiter = ',', value_name = "ROW,…")]
    pub only: Vec<String>,
    /// Measure only these proxies, by code (see benches/peers/peer/mod.rs).
    #[arg(long, value_delimiter = ',', value_name = "PROXY,…")]
    pub peers: Vec<String>,
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
        let chosen = self.peers.is_empty() || self.peers.iter().any(|code| code == kind.code());
        chosen && (kind != Kind::Other || self.beside.is_some())
    }

    pub fn measures(&self, row: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|code| code == row)
    }
}
