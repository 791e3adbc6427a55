//! Compares pullgate with other proxies: `make bench`, or `cargo bench --bench peers -- --help`.
//!
//! The harness has its own client and origin. It measures pullgate, HAProxy, nginx, Squid, Traffic
//! Server, a relay that only splices, and a direct connection, on the loopback interface, in
//! interleaved rounds. It prints tables of medians, and the performance targets with their results.
//! docs/performance.md describes the method.
//!
//! With `--wan` there is a long link between the proxies and the origin, in place of the loopback
//! interface: see benches/peers/link.
//!
//! The client is this process. The origin and the bare relay are this program in separate
//! processes, so that the cost of each proxy can be measured separately.
#![allow(
    missing_docs,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a bench fails by panicking, and tells how it gets on"
)]

mod bare;
mod bench;
mod chart;
mod claim;
mod link;
mod load;
mod origin;
mod peer;
mod process;
mod publish;
mod row;
mod run;
mod sample;
mod socket;
mod table;
mod wan;
mod wire;

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser as _;

use peer::Kind;

/// Compares pullgate with other proxies.
#[derive(Debug, clap::Parser)]
pub struct Options {
    /// Measure only these rows, by code (see benches/peers/row.rs).
    #[arg(long, value_delimiter = ',', value_name = "ROW,…")]
    only: Vec<String>,
    /// Measure only these proxies, by code (see benches/peers/peer/mod.rs).
    #[arg(long, value_delimiter = ',', value_name = "PROXY,…")]
    peers: Vec<String>,
    /// Number of rounds of every row.
    #[arg(long)]
    rounds: Option<usize>,
    /// Another build of pullgate to measure beside this one.
    #[arg(long, value_name = "PROGRAM")]
    beside: Option<PathBuf>,
    /// Write the figures and the chart into README.md and docs/.
    #[arg(long)]
    publish: bool,
    /// Measure nothing; use the stored results of an earlier run.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Measure over long links in place of the loopback interface. Requires root.
    #[arg(long)]
    wan: bool,
    /// Added by `cargo bench`; ignored.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    fn through(&self, kind: Kind) -> bool {
        let chosen = self.peers.is_empty() || self.peers.iter().any(|code| code == kind.code());
        chosen && (kind != Kind::Other || self.beside.is_some())
    }

    fn measures(&self, row: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|code| code == row)
    }
}

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["origin", ports] => return origin::run(ports.parse()?),
        ["origin", ports, "far"] => {
            link::enter()?;
            return origin::run(ports.parse()?);
        }
        ["link", near, far] => return link::run(near.parse()?, far.parse()?),
        ["bare", upstream] => return bare::run(upstream.parse()?),
        _ => {}
    }
    let options = Options::parse();
    if !options.bench && options.from.is_none() {
        println!("this measures for minutes: cargo bench --bench peers");
        return Ok(());
    }
    let kept = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(if options.wan {
        "wan.json"
    } else {
        "peers.json"
    });
    let found = match &options.from {
        Some(file) => serde_json::from_str(&fs::read_to_string(file)?)?,
        None => {
            let found = run::run(&options, &kept)?;
            eprintln!("{:>4} s  done; kept in {}", found.seconds, kept.display());
            found
        }
    };
    if options.wan {
        println!("{}", wan::markdown(&found));
        if options.publish {
            publish::write_wan(&found).context("the figures cannot be published")?;
        }
        return Ok(());
    }
    println!("{}", publish::everything(&found));
    if options.publish {
        publish::write(&found).context("the figures cannot be published")?;
    }
    Ok(())
}
