//! `pullgate demo`: demonstrates, in under a minute and without a network, that the gate forwards an
//! image pull and rejects everything else.
//!
//! The gate, its configuration folder, TLS and the OCI client are real. The registry is embedded, and
//! every host name resolves to loopback. `acts` holds the demonstration; this file prepares it and
//! prints the result.

mod acts;
mod gate;
mod show;
mod stage;

use super::output;
use crate::tools::demo::folder::Afterwards;
use crate::tools::demo::table::{Paint, Table};
use acts::Rates;
use anyhow::{Context, bail};
use stage::DemoStage;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Demonstrate, with an embedded registry, what the gate allows and what it rejects.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Size of the image to pull, in MiB. The image is held in memory.
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u64).range(256..=4096))]
    size_mib: u64,
    /// Keep the gate's configuration folder and audit file for inspection.
    #[arg(long)]
    keep: bool,
}

/// Runs the command. The exit code is 0 only if every row has the expected result.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let afterwards = if args.keep { Afterwards::Keep } else { Afterwards::Remove };
    // The gate's diagnostics would interrupt the table, so they are off unless RUST_LOG is set.
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

/// The result of the demonstration.
struct DemoResult {
    table: Table,
    rates: Option<Rates>,
    kept: Option<PathBuf>,
    took: Duration,
}

async fn perform(size: u64, afterwards: Afterwards) -> anyhow::Result<DemoResult> {
    let begun = Instant::now();
    let stage = DemoStage::set(size, afterwards).await?;
    let mut table = Table::default();
    let rates = acts::pull(&stage, &mut table).await?;
    acts::try_the_exits(&stage, &mut table).await;
    acts::switch_data_endpoints_off(&stage, &mut table).await;
    acts::reload(&stage, &mut table).await?;
    acts::count_escapes(&stage, &mut table);

    stage.gate.stop().await;
    let kept = (afterwards == Afterwards::Keep).then(|| stage.folder.path().to_owned());
    Ok(DemoResult { table, rates, kept, took: begun.elapsed() })
}

impl DemoResult {
    fn is_well(&self) -> bool {
        self.table.rows().all(crate::tools::demo::table::TableRow::is_well)
    }

    fn render(&self, paint: Paint) -> String {
        let mut text = format!("\n{}\n", self.table.render(paint));
        if let Some(rates) = &self.rates {
            text.push_str(&rates.render());
        }
        if let Some(path) = &self.kept {
            text.push_str(&format!(
                "The configuration folder and the audit file are kept in {}.\n",
                path.display()
            ));
        }
        let rows = self.table.rows().count();
        let well = self.table.rows().filter(|row| row.is_well()).count();
        let seconds = self.took.as_secs_f64();
        text.push_str(&format!("\n{well} of {rows} results as expected, in {seconds:.1} s.\n"));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the whole demonstration, with an image small enough for a debug build.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn everything_is_as_it_should_be() {
        let outcome = perform(4 << 20, Afterwards::Remove).await.unwrap();
        assert!(outcome.is_well(), "{}", outcome.render(Paint::Plain));
        assert!(outcome.rates.is_some());
    }
}
