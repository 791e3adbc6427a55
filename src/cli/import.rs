//! `pullgate import`: converts the output of `az acr show-endpoints` to a registry file in TOML, or
//! compares it with one.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;

use super::output;
use crate::config::{self, Comparison, ImportedEndpoints};

/// The maximum size of the input, in bytes. `az` prints a few kilobytes.
const LARGEST: u64 = 1024 * 1024;

/// Convert the output of az acr show-endpoints to a registry file in TOML, with the future data
/// endpoints if dedicated data endpoints are off.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The output of az. `-` is standard input.
    #[arg(value_name = "FILE", default_value = "-")]
    file: String,
    /// Say instead which endpoints this registry file lacks, and which it has in excess.
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (name, text) = if args.file == "-" {
        ("standard input", read(std::io::stdin().lock()).context("cannot read standard input")?)
    } else {
        let file = File::open(&args.file).and_then(read);
        (args.file.as_str(), file.with_context(|| format!("cannot read {}", args.file))?)
    };
    let name = Arc::from(name);
    match &args.compare {
        Some(path) => compare(&name, &text, path),
        None => import(&name, &text, &args.file),
    }
}

#[expect(clippy::print_stderr, reason = "the next steps are for the user, the TOML for a file")]
fn import(name: &Arc<str>, text: &str, file: &str) -> anyhow::Result<ExitCode> {
    let import = match config::import(name, text) {
        Ok(import) => import,
        Err(faults) => {
            output::print_faults(&faults);
            return Ok(ExitCode::FAILURE);
        }
    };
    output::print(&import.toml)?;
    // A registry must have exactly one file, so the output of az must not remain beside it.
    let instead = match file {
        "-" => String::new(),
        file => format!(" in place of {file}"),
    };
    eprintln!(
        "next: save this as registries.d/{}.toml{instead}, then run pullgate check",
        import.name
    );
    if import.endpoints == ImportedEndpoints::Future {
        eprintln!(
            "dedicated data endpoints are off, so these are the future ones: first deploy the policy \
             everywhere,\nthen run az acr update --name {} --data-endpoint-enabled",
            import.resource
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn compare(name: &Arc<str>, text: &str, path: &std::path::Path) -> anyhow::Result<ExitCode> {
    let file: Arc<str> = path.display().to_string().into();
    let policy = File::open(path).and_then(read).with_context(|| format!("cannot read {file}"))?;
    let comparison = match config::compare((name, text), (&file, &policy)) {
        Ok(comparison) => comparison,
        Err(faults) => {
            output::print_faults(&faults);
            return Ok(ExitCode::FAILURE);
        }
    };
    let Comparison { lacking, surplus } = &comparison;
    let mut out = String::new();
    for (target, kind) in lacking {
        writeln!(out, "lacking: {target} ({}); add it to {file}", kind.code())?;
    }
    for (target, kind) in surplus {
        writeln!(out, "surplus: {target} ({}); the registry has it no longer", kind.code())?;
    }
    if comparison.is_empty() {
        writeln!(out, "{file} has every endpoint of the registry, and no other")?;
    }
    output::print(&out)?;
    Ok(if comparison.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read(from: impl Read) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    from.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(std::io::Error::other("it is larger than 1 MiB"));
    }
    config::decode(bytes).map_err(std::io::Error::other)
}
