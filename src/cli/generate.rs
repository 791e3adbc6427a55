//! `pullgate generate`: writes the manual pages and the shell completions, for packaging.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Command, ValueEnum as _};
use clap_complete::Shell;

/// Write the manual pages and the shell completions to a folder.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder. It is created if it does not exist.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

pub(crate) fn run(args: &Args, command: &Command) -> anyhow::Result<ExitCode> {
    let name = || args.folder.display().to_string();
    fs::create_dir_all(&args.folder).with_context(name)?;
    clap_mangen::generate_to(command.clone(), &args.folder).with_context(name)?;
    for shell in Shell::value_variants() {
        clap_complete::generate_to(*shell, &mut command.clone(), "pullgate", &args.folder)
            .with_context(name)?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Arguments;
    use clap::CommandFactory as _;

    #[test]
    fn every_command_has_a_page_and_every_shell_its_completion() {
        let folder = tempfile::tempdir().unwrap();
        run(&Args { folder: folder.path().to_owned() }, &Arguments::command()).unwrap();
        for name in ["pullgate.1", "pullgate-run.1", "pullgate.bash", "_pullgate", "pullgate.fish"]
        {
            let text = fs::read_to_string(folder.path().join(name)).unwrap();
            assert!(text.contains("pullgate"), "{name}");
        }
    }
}
