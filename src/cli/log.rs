//! `pullgate log`: prints audit lines as text, and follows the file across rotations.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::runtime::Builder;

use super::audit_lines;
use crate::account::{AuditLine, AuditText, LostLine, RepeatedLine, RequestLine};

/// Interval between two checks for new lines.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The maximum length of an audit line, in bytes. Most are below 1 KiB.
const LONGEST_LINE: usize = 64 << 10;

/// Print an audit file as text.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The audit file; `-` for standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print new lines as they are written, also after log rotation, until Ctrl-C.
    #[arg(long, short)]
    follow: bool,
    /// Print only the last NUMBER existing lines. Default: 10 with --follow, otherwise all.
    #[arg(long, short = 'n', value_name = "NUMBER")]
    lines: Option<usize>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let out = &mut io::stdout().lock();
    let name = || args.file.display().to_string();
    let ended = if args.file == Path::new("-") {
        print_whole(io::stdin().lock(), args, out)
    } else {
        let file = File::open(&args.file).with_context(name)?;
        if args.follow {
            let runtime = Builder::new_current_thread().enable_time().build();
            let following = follow(&args.file, file, args.lines, out);
            runtime.context("no runtime")?.block_on(following).map(|()| LineCounts::default())
        } else {
            print_whole(BufReader::new(file), args, out)
        }
    };
    match ended {
        // The reader closed the pipe.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Ok(LineCounts { audit: 0, other: 1.. }) => bail!(audit_lines::none_found(&args.file)),
        ended => ended.map(|_| ExitCode::SUCCESS).with_context(name),
    }
}

/// Counts of the lines that were read.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct LineCounts {
    audit: u64,
    other: u64,
}

fn print_whole(
    mut lines: impl io::BufRead,
    args: &Args,
    out: &mut impl Write,
) -> io::Result<LineCounts> {
    audit_lines::refuse_compressed(&mut lines, &args.file, "log")?;
    print_all(lines, args.lines, out)
}

fn print_all(
    mut lines: impl io::BufRead,
    last: Option<usize>,
    out: &mut impl Write,
) -> io::Result<LineCounts> {
    let mut seen = LineCounts::default();
    let mut kept = std::collections::VecDeque::new();
    let mut bytes = Vec::new();
    while read(&mut lines, &mut bytes)? > 0 {
        match last {
            None => print(&bytes, out, &mut seen)?,
            Some(most) => {
                kept.push_back(std::mem::take(&mut bytes));
                if kept.len() > most {
                    kept.pop_front();
                }
            }
        }
        bytes.clear();
    }
    kept.iter().try_for_each(|line| print(line, out, &mut seen))?;
    Ok(seen)
}

/// Reads to the end of a line or of the file. Keeps only the start of a line that is too long.
fn read(lines: &mut impl io::BufRead, line: &mut Vec<u8>) -> io::Result<usize> {
    let room = LONGEST_LINE.saturating_sub(line.len());
    let count = lines.by_ref().take(room as u64).read_until(b'\n', line)?;
    if line.len() < LONGEST_LINE || line.ends_with(b"\n") {
        return Ok(count);
    }
    let skipped = lines.skip_until(b'\n')?;
    if skipped > 0 {
        line.pop();
        line.push(b'\n');
    }
    Ok(count + skipped)
}

/// Prints existing lines, then new ones, until the reader closes the output.
async fn follow(
    path: &Path,
    file: File,
    last: Option<usize>,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut lines = BufReader::new(file);
    print_all(&mut lines, Some(last.unwrap_or(10)), out)?;
    let mut line = Vec::new();
    loop {
        out.flush()?;
        // Prints whole lines only: the rest of a line may arrive later.
        while read(&mut lines, &mut line)? > 0 && line.ends_with(b"\n") {
            print(&line, out, &mut LineCounts::default())?;
            line.clear();
        }
        if let Some(next) = successor(path, &mut lines)? {
            lines = BufReader::new(next);
            line.clear();
            continue;
        }
        out.flush()?;
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Returns the file that replaced this one at `path`. Rewinds a file that was truncated.
fn successor(path: &Path, lines: &mut BufReader<File>) -> io::Result<Option<File>> {
    let here = lines.get_ref().metadata()?;
    if here.len() < lines.stream_position()? {
        lines.seek(SeekFrom::Start(0))?;
    }
    // The path does not exist between a rename and the moment the gate reopens it.
    let Ok(there) = std::fs::metadata(path) else { return Ok(None) };
    if (there.dev(), there.ino()) == (here.dev(), here.ino()) {
        return Ok(None);
    }
    // Lines that were written to the old file in the meantime come first.
    if here.len() > lines.stream_position()? {
        return Ok(None);
    }
    File::open(path).map(Some)
}

fn print(line: &[u8], out: &mut impl Write, seen: &mut LineCounts) -> io::Result<()> {
    if line.trim_ascii().is_empty() {
        return Ok(());
    }
    match AuditLine::read(&audit_lines::payload(line)) {
        Ok(line) if line.common().time.is_some() => {
            seen.audit += 1;
            writeln!(out, "{}", describe(&line))
        }
        _ => {
            seen.other += 1;
            writeln!(out, "(not an audit line)")
        }
    }
}

/// Returns a field with unprintable characters escaped.
fn text(field: Option<&str>) -> Option<String> {
    field.map(|text| AuditText::new(text).as_str().to_owned())
}

fn or_dash(field: Option<&str>) -> String {
    text(field).filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned())
}

/// Returns the image with method, operation and status.
fn image(line: &RequestLine<'_>) -> String {
    let reference = text(line.reference.as_deref()).map(|tag| format!(":{tag}"));
    let reference = reference.unwrap_or_default();
    let (registry, repository) =
        (or_dash(line.registry.as_deref()), or_dash(line.repository.as_deref()));
    let (method, operation) = (or_dash(line.method.as_deref()), or_dash(Some(&line.operation)));
    let status = line.status;
    format!("{registry}/{repository}{reference} {method} {operation} {status}")
}

/// Returns an audit line as text, with unprintable characters escaped: the file may be forged.
fn describe(line: &AuditLine<'_>) -> String {
    let common = line.common();
    let time = or_dash(common.time);
    let target = or_dash(common.target);
    let host = || target.strip_suffix(":443").unwrap_or(&target).to_owned();
    let (asked, endpoint, more, codes) = match line {
        AuditLine::Lost(LostLine { dropped, .. }) => {
            return format!(
                "{time} LOST     {dropped} lines were dropped because the queue was full"
            );
        }
        AuditLine::Request(line) => {
            let more =
                line.upstream.as_ref().map(|_| moved(line.bytes_up, line.bytes_down, line.ms));
            (image(line), None, more, [None, None])
        }
        AuditLine::Session(line) => {
            let relayed = line.milliseconds("relay").unwrap_or_default();
            let more = line.upstream.as_ref();
            let more = more.map(|_| moved(line.bytes_up, line.bytes_down, relayed));
            let codes = [line.would_deny.as_deref(), line.ended.as_deref()];
            (host(), line.endpoint.as_deref(), more, codes)
        }
        AuditLine::Repeated(line) => {
            let more = repeated(line, common.until);
            (host(), line.endpoint.as_deref(), Some(more), [None, None])
        }
    };
    let mut words = format!("{time} {:<8} {}", or_dash(common.outcome), or_dash(common.client));
    if let Some(name) = text(common.client_name) {
        words.push_str(&format!(" ({name})"));
    }
    words.push_str(&format!(" -> {asked}"));
    if let (Some(registry), Some(endpoint)) = (text(common.registry), text(endpoint)) {
        words.push_str(&format!(" [{registry} {endpoint}]"));
    }
    for code in [common.reason].into_iter().chain(codes) {
        if let Some(code) = text(code) {
            words.push_str(&format!(" {code}"));
        }
    }
    format!("{words}{}  {}", more.unwrap_or_default(), or_dash(common.id))
}

/// Returns what was moved, and for how long.
fn moved(up: u64, down: u64, milliseconds: f64) -> String {
    format!(", up {}, down {} in {:.1} s", size(up), size(down), milliseconds / 1e3)
}

/// Returns how often a denial was repeated.
fn repeated(line: &RepeatedLine<'_>, until: Option<&str>) -> String {
    let words = format!(", repeated {} times until {}", line.repeated, or_dash(until));
    let samples: Vec<String> =
        line.samples.iter().filter_map(|sample| text(Some(sample))).collect();
    match samples.is_empty() {
        true => words,
        false => format!("{words}, for example {}", samples.join(", ")),
    }
}

/// Returns a byte count with a decimal unit.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn size(bytes: u64) -> String {
    let mut amount = bytes as f64;
    let mut units = ["B", "kB", "MB", "GB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for larger in units {
        if amount < 1000.0 {
            break;
        }
        amount /= 1000.0;
        unit = larger;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{amount:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(lines: &str, last: Option<usize>) -> String {
        let mut out = Vec::new();
        print_all(lines.as_bytes(), last, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_printed_as_text() {
        let relayed = r#"{"time":"2026-11-24T03:40:00.123Z","id":"01J1","client":"10.0.0.7","client-name":"builders","listener":"l","target":"contoso.azurecr.io:443","registry":"contoso","endpoint":"data","outcome":"relayed","upstream":"20.1.2.3:443","bytes-up":2310,"bytes-down":209715822,"ms":{"relay":1840.2}}"#;
        let denied = r#"{"time":"T","id":"01J2","client":"10.0.0.7","target":"x.blob.core.windows.net:443","outcome":"denied","reason":"storage-account","bytes-up":0,"bytes-down":0}"#;
        let folded = r#"{"time":"T","id":"01J2","client":"10.0.0.7","outcome":"denied","reason":"bad-target","repeated":12,"until":"U","samples":["a:443","\u001b:443"]}"#;
        let hostile = r#"{"time":"T\u001b[2J","outcome":"denied","target":"\u001b[2J"}"#;
        let lines = format!(
            "{relayed}\nNov 24 host pullgate[1]: {denied}\n{folded}\n{{\"time\":\"T\",\"dropped\":3}}\n\nno\n{hostile}"
        );
        let expected = "\
            2026-11-24T03:40:00.123Z relayed  10.0.0.7 (builders) -> contoso.azurecr.io [contoso data], up 2.3 kB, down 209.7 MB in 1.8 s  01J1\n\
            T denied   10.0.0.7 -> x.blob.core.windows.net storage-account  01J2\n\
            T denied   10.0.0.7 -> - bad-target, repeated 12 times until U, for example a:443, \\u{1b}:443  01J2\n\
            T LOST     3 lines were dropped because the queue was full\n\
            (not an audit line)\n\
            T\\u{1b}[2J denied   - -> \\u{1b}[2J  -\n";
        assert_eq!(printed(&lines, None), expected);
        assert_eq!(printed(&lines, Some(1)).lines().count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rotated_file_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let line = |id: u8| format!("{{\"time\":\"T\",\"outcome\":\"relayed\",\"id\":\"{id}\"}}\n");
        std::fs::write(&path, line(1)).unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let following = {
            let path = path.clone();
            std::thread::spawn(move || {
                let runtime = Builder::new_current_thread().enable_time().build().unwrap();
                let file = File::open(&path).unwrap();
                let mut out = File::from(writer);
                runtime.block_on(follow(&path, file, None, &mut out)).unwrap_err().kind()
            })
        };
        let mut printed = BufReader::new(File::from(reader)).lines();
        let mut next = || printed.next().unwrap().unwrap();
        assert!(next().ends_with(" 1"));
        let mut open = File::options().append(true).open(&path).unwrap();
        let second = line(2);
        let (start, end) = second.as_bytes().split_at(9);
        open.write_all(start).unwrap();
        open.write_all(end).unwrap();
        assert!(next().ends_with(" 2"));
        std::fs::rename(&path, folder.path().join("audit.1")).unwrap();
        open.write_all(line(3).as_bytes()).unwrap();
        std::fs::write(&path, line(4)).unwrap();
        assert!(next().ends_with(" 3"));
        assert!(next().ends_with(" 4"));
        drop(printed);
        std::fs::write(&path, line(5) + &line(6)).unwrap();
        assert_eq!(following.join().unwrap(), io::ErrorKind::BrokenPipe);
    }
}
