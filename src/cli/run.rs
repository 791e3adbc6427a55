//! `pullgate run`: runs the gate until a signal ends it.

use std::process::ExitCode;

use anyhow::Context as _;
use tokio::runtime::Builder;

use super::config_argument::ConfigArgument;
use super::output;
use crate::app;

/// Run the gate.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArgument,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    output::log_to_standard_error();
    // Must run while this is the only thread.
    let inherited = app::Inherited::from_environment()?;
    let prepared = app::Prepared::read(&args.config.path())?;
    prepared.confine();
    // Sessions run on separate threads.
    let runtime = Builder::new_current_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(app::run(prepared, inherited))?;
    Ok(ExitCode::SUCCESS)
}
