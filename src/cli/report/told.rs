//! The report as it is printed, and how. What came from a file is printable before it gets here.

use std::io::{self, Write};

use serde::Serialize;

use super::pulls::{self, PullRow};

use crate::account::AuditText;

/// What was read. Times are RFC 3339 in UTC, which sort as text.
#[derive(Debug, Default, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Totals {
    pub(super) relayed: u64,
    pub(super) would_deny: u64,
    pub(super) denied: u64,
    pub(super) failed: u64,
    /// Lines that the audit says it lost.
    pub(super) lost: u64,
    /// Lines that are none of ours.
    pub(super) unreadable: u64,
    /// Sessions beyond [`ROWS`].
    pub(super) beyond: u64,
    /// Denials of hosts that `pullgate doctor` asks for.
    pub(super) doctor: u64,
    pub(super) first: Option<String>,
    pub(super) last: Option<String>,
}

impl Totals {
    /// Whether lines were read, and none of them was an audit line.
    pub(super) fn has_none_but_others(&self) -> bool {
        let audit = self.relayed + self.would_deny + self.denied + self.failed + self.lost;
        audit == 0 && self.unreadable > 0
    }
}

/// The report as it is printed; `--json` prints it as it stands.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Told {
    pub(super) totals: Totals,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) clients: Vec<ToldClient>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) pulls: Vec<PullRow>,
    pub(super) matters: Vec<ToldMatter>,
}

/// What the sessions of one `[[client]]` came to.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct ToldClient {
    pub(super) client_name: String,
    pub(super) relayed: u64,
    pub(super) would_deny: u64,
    pub(super) denied: u64,
    pub(super) failed: u64,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
}

impl ToldClient {
    pub(super) fn new(client_name: String) -> Self {
        Self { client_name, ..Self::default() }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct ToldMatter {
    pub(super) matter: String,
    pub(super) title: String,
    pub(super) remedy: &'static [&'static str],
    pub(super) rows: Vec<ToldRow>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct ToldRow {
    pub(super) client: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) client_name: Option<String>,
    pub(super) host: String,
    pub(super) would_deny: u64,
    pub(super) denied: u64,
    pub(super) first: String,
    pub(super) last: String,
    /// The last session's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
}

pub(super) fn print(told: &Told, out: &mut impl Write) -> io::Result<()> {
    let totals = &told.totals;
    let (Some(first), Some(last)) = (&totals.first, &totals.last) else {
        writeln!(out, "No session is recorded here.")?;
        return print_gaps(totals, out);
    };
    let (first, last) = (AuditText::new(first), AuditText::new(last));
    writeln!(out, "From {} to {}:", first.as_str(), last.as_str())?;
    writeln!(
        out,
        "Sessions: {} relayed, {} that the policy would deny, {} denied, {} failed.",
        totals.relayed, totals.would_deny, totals.denied, totals.failed
    )?;
    print_gaps(totals, out)?;
    print_clients(&told.clients, out)?;
    pulls::print(&told.pulls, out)?;
    if told.matters.is_empty() {
        return writeln!(out, "\nNothing breaks: no session was denied, and none would be.");
    }
    for matter in &told.matters {
        writeln!(out, "\n{} [{}]", matter.title, matter.matter)?;
        print_rows(&matter.rows, out)?;
        writeln!(out, "  What to do:")?;
        for (number, step) in (1..).zip(matter.remedy) {
            match matter.remedy.len() {
                1 => writeln!(out, "    {step}")?,
                _ => writeln!(out, "    {number}. {step}")?,
            }
        }
    }
    Ok(())
}

/// What the report cannot know.
fn print_gaps(totals: &Totals, out: &mut impl Write) -> io::Result<()> {
    let gaps = [
        ("Lines lost by the audit itself (pullgate_audit_dropped_total)", totals.lost),
        ("Lines left out, since they are none of the audit's", totals.unreadable),
        ("Denied sessions left out, since there are too many kinds of them", totals.beyond),
        (
            "Denied sessions left out, because their hosts are those of pullgate doctor",
            totals.doctor,
        ),
    ];
    for (what, count) in gaps.iter().filter(|(_, count)| *count > 0) {
        writeln!(out, "{what}: {count}.")?;
    }
    Ok(())
}

fn print_clients(clients: &[ToldClient], out: &mut impl Write) -> io::Result<()> {
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

fn print_rows(rows: &[ToldRow], out: &mut impl Write) -> io::Result<()> {
    let client = |row: &ToldRow| match &row.client_name {
        Some(name) => format!("{} ({name})", row.client),
        None => row.client.clone(),
    };
    let width = |longest: Option<usize>, title: &str| longest.unwrap_or_default().max(title.len());
    let clients = width(rows.iter().map(|row| client(row).len()).max(), "client");
    let hosts = width(rows.iter().map(|row| row.host.len()).max(), "host");
    writeln!(
        out,
        "  {:clients$}  {:hosts$}  {:>10}  {:>6}  {:24}  last",
        "client", "host", "would-deny", "denied", "first"
    )?;
    for row in rows {
        writeln!(
            out,
            "  {:clients$}  {:hosts$}  {:>10}  {:>6}  {:24}  {}",
            client(row),
            row.host,
            row.would_deny,
            row.denied,
            row.first,
            row.last
        )?;
    }
    Ok(())
}
