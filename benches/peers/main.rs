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
mod certificate;
mod chart;
mod claim;
mod client;
mod found;
mod link;
mod load;
mod options;
mod origin;
mod peer;
mod process;
mod publish;
mod registry;
mod row;
mod run;
mod sample;
mod socket;
mod table;
mod wan;
mod web;
mod wire;

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser as _;

use options::Options;

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
