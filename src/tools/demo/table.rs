//! The result table of the demonstration. A row passes if the actual result equals the expected
//! text. comfy-table would not replace this: docker's line spans the columns.

use std::io::{IsTerminal, stdout};

/// Width of the verdict column, in characters.
const VERDICT: usize = 5;
/// Width of the request column.
const ASKED: usize = 66;
/// Width of the result column.
const HAPPENED: usize = 43;
/// Width of the whole table, with two spaces between columns.
const WIDTH: usize = VERDICT + 2 + ASKED + 2 + HAPPENED;
/// The line that docker prints has its own lines, because it is too long for a column. They start
/// with this.
const READS: &str = "docker prints ";

/// One request and its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableRow {
    /// The request.
    pub asked: String,
    /// The expected result.
    pub expected: String,
    /// The actual result.
    pub found: String,
    /// What docker would print; empty if nothing.
    pub read: String,
}

impl TableRow {
    /// Returns whether the result is as expected.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.expected == self.found
    }
}

/// Whether the output uses colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// Text only.
    Plain,
    /// With terminal colours.
    Coloured,
}

impl Paint {
    /// Returns `Colour` on a terminal, unless `NO_COLOR` is set (<https://no-color.org>).
    #[must_use]
    pub fn for_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        if stdout().is_terminal() && !refused && !dumb { Self::Coloured } else { Self::Plain }
    }

    fn bold(self, text: &str) -> String {
        self.sequence("1", text)
    }

    fn verdict(self, row: &TableRow) -> String {
        if row.is_well() { self.sequence("32", "ok   ") } else { self.sequence("1;31", "WRONG") }
    }

    fn faint(self, text: &str) -> String {
        self.sequence("2", text)
    }

    fn sequence(self, code: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Coloured => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}

/// Rows under headings.
#[derive(Debug, Default)]
pub struct Table {
    parts: Vec<(String, Vec<TableRow>)>,
}

impl Table {
    /// Starts a part. Later rows belong to it.
    pub fn part(&mut self, heading: &str) {
        self.parts.push((heading.to_owned(), Vec::new()));
    }

    /// Adds a row to the current part.
    pub fn add(&mut self, row: TableRow) {
        if self.parts.is_empty() {
            self.part("");
        }
        if let Some((_, rows)) = self.parts.last_mut() {
            rows.push(row);
        }
    }

    /// Returns all rows in order.
    pub fn rows(&self) -> impl Iterator<Item = &TableRow> {
        self.parts.iter().flat_map(|(_, rows)| rows)
    }

    /// Returns the table as text, with a final newline.
    #[must_use]
    pub fn render(&self, paint: Paint) -> String {
        let rule = "-".repeat(WIDTH);
        let head = line("     ", "asked", "what happened");
        let mut text = format!("{}\n{rule}\n", paint.bold(&head));
        for (heading, rows) in &self.parts {
            if !heading.is_empty() {
                text.push_str(&format!("{}\n", paint.bold(heading)));
            }
            for row in rows {
                render_row(row, paint, &mut text);
            }
        }
        text.push_str(&rule);
        text.push('\n');
        text
    }
}

fn render_row(row: &TableRow, paint: Paint, text: &mut String) {
    let happened = if row.is_well() {
        row.found.clone()
    } else {
        format!("{} (expected: {})", row.found, row.expected)
    };
    let margin = " ".repeat(VERDICT);
    let (asked, happened) = (wrap(&row.asked, ASKED), wrap(&happened, HAPPENED));
    for index in 0..asked.len().max(happened.len()) {
        let cell = |lines: &[String]| lines.get(index).cloned().unwrap_or_default();
        let verdict = if index == 0 { paint.verdict(row) } else { margin.clone() };
        text.push_str(&line(&verdict, &cell(&asked), &cell(&happened)));
        text.push('\n');
    }
    if row.read.is_empty() {
        return;
    }
    let mut label = READS.to_owned();
    for part in wrap(&row.read, WIDTH - VERDICT - 2 - READS.len()) {
        text.push_str(&format!("{margin}  {}\n", paint.faint(&format!("{label}{part}"))));
        label = " ".repeat(READS.len());
    }
}

fn line(verdict: &str, asked: &str, happened: &str) -> String {
    format!("{verdict}  {asked:<ASKED$}  {happened}").trim_end().to_owned()
}

/// Wraps `text` at spaces into lines of at most `width` characters. Splits longer words.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut rest: Vec<char> = word.chars().collect();
        while !rest.is_empty() {
            let Some(last) = lines.last_mut() else { break };
            let used = last.chars().count();
            let needed = rest.len() + usize::from(used > 0);
            if used + needed <= width {
                if used > 0 {
                    last.push(' ');
                }
                last.extend(rest.drain(..));
            } else if used > 0 {
                lines.push(String::new());
            } else {
                last.extend(rest.drain(..width));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(expected: &str, found: &str) -> TableRow {
        TableRow {
            asked: "CONNECT eusmanaged123.blob.core.windows.net:443".to_owned(),
            expected: expected.to_owned(),
            found: found.to_owned(),
            read: "pullgate: no ".repeat(9),
        }
    }

    #[test]
    fn a_difference_is_shown_with_both_sides() {
        let mut table = Table::default();
        table.part("exits");
        table.add(row("403 storage-account", "403 storage-account"));
        table.add(row("403 storage-account", "200"));
        let text = table.render(Paint::Plain);
        assert!(text.contains("\nok   "), "{text}");
        assert!(text.contains("\nWRONG"), "{text}");
        assert!(text.contains("200 (expected: 403"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
        assert!(!text.contains('\x1b'));
        assert!(table.render(Paint::Coloured).contains('\x1b'));
        assert_eq!(table.rows().filter(|row| row.is_well()).count(), 1);
    }

    proptest! {
        #[test]
        fn wrapping_keeps_every_character_and_the_width(text in "[a-z ]{0,200}", width in 1usize..30) {
            let lines = wrap(&text, width);
            prop_assert!(lines.iter().all(|line| line.chars().count() <= width));
            let squeeze = |text: &str| text.split_whitespace().collect::<String>();
            prop_assert_eq!(squeeze(&lines.concat()), squeeze(&text));
        }
    }
}
