//! `pullgate check`: every fault of the configuration, or what it amounts to.

use std::process::ExitCode;

use super::ConfigArgument;
use crate::config::{self, Loaded};
use crate::reload;

/// Check the configuration: every fault of every file, by file and line.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArgument,
}

#[expect(clippy::unnecessary_wraps, reason = "all commands have one shape")]
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let path = args.config.path();
    let loaded = reload::read_files(&path).and_then(|files| config::compile(&files, 1));
    Ok(match loaded {
        Ok(loaded) => {
            tell(&loaded);
            ExitCode::SUCCESS
        }
        Err(faults) => {
            super::print_faults(&faults);
            ExitCode::FAILURE
        }
    })
}

fn tell(loaded: &Loaded) {
    for warning in &loaded.warnings {
        println!("warning: {warning}");
    }
    for listener in &loaded.settings.listeners {
        println!("listens on {} ({})", listener.address, listener.mode.code());
    }
    let registries = &loaded.policy.rules().registries;
    for registry in registries.iter().take(MOST_TOLD) {
        println!("{}: {} hosts, {}", registry.name(), registry.endpoints().len(), registry.file());
    }
    if registries.len() > MOST_TOLD {
        println!("and {} more", registries.len() - MOST_TOLD);
    }
    let hosts: usize = registries.iter().map(|registry| registry.endpoints().len()).sum();
    println!("ok: {} registries, {hosts} hosts, no fault", registries.len());
}

/// Of very many registries so many are told one by one.
const MOST_TOLD: usize = 100;
