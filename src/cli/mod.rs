//! The commands: one file each, thin over the library.
//!
//! Exit codes: 0 well, 1 the answer is no (a failed check, an explained denial, a failed demo),
//! 2 wrong usage. Only here, and in `app`, is `anyhow` at home.
#![expect(clippy::print_stderr, reason = "a command's errors are for its user")]

#[cfg(feature = "tools")]
mod audit_lines;
mod check;
mod config_argument;
#[cfg(feature = "demo")]
mod demo;
#[cfg(feature = "tools")]
mod doctor;
mod explain;
#[cfg(feature = "tools")]
mod generate;
mod health;
mod import;
#[cfg(feature = "tools")]
mod kit;
#[cfg(feature = "tools")]
mod log;
mod output;
#[cfg(feature = "tools")]
mod preset;
#[cfg(feature = "tools")]
mod report;
mod run;
mod user;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use config_argument::CONFIG_PATHS;

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
    #[cfg(feature = "demo")]
    Demo(demo::Args),
    /// Try the ways out of this machine, and say which are open.
    #[cfg(feature = "tools")]
    Doctor(doctor::Args),
    /// Print firewall rules that leave no way past the gate, made from the configuration.
    #[cfg(feature = "tools")]
    Kit(kit::Args),
    /// Ask the gate on this machine whether it accepts sessions; for probes.
    Health(health::Args),
    /// Write the manual pages and the shells' completions into a folder.
    #[command(hide = true)]
    #[cfg(feature = "tools")]
    Generate(generate::Args),
    /// Make a registry's TOML from what az acr show-endpoints printed.
    Import(import::Args),
    /// Print audit lines as text, and those that come.
    #[cfg(feature = "tools")]
    Log(log::Args),
    /// Show the hosts of public registries by date, and what a newer date changes.
    #[cfg(feature = "tools")]
    Preset(preset::Args),
    /// Say what audit files show would break, storage accounts first.
    #[cfg(feature = "tools")]
    Report(report::Args),
    /// Keep the file with the users' password hashes.
    User(user::Args),
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
        #[cfg(feature = "demo")]
        Command::Demo(args) => demo::run(&args),
        #[cfg(feature = "tools")]
        Command::Doctor(args) => doctor::run(&args),
        #[cfg(feature = "tools")]
        Command::Kit(args) => kit::run(&args),
        #[cfg(feature = "tools")]
        Command::Generate(args) => {
            generate::run(&args, &<Arguments as clap::CommandFactory>::command())
        }
        Command::Health(args) => health::run(&args),
        Command::Import(args) => import::run(&args),
        #[cfg(feature = "tools")]
        Command::Log(args) => log::run(&args),
        #[cfg(feature = "tools")]
        Command::Preset(args) => preset::run(&args),
        #[cfg(feature = "tools")]
        Command::Report(args) => report::run(&args),
        Command::User(args) => user::run(&args),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("pullgate: {error:#}");
        ExitCode::FAILURE
    })
}
