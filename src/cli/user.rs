//! `pullgate user`: the file with the users' password hashes.

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use clap::Subcommand;

use super::ConfigArgument;
use crate::policy::PasswordHash;
use crate::{config, reload};

/// A fresh file is for its owner and group.
const MODE: u32 = 0o640;

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
            let text = read(&path)?;
            let known = config::user_names(&text).any(|one| *one == **name);
            let password = ask()?;
            let hash = PasswordHash::of(password.as_bytes());
            let hash = hash.map_err(|error| anyhow::anyhow!("no hash: {error}"))?;
            write(&path, &config::with_user(&text, name, &hash))?;
            let did = if known { "has another password" } else { "was added" };
            println!("{name} {did}: {}", path.display());
        }
        Act::Remove { name, of } => {
            let path = of.path()?;
            let Some(text) = config::without_user(&read(&path)?, name) else {
                bail!("{name:?} is no user in {}", path.display());
            };
            write(&path, &text)?;
            println!("{name} was taken away: {}", path.display());
        }
        Act::List { of } => {
            for name in config::user_names(&read(&of.path()?)?) {
                println!("{name}");
            }
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

fn read(path: &Path) -> anyhow::Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read.with_context(|| path.display().to_string()),
    }
}

/// Replaces the file in one step, so that the gate never reads a half.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let mode = fs::metadata(path).map_or(MODE, |known| known.permissions().mode() & 0o777);
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}.new", std::process::id()));
    let fresh = PathBuf::from(fresh);
    let mut open = fs::OpenOptions::new();
    let written = open.write(true).create_new(true).mode(mode).open(&fresh).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    });
    if written.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    written.with_context(|| path.display().to_string())
}
