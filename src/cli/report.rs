//! `pullgate report`: lists what the policy denied or would deny, and what failed, per client and
//! host.
//!
//! It reads audit files; it needs no configuration and no running gate. Operators run it before they
//! enforce a policy, and before they switch a registry to dedicated data endpoints. Storage accounts
//! come first, because that switch breaks every client whose firewall does not allow the new
//! endpoints. The exit code is 0 whatever it finds, and 1 if a file cannot be read or no line is an
//! audit line.

mod finding;
mod print;
mod pulls;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use super::audit_lines;
use crate::account::{
    AuditLine, AuditText, CommonFields, Outcome, RequestLine, SessionLine, is_from_doctor,
};
use crate::policy::Cause;
use finding::Finding;
use print::{ClientTotals, FindingRow, FindingSection, ReportOutput, Totals};
use pulls::{PulledRequest, Pulls};

/// The maximum length of an audit line, in bytes. Most are below 1 KiB.
const LONGEST_LINE: u64 = 64 << 10;

/// The maximum number of rows, so that a client with made-up names cannot exhaust the memory. Further
/// sessions are only counted.
const ROWS: usize = 100_000;

/// Summarise what the policy denied, or would deny, and what failed, by client and host.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Audit files; `-` for standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    for path in &args.files {
        read(path, &mut report)?;
    }
    if let (true, Some(path)) = (report.totals.has_none_but_others(), args.files.first()) {
        bail!(audit_lines::none_found(path));
    }
    let mut out = io::stdout().lock();
    let printed = match args.json {
        true => serde_json::to_writer_pretty(&mut out, &report.output())
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out)),
        false => print::print(&report.output(), &mut out),
    };
    match printed {
        // The reader closed the pipe.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        printed => printed.map(|()| ExitCode::SUCCESS).context("cannot write to standard output"),
    }
}

fn read(path: &Path, report: &mut Report) -> anyhow::Result<()> {
    if path == Path::new("-") {
        return report.read(io::stdin().lock(), path).context("cannot read standard input");
    }
    let file = File::open(path).and_then(|file| report.read(BufReader::new(file), path));
    file.with_context(|| path.display().to_string())
}

#[derive(Debug, Default)]
struct HostCounts {
    would_deny: u64,
    denied: u64,
    failed: u64,
    first: String,
    last: String,
    id: Option<String>,
}

/// Finding, client, the name of its group, host.
type Key = (Finding, String, Option<String>, String);

#[derive(Debug, Default)]
struct Report {
    rows: BTreeMap<Key, HostCounts>,
    clients: BTreeMap<String, ClientTotals>,
    pulls: Pulls,
    totals: Totals,
}

impl Report {
    fn read(&mut self, mut lines: impl BufRead, path: &Path) -> io::Result<()> {
        audit_lines::refuse_compressed(&mut lines, path, "report")?;
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            if lines.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut bytes)? == 0 {
                return Ok(());
            }
            if bytes.len() as u64 == LONGEST_LINE && !bytes.ends_with(b"\n") {
                lines.skip_until(b'\n')?;
                self.totals.unreadable += 1;
                continue;
            }
            match AuditLine::read(&audit_lines::payload(&bytes)) {
                Ok(line) => self.add(&line),
                Err(_) if bytes.trim_ascii().is_empty() => {}
                Err(_) => self.totals.unreadable += 1,
            }
        }
    }

    fn add(&mut self, line: &AuditLine<'_>) {
        let totals = &mut self.totals;
        let fields = line.common();
        let (count, moved) = match line {
            AuditLine::Lost(lost) => {
                totals.lost += lost.dropped;
                return;
            }
            // The first of a deduplicated group has a separate line before the summary.
            AuditLine::Repeated(repeated) => (repeated.repeated, (0, 0)),
            AuditLine::Session(session) => (1, (session.bytes_up, session.bytes_down)),
            AuditLine::Request(_) => (1, (0, 0)),
        };
        let outcome = Outcome::ALL.iter().find(|one| fields.outcome == Some(one.code()));
        let (Some(outcome), Some(time)) = (outcome, fields.time) else {
            totals.unreadable += 1;
            return;
        };
        let last = fields.until.unwrap_or(time);
        if totals.first.as_deref().is_none_or(|first| time < first) {
            totals.first = Some(time.to_owned());
        }
        if totals.last.as_deref().is_none_or(|known| known < last) {
            totals.last = Some(last.to_owned());
        }
        if let AuditLine::Request(request) = line {
            return self.add_request(request, fields, *outcome);
        }
        match outcome {
            Outcome::Relayed => totals.relayed += count,
            Outcome::Failed => totals.failed += count,
            Outcome::Denied => totals.denied += count,
            Outcome::WouldDeny => totals.would_deny += count,
        }
        self.count_client(fields.client_name, (*outcome, count), moved);
        let host = fields.target.unwrap_or("-");
        let host = host.strip_suffix(":443").unwrap_or(host);
        for reason in fields.reason.iter().filter(|_| *outcome != Outcome::Relayed) {
            self.count(fields, host, reason, (*outcome, count));
        }
        let AuditLine::Session(SessionLine { ended, would_deny, .. }) = line else { return };
        // Report mode let it pass, and it failed.
        if let Some(cause) = ended {
            self.count(fields, host, cause, (Outcome::Failed, count));
        }
        // It was allowed in report mode and denied later for another reason.
        if let Some(reason) = would_deny {
            self.count(fields, host, reason, (Outcome::WouldDeny, count));
        }
    }

    /// Requests are counted apart from the sessions that they came by.
    fn add_request(&mut self, line: &RequestLine<'_>, fields: CommonFields<'_>, outcome: Outcome) {
        let printable = |text: &str| AuditText::new(text).as_str().to_owned();
        let part = |text: Option<&str>| printable(text.unwrap_or("-"));
        let (registry, repository) = (line.registry.as_deref(), line.repository.as_deref());
        let image = format!("{}/{}", part(registry), part(repository));
        let reference = match (&line.reference, &line.digest) {
            (Some(tag), Some(digest)) => Some(format!("{tag}@{digest}")),
            (tag, digest) => tag.as_ref().or(digest.as_ref()).map(ToString::to_string),
        };
        match outcome {
            Outcome::Relayed | Outcome::WouldDeny => self.pulls.count(PulledRequest {
                client: part(fields.client_name.or(fields.client)),
                image: image.clone(),
                operation: part(Some(&line.operation)),
                method: part(line.method.as_deref()),
                reference: reference.map(|text| printable(&text)),
                bytes_down: line.bytes_down,
            }),
            Outcome::Denied | Outcome::Failed => {}
        }
        for reason in fields.reason.iter().filter(|_| outcome != Outcome::Relayed) {
            self.count(fields, &image, reason, (outcome, 1));
        }
    }

    fn count_client(
        &mut self,
        name: Option<&str>,
        (outcome, count): (Outcome, u64),
        (up, down): (u64, u64),
    ) {
        let Some(name) = name else { return };
        let name = AuditText::new(name).as_str().to_owned();
        if self.clients.len() >= ROWS && !self.clients.contains_key(&name) {
            return;
        }
        let client = self.clients.entry(name.clone()).or_insert_with(|| ClientTotals::new(name));
        match outcome {
            Outcome::Relayed => client.relayed += count,
            Outcome::Failed => client.failed += count,
            Outcome::Denied => client.denied += count,
            Outcome::WouldDeny => client.would_deny += count,
        }
        client.bytes_up = client.bytes_up.saturating_add(up);
        client.bytes_down = client.bytes_down.saturating_add(down);
    }

    fn count(
        &mut self,
        fields: CommonFields<'_>,
        host: &str,
        reason: &str,
        (outcome, count): (Outcome, u64),
    ) {
        if [fields.sni, Some(host)].into_iter().flatten().any(is_from_doctor) {
            self.totals.doctor += count;
            return;
        }
        if outcome == Outcome::Failed && Cause::from_code(reason).is_some_and(Cause::is_routine) {
            self.totals.routine += count;
            return;
        }
        let printable = |text: &str| AuditText::new(text).as_str().to_owned();
        let client = printable(fields.client.unwrap_or("-"));
        let name = fields.client_name.map(printable);
        let finding = match outcome {
            Outcome::Failed => Finding::of_failure(reason),
            _ => Finding::of(reason, host),
        };
        let key = (finding, client, name, printable(host));
        if self.rows.len() >= ROWS && !self.rows.contains_key(&key) {
            self.totals.beyond += count;
            return;
        }
        let row = self.rows.entry(key).or_default();
        match outcome {
            Outcome::WouldDeny => row.would_deny += count,
            Outcome::Failed => row.failed += count,
            Outcome::Denied | Outcome::Relayed => row.denied += count,
        }
        let time = fields.time.unwrap_or_default();
        let last = fields.until.unwrap_or(time);
        if row.first.is_empty() || time < row.first.as_str() {
            row.first = printable(time);
        }
        if row.last.as_str() < last {
            row.last = printable(last);
            row.id = fields.id.map(printable);
        }
    }

    fn output(&self) -> ReportOutput {
        let mut matters: Vec<FindingSection> = Vec::new();
        for ((matter, client, name, host), row) in &self.rows {
            if matters.last().is_none_or(|last| last.matter != matter.code()) {
                matters.push(FindingSection {
                    matter: matter.code().to_owned(),
                    title: matter.title(),
                    remedy: matter.remedy(),
                    rows: Vec::new(),
                });
            }
            let row = FindingRow {
                client: client.clone(),
                client_name: name.clone(),
                host: host.clone(),
                would_deny: row.would_deny,
                denied: row.denied,
                failed: row.failed,
                first: row.first.clone(),
                last: row.last.clone(),
                id: row.id.clone(),
            };
            if let Some(last) = matters.last_mut() {
                last.rows.push(row);
            }
        }
        let clients = self.clients.values().cloned().collect();
        ReportOutput { totals: self.totals.clone(), clients, pulls: self.pulls.rows(), matters }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUDIT: &str = include_str!("../../tests/data/report/audit.jsonl");

    fn report(audit: &str) -> Report {
        let mut report = Report::default();
        report.read(audit.as_bytes(), Path::new("-")).unwrap();
        report
    }

    fn printed(report: &Report) -> String {
        let mut out = Vec::new();
        print::print(&report.output(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_report_as_it_is_printed() {
        let expected = include_str!("../../tests/data/report/report.txt");
        let printed = printed(&report(AUDIT));
        assert_eq!(printed, expected, "\n{printed}");
    }

    #[test]
    fn a_report_as_json() {
        let output = serde_json::to_value(report(AUDIT).output()).unwrap();
        assert_eq!(output["matters"][0]["matter"], "storage-account");
        assert_eq!(output["matters"][0]["rows"][0]["would-deny"], 2);
        assert_eq!(output["matters"][0]["remedy"].as_array().unwrap().len(), 4);
        assert_eq!(output["totals"]["denied"], 8);
    }

    #[test]
    fn nothing_recorded_and_nothing_broken() {
        assert_eq!(printed(&report("")), "The audit contains no sessions.\n");
        let relayed = r#"{"time":"2026-11-24T03:40:00.123Z","outcome":"relayed"}"#;
        let end = "was denied, none would be denied, and none failed.\n";
        assert!(printed(&report(relayed)).ends_with(end));
        let left = r#"{"time":"2026","outcome":"failed","reason":"client-aborted"}"#;
        let report = report(&format!("{relayed}\n{left}"));
        assert_eq!((report.totals.failed, report.totals.routine), (1, 1));
        assert!(printed(&report).contains("(client-aborted, idle-timeout): 1."));
    }

    #[test]
    fn failures_are_listed_with_what_to_do() {
        let line = |outcome: &str, reason: &str, more: &str| {
            format!(
                r#"{{"time":"2026","outcome":"{outcome}","reason":"{reason}","target":"contoso.azurecr.io:443"{more}}}"#
            )
        };
        let lines = [
            line("failed", "name-not-found", ""),
            line("failed", "name-not-found", ""),
            line("failed", "parent-refused", ""),
            line("failed", "a-cause-of-tomorrow", ""),
            line(
                "failed",
                "upstream-auth",
                r#","kind":"request","registry":"contoso","repository":"a""#,
            ),
        ];
        let output = report(&lines.join("\n")).output();
        let found = output.matters.iter().map(|one| (one.matter.as_str(), one.rows[0].failed));
        let expected = [
            ("name-not-found", 2),
            ("parent-refused", 1),
            ("upstream-auth", 1),
            ("a-cause-of-tomorrow", 1),
        ];
        assert_eq!(found.collect::<Vec<_>>(), expected);
        assert!(output.matters.iter().all(|one| !one.remedy.is_empty()));
        assert_eq!(output.matters[2].rows[0].host, "contoso/a");
    }

    #[test]
    fn denials_of_the_doctor_are_counted_and_not_listed() {
        let line = |field: &str, host: &str| {
            format!(
                r#"{{"time":"2026","outcome":"denied","reason":"host-not-allowed","{field}":"{host}"}}"#
            )
        };
        let audit = [
            line("target", "pullgate-doctor.example.com:443"),
            line("target", "pullgatedoctor.blob.core.windows.net:443"),
            line("sni", "pullgate-doctor.example.com"),
            line("target", "pullgate-doctors.example.com:443"),
            line("sni", "a.pullgate-doctor.example.com"),
        ];
        let report = report(&audit.join("\n"));
        assert_eq!((report.totals.denied, report.totals.doctor, report.rows.len()), (5, 3, 2));
        assert!(printed(&report).contains("pullgate doctor"), "{}", printed(&report));
    }

    #[test]
    fn hostile_files_do_no_harm() {
        let long = format!("{{\"time\":\"{}\"}}\n", "x".repeat(200_000));
        let escape =
            r#"{"time":"\u001b[2J","outcome":"denied","reason":"\u001b[2J","target":"\u001b[2J"}"#;
        let relayed = r#"{"time":"2026-11-24T03:40:00.123Z","outcome":"relayed"}"#;
        let report = report(&format!("{long}{escape}\nnot json\n[]\n\n{long}{relayed}"));
        assert_eq!(report.totals.unreadable, 4);
        assert_eq!((report.totals.relayed, report.totals.denied), (1, 1));
        assert!(!printed(&report).contains('\u{1b}'));
    }

    #[test]
    fn rows_are_bounded() {
        let line = |count: usize| {
            format!(
                r#"{{"time":"2026","outcome":"denied","reason":"bad-target","target":"{count}"}}"#
            )
        };
        let audit: Vec<String> = (0..ROWS + 5).map(line).collect();
        let report = report(&audit.join("\n"));
        assert_eq!((report.rows.len(), report.totals.beyond), (ROWS, 5));
        assert_eq!(report.totals.denied, ROWS as u64 + 5);
    }
}
