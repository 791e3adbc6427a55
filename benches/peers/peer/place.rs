//! What the configuration of a proxy is made from.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::certificate::pem;

/// The input of each configuration.
pub struct Place<'a> {
    /// The folder for the proxy's files.
    pub folder: &'a Path,
    /// Its listening address.
    pub address: SocketAddr,
    pub origin: SocketAddr,
    /// Maximum number of descriptors.
    pub descriptors: u64,
    /// Number of tunnels that it must support, with two descriptors each.
    pub tunnels: u64,
    /// The origin's certificate, in DER.
    pub certificate: &'a [u8],
    /// pullgate's other build.
    pub other: Option<&'a Path>,
}

impl Place<'_> {
    /// Writes the origin's certificate as a file. Returns its path.
    pub fn write_certificate(&self) -> std::io::Result<PathBuf> {
        let file = self.folder.join("origin.pem");
        std::fs::write(&file, pem("CERTIFICATE", self.certificate))?;
        Ok(file)
    }
}

/// Returns a program's version: the first word of its output with a digit after a dot.
pub fn version_of(program: &str, argument: &str) -> String {
    let Some(path) = crate::process::program(program) else { return String::new() };
    let Ok(output) = std::process::Command::new(path).arg(argument).output() else {
        return String::new();
    };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let number = |word: &&str| word.contains('.') && word.bytes().any(|one| one.is_ascii_digit());
    let word = said.split([' ', '/', '\n']).find(number).unwrap_or_default();
    word.split(['-', '+']).next().unwrap_or_default().to_owned()
}
