//! `pullgate demo`: shows a newcomer, in under a minute and without a network, that an image comes
//! through the gate and nothing else does.
//!
//! The gate, its config folder, TLS and the OCI client are real; the registry is embedded, and
//! every host name leads to loopback. What is shown stands in `acts`; here the stage is set, and
//! what came of it printed.

mod acts;
mod gate;
mod show;
mod stage;

use super::output;
use crate::tools::demo::folder::Afterwards;
use crate::tools::demo::table::{Paint, Table};
use acts::Rates;
use anyhow::{Context, bail};
use stage::Stage;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Shows on an embedded registry what the gate lets through and what it does not.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The size of the image that is pulled, in MiB; it is held in memory.
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u64).range(256..=4096))]
    size_mib: u64,
    /// Leave the gate's config folder, with its audit file, for looking at.
    #[arg(long)]
    keep: bool,
}

/// Runs the command; the exit code is 0 only if all went as it should.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let afterwards = if args.keep { Afterwards::Keep } else { Afterwards::Remove };
    // The gate's own diagnostics would stand between the rows; whoever wants them asks.
    if std::env::var_os("RUST_LOG").is_some() {
        output::log_to_standard_error();
    }
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = perform(args.size_mib << 20, afterwards) => outcome,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    })?;
    output::print(&outcome.render(Paint::for_stdout()).to_string())?;
    Ok(if outcome.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the demonstration showed.
struct Outcome {
    table: Table,
    rates: Option<Rates>,
    kept: Option<PathBuf>,
    took: Duration,
}

async fn perform(size: u64, afterwards: Afterwards) -> anyhow::Result<Outcome> {
    let begun = Instant::now();
    let stage = Stage::set(size, afterwards).await?;
    let mut table = Table::default();
    let rates = acts::pull(&stage, &mut table).await?;
    acts::try_the_exits(&stage, &mut table).await;
    acts::switch_data_endpoints_off(&stage, &mut table).await;
    acts::reload(&stage, &mut table).await?;
    acts::count_escapes(&stage, &mut table);

    stage.gate.stop().await;
    let kept = (afterwards == Afterwards::Keep).then(|| stage.folder.path().to_owned());
    Ok(Outcome { table, rates, kept, took: begun.elapsed() })
}

impl Outcome {
    fn is_well(&self) -> bool {
        self.table.rows().all(crate::tools::demo::table::Row::is_well)
    }

    fn render(&self, paint: Paint) -> String {
        let mut text = format!("\n{}\n", self.table.render(paint));
        if let Some(rates) = &self.rates {
            text.push_str(&rates.render());
        }
        if let Some(path) = &self.kept {
            text.push_str(&format!(
                "The config folder and the audit file stay in {}.\n",
                path.display()
            ));
        }
        let rows = self.table.rows().count();
        let well = self.table.rows().filter(|row| row.is_well()).count();
        let seconds = self.took.as_secs_f64();
        text.push_str(&format!("\n{well} of {rows} as it should be, in {seconds:.1} s.\n"));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole of it, with an image small enough for a build without optimisation.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn everything_is_as_it_should_be() {
        let outcome = perform(4 << 20, Afterwards::Remove).await.unwrap();
        assert!(outcome.is_well(), "{}", outcome.render(Paint::Plain));
        assert!(outcome.rates.is_some());
    }
}
