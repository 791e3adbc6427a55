//! Who pulled what through the mirror: a row for each client and repository.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use serde::Serialize;

/// Rows, and references of a row, that are kept.
const ROWS: usize = 10_000;
const REFERENCES: usize = 8;

/// What of a request's line bears on it; printable already.
#[derive(Debug, Default)]
pub(super) struct PulledRequest {
    pub(super) client: String,
    pub(super) image: String,
    pub(super) operation: String,
    pub(super) method: String,
    pub(super) reference: Option<String>,
    pub(super) bytes_down: u64,
}

/// The pulls of an audit.
#[derive(Debug, Default)]
pub(super) struct Pulls {
    rows: BTreeMap<(String, String), Row>,
    beyond: u64,
}

#[derive(Debug, Default)]
struct Row {
    references: BTreeSet<String>,
    manifests: u64,
    blobs: u64,
    bytes_down: u64,
}

/// A row as `--json` has it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct PullRow {
    client: String,
    image: String,
    references: Vec<String>,
    manifests: u64,
    blobs: u64,
    bytes_down: u64,
}

impl Pulls {
    /// Counts a request that was answered. Only GET moves anything.
    pub(super) fn count(&mut self, request: PulledRequest) {
        let is_pull = matches!(request.operation.as_str(), "manifest" | "blob");
        if !is_pull || request.method != "GET" {
            return;
        }
        let key = (request.client, request.image);
        if self.rows.len() >= ROWS && !self.rows.contains_key(&key) {
            self.beyond += 1;
            return;
        }
        let row = self.rows.entry(key).or_default();
        row.bytes_down = row.bytes_down.saturating_add(request.bytes_down);
        if request.operation == "blob" {
            row.blobs += 1;
            return;
        }
        row.manifests += 1;
        if row.references.len() < REFERENCES {
            row.references.extend(request.reference);
        }
    }

    /// Returns the rows, by client and image.
    pub(super) fn rows(&self) -> Vec<PullRow> {
        let rows = self.rows.iter().map(|((client, image), row)| PullRow {
            client: client.clone(),
            image: image.clone(),
            references: row.references.iter().cloned().collect(),
            manifests: row.manifests,
            blobs: row.blobs,
            bytes_down: row.bytes_down,
        });
        rows.collect()
    }
}

/// Prints the table; nothing without a row.
pub(super) fn print(rows: &[PullRow], out: &mut impl Write) -> io::Result<()> {
    let longest = |of: fn(&PullRow) -> usize| rows.iter().map(of).max();
    let (Some(clients), Some(images)) =
        (longest(|row| row.client.len()), longest(|row| row.image.len()))
    else {
        return Ok(());
    };
    let (clients, images) = (clients.max("client".len()), images.max("image".len()));
    writeln!(out, "\nPulled through the mirror")?;
    writeln!(
        out,
        "  {:clients$}  {:images$}  {:>9}  {:>6}  {:>15}  references",
        "client", "image", "manifests", "blobs", "bytes-down"
    )?;
    for row in rows {
        let references: Vec<String> = row.references.iter().map(|one| shortened(one)).collect();
        let (references, down) = (references.join(", "), row.bytes_down);
        let (client, image, manifests, blobs) = (&row.client, &row.image, row.manifests, row.blobs);
        writeln!(
            out,
            "  {client:clients$}  {image:images$}  {manifests:>9}  {blobs:>6}  {down:>15}  {references}"
        )?;
    }
    Ok(())
}

/// A reference with twelve digits of its digest.
fn shortened(reference: &str) -> String {
    const DIGITS: usize = 12;
    match reference.split_once(':') {
        Some((front, digits)) if front.ends_with("sha256") || front.ends_with("sha512") => {
            format!("{front}:{}", digits.chars().take(DIGITS).collect::<String>())
        }
        _ => reference.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_names_tags_with_their_digests() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let mut pulls = Pulls::default();
        for (operation, method, reference) in [
            ("manifest", "HEAD", "v0"),
            ("manifest", "GET", &format!("v1@{digest}")),
            ("manifest", "GET", &digest),
            ("blob", "GET", &digest),
            ("tags", "GET", "v2"),
        ] {
            pulls.count(PulledRequest {
                client: "build-agents".into(),
                image: "contoso/team/app".into(),
                operation: operation.into(),
                method: method.into(),
                reference: Some(reference.into()),
                bytes_down: 100,
            });
        }
        let rows = pulls.rows();
        let [row] = rows.as_slice() else { panic!("{rows:?}") };
        assert_eq!((row.manifests, row.blobs, row.bytes_down), (2, 1, 300));
        assert_eq!(row.references, [digest.clone(), format!("v1@{digest}")]);
        let mut out = Vec::new();
        print(&rows, &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains("sha256:abababababab, v1@sha256:abababababab"), "{out}");
    }
}
