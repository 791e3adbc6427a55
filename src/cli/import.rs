//! `pullgate import`: a registry's TOML from what `az` printed.

use std::fs::File;
use std::io::Read;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;

use super::output;
use crate::config::{self, ImportedEndpoints};

/// `az` prints a few kilobytes.
const LARGEST: u64 = 1024 * 1024;

/// Make a registry's TOML from what az acr show-endpoints printed, its future data endpoints
/// included.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What az printed; standard input for -.
    #[arg(value_name = "FILE", default_value = "-")]
    file: String,
}

#[expect(clippy::print_stderr, reason = "the next steps are for the user, the TOML for a file")]
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (name, text) = if args.file == "-" {
        ("standard input", read(std::io::stdin().lock()).context("standard input")?)
    } else {
        let file = File::open(&args.file).and_then(read);
        (args.file.as_str(), file.with_context(|| format!("cannot read {}", args.file))?)
    };
    let import = match config::import(&Arc::from(name), &text) {
        Ok(import) => import,
        Err(faults) => {
            output::print_faults(&faults);
            return Ok(ExitCode::FAILURE);
        }
    };
    output::print(&import.toml)?;
    // A registry has one file: what az printed would be refused beside it.
    let instead = match args.file.as_str() {
        "-" => String::new(),
        file => format!(" in place of {file}"),
    };
    eprintln!("next: save this as registries.d/{}.toml{instead}, and pullgate check", import.name);
    if import.endpoints == ImportedEndpoints::Future {
        eprintln!(
            "dedicated data endpoints are off, so these are the ones to come: roll the policy out \
             everywhere first,\nthen az acr update --name {} --data-endpoint-enabled",
            import.resource
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn read(from: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    from.take(LARGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(std::io::Error::other("it is larger than 1 MiB"));
    }
    Ok(text)
}
