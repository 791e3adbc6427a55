//! Prints the figures, and writes them between two markers in README.md and in the manual.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context as _;

use crate::found::Found;
use crate::sample::Sample;
use crate::table::{SUMMARY, TABLES};
use crate::{chart, claim, wan};

/// Returns all results of a run as Markdown.
pub fn everything(found: &Found) -> String {
    let mut out = conditions(found);
    for table in TABLES {
        let lines = table.markdown(found);
        if !lines.is_empty() {
            let _ = write!(out, "\n### {}\n{lines}", table.title);
        }
    }
    let _ = write!(out, "\n### What must hold\n{}", claim::markdown(found));
    out
}

fn conditions(found: &Found) -> String {
    let versions: Vec<String> = found
        .versions
        .iter()
        .filter(|(kind, version)| kind.is_peer() && !version.is_empty())
        .map(|(kind, version)| {
            let name = kind.title().split(',').next().unwrap_or_default();
            format!("{name} {version}")
        })
        .collect();
    let mut versions = versions;
    versions.dedup();
    let samples: Vec<&Sample> =
        found.samples.values().flat_map(BTreeMap::values).flatten().collect();
    let disturbed = samples.iter().filter(|sample| sample.is_disturbed()).count();
    let mut out = format!(
        "{}; {}. {} measurements, of which other programs disturbed {disturbed}.\n",
        found.machine,
        versions.join(", "),
        samples.len()
    );
    if !found.absent.is_empty() {
        let _ = writeln!(out, "Not installed: {}.", found.absent.join(", "));
    }
    out
}

/// Writes the figures into the repository.
pub fn write(found: &Found) -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::write(root.join("docs/performance.svg"), chart::svg(found))?;
    let summary = format!("{}\n{}", SUMMARY.markdown(found), conditions(found));
    between_marks(&root.join("README.md"), BEGIN, &summary)?;
    between_marks(&root.join("docs/performance.md"), BEGIN, &everything(found))
}

/// Writes the figures over long links into the manual.
pub fn write_wan(found: &Found) -> anyhow::Result<()> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/performance.md");
    between_marks(&page, BEGIN_WAN, &wan::markdown(found))
}

const BEGIN: &str = "<!-- figures: written by cargo bench --bench peers -- --publish -->\n";
const BEGIN_WAN: &str =
    "<!-- figures: written by cargo bench --bench peers -- --wan --publish -->\n";
const END: &str = "<!-- end of the figures -->\n";

fn between_marks(file: &Path, begin: &str, text: &str) -> anyhow::Result<()> {
    let page = fs::read_to_string(file)?;
    let marked = page
        .split_once(begin)
        .and_then(|(before, rest)| rest.split_once(END).map(|(_, behind)| (before, behind)));
    let (before, behind) = marked.with_context(|| format!("{} has no marks", file.display()))?;
    fs::write(file, format!("{before}{begin}{text}{END}{behind}"))?;
    Ok(())
}
