//! Extracts audit lines for `log` and `report`: plain, after the prefix of a log collector, or inside
//! the JSON of docker's json-file driver and of `journalctl --output json`.

use std::borrow::Cow;
use std::io::{self, BufRead};
use std::path::Path;

use serde::Deserialize;

/// The first bytes of compressed files, and the programs that print their content.
const COMPRESSED: &[(&[u8], &str)] = &[
    (&[0x1f, 0x8b], "zcat"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstdcat"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xzcat"),
    (b"BZh", "bzcat"),
];

/// The JSON object in which a container runtime or a log service wraps a line.
#[derive(Debug, Deserialize)]
struct Wrapped {
    /// docker's json-file driver.
    #[serde(alias = "MESSAGE")]
    log: Option<String>,
}

/// Rejects compressed input. The error names the command that reads it.
///
/// # Errors
/// When the input is compressed or cannot be read.
pub(super) fn refuse_compressed(
    lines: &mut impl BufRead,
    path: &Path,
    command: &str,
) -> io::Result<()> {
    let start = lines.fill_buf()?;
    match COMPRESSED.iter().find(|(magic, _)| start.starts_with(magic)) {
        None => Ok(()),
        Some((_, program)) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "the file is compressed; read it with: {program} {} | pullgate {command} -",
                path.display()
            ),
        )),
    }
}

/// Returns the JSON of an audit line.
pub(super) fn payload(line: &[u8]) -> Cow<'_, [u8]> {
    // CRI runtimes and log collectors add a prefix.
    let start = line.iter().position(|byte| *byte == b'{').unwrap_or_default();
    let line = line.get(start..).unwrap_or_default();
    match serde_json::from_slice::<Wrapped>(line) {
        Ok(Wrapped { log: Some(inner) }) => {
            let start = inner.find('{').unwrap_or_default();
            Cow::Owned(inner.into_bytes().split_off(start))
        }
        _ => Cow::Borrowed(line),
    }
}

/// Returns the error for an input that has lines, but no audit line.
pub(super) fn none_found(path: &Path) -> String {
    format!(
        "{} contains no audit line: expected the JSON lines that [audit] path writes, plain or as docker, \
         containerd or the journal wrap them",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_in_what_wraps_it() {
        let bare = r#"{"time":"T","outcome":"denied"}"#;
        let escaped = bare.replace('"', "\\\"");
        for wrapped in [
            bare.to_owned(),
            format!("2026-11-24T03:40:00.1Z stdout F {bare}"),
            format!(r#"{{"log":"{escaped}\n","stream":"stdout","time":"T"}}"#),
            format!(r#"{{"__CURSOR":"x","MESSAGE":"{escaped}"}}"#),
        ] {
            assert_eq!(payload(wrapped.as_bytes()).trim_ascii_end(), bare.as_bytes(), "{wrapped}");
        }
        assert_eq!(&*payload(b"no json"), b"no json");
    }

    #[test]
    fn a_compressed_file_is_refused_with_the_command_that_reads_it() {
        let path = Path::new("audit.jsonl.2.gz");
        let error = refuse_compressed(&mut &[0x1f, 0x8b, 8, 0][..], path, "log").unwrap_err();
        assert!(error.to_string().ends_with("zcat audit.jsonl.2.gz | pullgate log -"), "{error}");
        assert!(refuse_compressed(&mut &b"{}"[..], path, "log").is_ok());
        assert!(refuse_compressed(&mut &b""[..], path, "log").is_ok());
    }
}
