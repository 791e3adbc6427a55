//! The commands: one file each, thin over the library.
//!
//! Exit codes: 0 for success, 1 for a negative result (a failed check, an explained denial, a failed demo),
//! 2 for wrong usage. Only these commands and `app` use `anyhow`.
#![expect(clippy::print_stderr, reason = "a command's errors are for its user")]

#[cfg(feature = "tools")]
mod audit_lines;
#[cfg(feature = "inspect")]
mod ca;
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
mod probe;
#[cfg(feature = "tools")]
mod report;
mod run;
mod user;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use config_argument::CONFIG_PATHS;

/// An egress-filtering forward proxy for container registries: hosts can pull their images and
/// reach nothing else.
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
    /// Make, renew and show the authority that signs certificates for inspected tunnels.
    #[cfg(feature = "inspect")]
    Ca(ca::Args),
    /// Check the configuration. Report every error in every file, with file and line.
    Check(check::Args),
    /// Show whether a host is allowed, which line of which file allows it, and its addresses.
    Explain(explain::Args),
    /// Demonstrate, with an embedded registry, that only the allowed image can be pulled.
    #[cfg(feature = "demo")]
    Demo(demo::Args),
    /// Test which connections this machine can open without the gate.
    #[cfg(feature = "tools")]
    Doctor(Box<doctor::Args>),
    /// Print firewall rules that block every connection that bypasses the gate.
    #[cfg(feature = "tools")]
    Kit(kit::Args),
    /// Ask the gate on this machine whether it accepts sessions; for probes.
    Health(health::Args),
    /// Write the manual pages and the shell completions to a folder.
    #[command(hide = true)]
    #[cfg(feature = "tools")]
    Generate(generate::Args),
    /// Convert the output of az acr show-endpoints to a registry file in TOML.
    Import(import::Args),
    /// Print an audit file as text.
    #[cfg(feature = "tools")]
    Log(log::Args),
    /// Show the hosts of public registries by date, and what a newer date changes.
    #[cfg(feature = "tools")]
    Preset(preset::Args),
    /// Try the real way from this host to a registry, step by step.
    #[cfg(feature = "tools")]
    Probe(probe::Args),
    /// Summarise denials from audit files, by client and host.
    #[cfg(feature = "tools")]
    Report(report::Args),
    /// Manage the users file: names and password hashes.
    User(user::Args),
}

/// Parses the command line, runs the command and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    // clap exits with 2 on wrong usage, and with 0 on --help and --version.
    let arguments = Arguments::parse();
    let ended = match arguments.command {
        Command::Run(args) => run::run(&args),
        #[cfg(feature = "inspect")]
        Command::Ca(args) => ca::run(&args),
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
        Command::Probe(args) => probe::run(&args),
        #[cfg(feature = "tools")]
        Command::Report(args) => report::run(&args),
        Command::User(args) => user::run(&args),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("pullgate: {error:#}");
        ExitCode::FAILURE
    })
}
