//! `pullgate user`: manages the users file, which holds names and password hashes.

mod file;

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use clap::Subcommand;

use super::config_argument::ConfigArgument;
use super::output;
use crate::policy::PasswordHash;
use crate::{config, reload};
use file::UsersFile;

/// The maximum length of a password, in bytes.
const LONGEST_PASSWORD: usize = 1_024;

/// Manage the users file: names and password hashes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Add a user, or change a password. Prompts on a terminal, otherwise reads one line from standard
    /// input.
    Add {
        /// The user's name.
        name: String,
        #[command(flatten)]
        of: Of,
    },
    /// Remove a user.
    Remove {
        /// The user's name.
        name: String,
        #[command(flatten)]
        of: Of,
    },
    /// Print the names of the users.
    List {
        #[command(flatten)]
        of: Of,
    },
}

#[derive(Debug, clap::Args)]
struct Of {
    /// The users file. Default: [policy] users-file of the configuration.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgument,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.act {
        Act::Add { name, of } => {
            ensure!(
                config::is_user_name(name),
                "{name:?} cannot be a user's name: use up to 64 printable characters without a \
                 colon or a space"
            );
            let path = of.path()?;
            // Fails before the prompt if the file cannot be read.
            file::read(&path)?;
            let password = ask()?;
            let hash = PasswordHash::of(password.as_bytes());
            let hash =
                hash.map_err(|error| anyhow::anyhow!("cannot hash the password: {error}"))?;
            let file = UsersFile::lock(&path)?;
            let known = config::user_names(file.text()).any(|one| *one == **name);
            let text = config::with_user(file.text(), name, &hash);
            let unreadable = file.replace(&text)?;
            let did = if known { "has a new password" } else { "was added" };
            output::print(&format!("{name} {did}: {}\n", path.display()))?;
            warn(unreadable);
        }
        Act::Remove { name, of } => {
            let path = of.path()?;
            let file = UsersFile::lock(&path)?;
            let Some(text) = config::without_user(file.text(), name) else {
                bail!("the user {name:?} does not exist in {}", path.display());
            };
            let unreadable = file.replace(&text)?;
            output::print(&format!("{name} was removed: {}\n", path.display()))?;
            warn(unreadable);
        }
        Act::List { of } => {
            let text = file::read(&of.path()?)?;
            let names = config::user_names(&text).map(|name| format!("{name}\n"));
            output::print(&names.collect::<String>())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Of {
    /// Returns the path of `--file`, or the users file of the configuration.
    fn path(&self) -> anyhow::Result<PathBuf> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        let path = self.config.path();
        let main = reload::read_main(&path);
        let named = config::named_by(&main).map_err(|faults| {
            let first = faults.first().map(ToString::to_string).unwrap_or_default();
            anyhow::anyhow!("{first}; or give the users file with --file")
        })?;
        Ok(named.users)
    }
}

/// Reads the password: from two prompts on a terminal, otherwise from one line of standard input.
fn ask() -> anyhow::Result<String> {
    let password = if io::stdin().is_terminal() {
        let first = rpassword::prompt_password("Password: ").context("cannot read the terminal")?;
        let second =
            rpassword::prompt_password("Repeat it: ").context("cannot read the terminal")?;
        ensure!(first == second, "the passwords differ");
        first
    } else {
        let mut line = String::new();
        io::stdin().read_line(&mut line).context("cannot read standard input")?;
        line.trim_end_matches(['\r', '\n']).to_owned()
    };
    ensure!(!password.is_empty(), "the password must not be empty");
    ensure!(password.len() <= LONGEST_PASSWORD, "the password must not exceed 1024 bytes");
    ensure!(!password.contains('\0'), "the password must not contain a NUL byte");
    Ok(password)
}

#[expect(clippy::print_stderr, reason = "the remedy is for the user, the result for a script")]
fn warn(unreadable: Option<file::Unreadable>) {
    if let Some(unreadable) = unreadable {
        eprintln!("warning: {unreadable}");
    }
}
