//! Prints the report. Text from audit files was made printable before. `format!` aligns the
//! columns; a table crate would be longer.

use std::io::{self, Write};

use serde::Serialize;

use super::pulls::{self, PullRow};

use crate::account::AuditText;

/// Totals over all files. Times are RFC 3339 in UTC, which sort as text.
#[derive(Debug, Default, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Totals {
    pub(super) relayed: u64,
    pub(super) would_deny: u64,
    pub(super) denied: u64,
    pub(super) failed: u64,
    /// Lines that the audit dropped, by its own count.
    pub(super) lost: u64,
    /// Lines that are not audit lines.
    pub(super) unreadable: u64,
    /// Sessions beyond [`ROWS`].
    pub(super) beyond: u64,
    /// Failures of normal operation: `client-aborted` and `idle-timeout`.
    pub(super) routine: u64,
    /// Denials of the hosts that `pullgate doctor` requests.
    pub(super) doctor: u64,
    pub(super) first: Option<String>,
    pub(super) last: Option<String>,
}

impl Totals {
    /// Returns whether lines were read, but no audit line.
    pub(super) fn has_none_but_others(&self) -> bool {
        let audit = self.relayed + self.would_deny + self.denied + self.failed + self.lost;
        audit == 0 && self.unreadable > 0
    }
}

/// The whole report. `--json` prints this structure.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct ReportOutput {
    pub(super) totals: Totals,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) clients: Vec<ClientTotals>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) pulls: Vec<PullRow>,
    pub(super) matters: Vec<FindingSection>,
}

/// The sessions of one `[[client]]`, by outcome.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct ClientTotals {
    pub(super) client_name: String,
    pub(super) relayed: u64,
    pub(super) would_deny: u64,
    pub(super) denied: u64,
    pub(super) failed: u64,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
}

impl ClientTotals {
    pub(super) fn new(client_name: String) -> Self {
        Self { client_name, ..Self::default() }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct FindingSection {
    pub(super) matter: String,
    pub(super) title: String,
    pub(super) remedy: Vec<&'static str>,
    pub(super) rows: Vec<FindingRow>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct FindingRow {
    pub(super) client: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) client_name: Option<String>,
    pub(super) host: String,
    pub(super) would_deny: u64,
    pub(super) denied: u64,
    pub(super) failed: u64,
    pub(super) first: String,
    pub(super) last: String,
    /// The id of the last session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
}

pub(super) fn print(output: &ReportOutput, out: &mut impl Write) -> io::Result<()> {
    let totals = &output.totals;
    let (Some(first), Some(last)) = (&totals.first, &totals.last) else {
        writeln!(out, "The audit contains no sessions.")?;
        return print_gaps(totals, out);
    };
    let (first, last) = (AuditText::new(first), AuditText::new(last));
    writeln!(out, "From {} to {}:", first.as_str(), last.as_str())?;
    writeln!(
        out,
        "Sessions: {} relayed, {} would be denied, {} denied, {} failed.",
        totals.relayed, totals.would_deny, totals.denied, totals.failed
    )?;
    print_gaps(totals, out)?;
    print_clients(&output.clients, out)?;
    pulls::print(&output.pulls, out)?;
    if output.matters.is_empty() {
        return writeln!(
            out,
            "\nNothing breaks: no session was denied, none would be denied, and none failed."
        );
    }
    for matter in &output.matters {
        writeln!(out, "\n{} [{}]", matter.title, matter.matter)?;
        match matter.rows.iter().all(|row| row.failed > 0) {
            true => print_rows(&matter.rows, FAILURE, out)?,
            false => print_rows(&matter.rows, DENIAL, out)?,
        }
        writeln!(out, "  What to do:")?;
        for (number, step) in (1..).zip(&matter.remedy) {
            match matter.remedy.len() {
                1 => writeln!(out, "    {step}")?,
                _ => writeln!(out, "    {number}. {step}")?,
            }
        }
    }
    Ok(())
}

/// Prints the counts of lines and sessions that the report leaves out.
fn print_gaps(totals: &Totals, out: &mut impl Write) -> io::Result<()> {
    let gaps = [
        ("Lines that the audit dropped (pullgate_audit_dropped_total)", totals.lost),
        ("Lines left out because they are not audit lines", totals.unreadable),
        (
            "Failed sessions left out because they are normal (client-aborted, idle-timeout)",
            totals.routine,
        ),
        ("Sessions left out because the table is full", totals.beyond),
        ("Denied sessions left out because pullgate doctor made them", totals.doctor),
    ];
    for (what, count) in gaps.iter().filter(|(_, count)| *count > 0) {
        writeln!(out, "{what}: {count}.")?;
    }
    Ok(())
}

fn print_clients(clients: &[ClientTotals], out: &mut impl Write) -> io::Result<()> {
    let Some(longest) = clients.iter().map(|client| client.client_name.len()).max() else {
        return Ok(());
    };
    let width = longest.max("client".len());
    writeln!(
        out,
        "\n  {:width$}  {:>9}  {:>10}  {:>9}  {:>9}  {:>15}  {:>15}",
        "client", "relayed", "would-deny", "denied", "failed", "bytes-up", "bytes-down"
    )?;
    for client in clients {
        writeln!(
            out,
            "  {:width$}  {:>9}  {:>10}  {:>9}  {:>9}  {:>15}  {:>15}",
            client.client_name,
            client.relayed,
            client.would_deny,
            client.denied,
            client.failed,
            client.bytes_up,
            client.bytes_down
        )?;
    }
    Ok(())
}

/// A column of numbers: its title, and its value in a row.
type Column = (&'static str, fn(&FindingRow) -> u64);

const DENIAL: &[Column] = &[("would-deny", |row| row.would_deny), ("denied", |row| row.denied)];
const FAILURE: &[Column] = &[("failed", |row| row.failed)];

fn print_rows(rows: &[FindingRow], columns: &[Column], out: &mut impl Write) -> io::Result<()> {
    let client = |row: &FindingRow| match &row.client_name {
        Some(name) => format!("{} ({name})", row.client),
        None => row.client.clone(),
    };
    let width = |longest: Option<usize>, title: &str| longest.unwrap_or_default().max(title.len());
    let clients = width(rows.iter().map(|row| client(row).len()).max(), "client");
    let hosts = width(rows.iter().map(|row| row.host.len()).max(), "host");
    write!(out, "  {:clients$}  {:hosts$}", "client", "host")?;
    for (title, _) in columns {
        write!(out, "  {title:>6}")?;
    }
    writeln!(out, "  {:24}  last", "first")?;
    for row in rows {
        write!(out, "  {:clients$}  {:hosts$}", client(row), row.host)?;
        for (title, value) in columns {
            write!(out, "  {:>width$}", value(row), width = title.len().max(6))?;
        }
        writeln!(out, "  {:24}  {}", row.first, row.last)?;
    }
    Ok(())
}
