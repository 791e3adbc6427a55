//! The commands: one file each, thin over the library.
//!
//! Exit codes: 0 well, 1 the answer is no (a failed check, an explained denial, a failed demo),
//! 2 wrong usage. Only here, and in `app`, is `anyhow` at home.
#![expect(clippy::print_stderr, reason = "a command's errors are for its user")]

mod audit_lines;
mod check;
mod demo;
mod doctor;
mod explain;
mod generate;
mod health;
mod import;
mod kit;
mod log;
mod report;
mod run;
mod user;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

/// Where the configuration is looked for, in this order, when `--config` names none.
pub const CONFIG_PATHS: &[&str] = &["config/pullgate.toml", "/etc/pullgate/pullgate.toml"];

/// An egress-filtering forward proxy for container registries: a host may pull its images and
/// nothing else.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gate.
    Run(run::Args),
    /// Check the configuration: every fault of every file, by file and line.
    Check(check::Args),
    /// Say whether a host is allowed, by which file and line, and where it resolves to.
    Explain(explain::Args),
    /// Show, on an embedded registry, that an image comes through and nothing else does.
    Demo(demo::Args),
    /// Try the ways out of this machine, and say which are open.
    Doctor(doctor::Args),
    /// Print firewall rules that leave no way past the gate, made from the configuration.
    Kit(kit::Args),
    /// Ask the gate on this machine whether it accepts sessions; for probes.
    Health(health::Args),
    /// Write the manual pages and the shells' completions into a folder.
    #[command(hide = true)]
    Generate(generate::Args),
    /// Make a registry's TOML from what az acr show-endpoints printed.
    Import(import::Args),
    /// Print audit lines as text, and those that come.
    Log(log::Args),
    /// Say what audit files show would break, storage accounts first.
    Report(report::Args),
    /// Keep the file with the users' password hashes.
    User(user::Args),
}

/// The configuration's file, as `--config` of several commands names it.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigArgument {
    /// The configuration; config/pullgate.toml, else /etc/pullgate/pullgate.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgument {
    /// The file that was named, or the first of [`CONFIG_PATHS`] that is there.
    pub(crate) fn path(&self) -> PathBuf {
        if let Some(path) = &self.config {
            return path.clone();
        }
        let found = CONFIG_PATHS.iter().map(Path::new).find(|path| path.exists());
        found.or(CONFIG_PATHS.last().map(Path::new)).unwrap_or(Path::new("pullgate.toml")).into()
    }
}

/// Reads the command line, runs the command and says how it went.
#[must_use]
pub fn main() -> ExitCode {
    // clap ends with 2 on wrong usage, and with 0 on --help and --version.
    let arguments = Arguments::parse();
    let ended = match arguments.command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Kit(args) => kit::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Health(args) => health::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Log(args) => log::run(&args),
        Command::Report(args) => report::run(&args),
        Command::User(args) => user::run(&args),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("pullgate: {error:#}");
        ExitCode::FAILURE
    })
}

/// Prints a command's result. A reader that closes the pipe early, such as `head`, is not an error.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed.context("standard output"),
    }
}

/// Prints a value as indented JSON.
pub(crate) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Diagnostics of a long-running command; `RUST_LOG` chooses what.
pub(crate) fn log_to_standard_error() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    // A second command in one process, as in tests, keeps the first one's log.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(terminal && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        .try_init();
}

/// Every fault of the configuration, a line each, and their number.
pub(crate) fn print_faults(faults: &[crate::policy::Fault]) {
    for fault in faults {
        eprintln!("{fault}");
    }
    eprintln!("{} fault(s)", faults.len());
}
