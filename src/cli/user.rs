//! `pullgate user`: the file with the users' password hashes.

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

/// The longest password that is taken, in bytes.
const LONGEST_PASSWORD: usize = 1_024;

/// Keep the file with the users' password hashes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Add a user, or give one another password: asked for on a terminal, else read from standard
    /// input.
    Add {
        /// The user's name.
        name: String,
        #[command(flatten)]
        of: Of,
    },
    /// Take a user away.
    Remove {
        /// The user's name.
        name: String,
        #[command(flatten)]
        of: Of,
    },
    /// Print the users' names.
    List {
        #[command(flatten)]
        of: Of,
    },
}

#[derive(Debug, clap::Args)]
struct Of {
    /// The users' file; else the one that the configuration names.
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
            // What cannot be read is said before the password is asked for.
            file::read(&path)?;
            let password = ask()?;
            let hash = PasswordHash::of(password.as_bytes());
            let hash = hash.map_err(|error| anyhow::anyhow!("no hash: {error}"))?;
            let file = UsersFile::lock(&path)?;
            let known = config::user_names(file.text()).any(|one| *one == **name);
            let text = config::with_user(file.text(), name, &hash);
            let unreadable = file.replace(&text)?;
            let did = if known { "has another password" } else { "was added" };
            output::print(&format!("{name} {did}: {}\n", path.display()))?;
            warn(unreadable);
        }
        Act::Remove { name, of } => {
            let path = of.path()?;
            let file = UsersFile::lock(&path)?;
            let Some(text) = config::without_user(file.text(), name) else {
                bail!("{name:?} is no user in {}", path.display());
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
    /// The file that was named, or that the configuration names.
    fn path(&self) -> anyhow::Result<PathBuf> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        let path = self.config.path();
        let main = reload::read_main(&path);
        let named = config::named_by(&main).map_err(|faults| {
            let first = faults.first().map(ToString::to_string).unwrap_or_default();
            anyhow::anyhow!("{first}; or name the users' file with --file")
        })?;
        Ok(named.users)
    }
}

/// The password: twice where it cannot be seen, a line of standard input elsewhere.
fn ask() -> anyhow::Result<String> {
    let password = if io::stdin().is_terminal() {
        let first = rpassword::prompt_password("Password: ").context("the terminal")?;
        let second = rpassword::prompt_password("Again: ").context("the terminal")?;
        ensure!(first == second, "the two differ");
        first
    } else {
        let mut line = String::new();
        io::stdin().read_line(&mut line).context("standard input")?;
        line.trim_end_matches(['\r', '\n']).to_owned()
    };
    ensure!(!password.is_empty(), "an empty password is none");
    ensure!(password.len() <= LONGEST_PASSWORD, "a password has at most 1024 bytes");
    ensure!(!password.contains('\0'), "a password has no NUL");
    Ok(password)
}

#[expect(clippy::print_stderr, reason = "the remedy is for the user, the result for a script")]
fn warn(unreadable: Option<file::Unreadable>) {
    if let Some(unreadable) = unreadable {
        eprintln!("warning: {unreadable}");
    }
}
