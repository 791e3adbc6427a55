//! The text of a file, its lines, and the errors found in it.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::DeTable;

use crate::policy::{Fault, Location};

/// A text and the offsets of its lines.
#[derive(Debug)]
pub(super) struct Source<'a> {
    file: Arc<str>,
    text: &'a str,
    /// The offsets of line feeds, so that finding a line does not scan the text.
    line_feeds: Vec<usize>,
    /// Errors, collected by all readers of the file.
    faults: RefCell<Vec<Fault>>,
    warnings: RefCell<Vec<Fault>>,
    broken: RefCell<MalformedLines>,
}

/// The malformed lines of a file.
#[derive(Debug, Default)]
struct MalformedLines {
    /// The lines.
    lines: HashSet<u32>,
    /// The first of them that starts a `[header]`.
    header: Option<u32>,
}

impl<'a> Source<'a> {
    pub(super) fn new(file: &Arc<str>, text: &'a str) -> Self {
        // Editors on Windows write a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let line_feeds = text.match_indices('\n').map(|(at, _)| at).collect();
        Self {
            file: file.clone(),
            text,
            line_feeds,
            faults: RefCell::default(),
            warnings: RefCell::default(),
            broken: RefCell::default(),
        }
    }

    pub(super) fn file(&self) -> &Arc<str> {
        &self.file
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// Returns the place of a byte.
    pub(super) fn place(&self, at: usize) -> Location {
        let line = self.line_feeds.partition_point(|line_feed| *line_feed < at) + 1;
        Location { file: self.file.clone(), line: u32::try_from(line).unwrap_or(u32::MAX) }
    }

    /// Returns the column of a byte, in characters from 1.
    pub(super) fn column(&self, at: usize) -> usize {
        let before = self.text.get(..at).unwrap_or(self.text);
        before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1
    }

    /// Returns the text of a span, for an error that quotes it.
    pub(super) fn shortened(&self, span: Range<usize>) -> String {
        const LONGEST: usize = 40;
        let line = self.text.get(span).and_then(|text| text.lines().next()).unwrap_or("nothing");
        let mut shortened: String = line.chars().take(LONGEST).collect();
        if shortened.len() < line.len() {
            shortened.push_str("...");
        }
        shortened
    }

    /// Returns the place of the whole file: a missing key is added at its top.
    pub(super) fn whole(&self) -> Location {
        Location { file: self.file.clone(), line: 1 }
    }

    /// Reports an error. Ignores further errors of a malformed line, because the parser's result
    /// for it is unreliable.
    pub(super) fn fault(
        &self,
        place: Location,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        if !self.broken.borrow().lines.contains(&place.line) {
            let fault = Fault { place, what: what.into(), remedy: remedy.into() };
            self.faults.borrow_mut().push(fault);
        }
    }

    /// Reports a missing key, unless a malformed line may contain it.
    pub(super) fn missing(&self, place: &Location, what: impl Into<String>, remedy: &str) {
        if self.is_well_formed() {
            self.fault(place.clone(), what, remedy);
        }
    }

    /// Returns whether the syntax is valid.
    pub(super) fn is_well_formed(&self) -> bool {
        self.broken.borrow().lines.is_empty()
    }

    /// Adds a warning about a valid but probably unintended setting.
    pub(super) fn warn(&self, place: Location, what: impl Into<String>, remedy: impl Into<String>) {
        let warning = Fault { place, what: what.into(), remedy: remedy.into() };
        self.warnings.borrow_mut().push(warning);
    }

    /// Returns whether a malformed `[header]` precedes a key, which may belong to its table.
    pub(super) fn follows_broken_header(&self, key: &Location) -> bool {
        self.broken.borrow().header.is_some_and(|header| header < key.line)
    }

    /// Returns whether no error was reported.
    pub(super) fn is_faultless(&self) -> bool {
        self.faults.borrow().is_empty()
    }

    pub(super) fn take_faults(&self) -> Vec<Fault> {
        self.faults.take()
    }

    pub(super) fn take_warnings(&self) -> Vec<Fault> {
        self.warnings.take()
    }

    /// Parses TOML and reports every syntax error.
    pub(super) fn toml(&self) -> Spanned<DeTable<'a>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        let mut broken = MalformedLines::default();
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            let place = self.place(at);
            // A second error in one line is usually caused by the parser's recovery.
            if !broken.lines.insert(place.line) {
                continue;
            }
            let before = self.text.get(..at).and_then(|before| before.rsplit('\n').next());
            if before.is_some_and(|line| line.trim_start().starts_with('[')) {
                broken.header = Some(broken.header.map_or(place.line, |at| at.min(place.line)));
            }
            let message = error.message().lines().collect::<Vec<_>>().join(", ");
            self.fault(place, format!("column {}: {message}", self.column(at)), "fix the TOML");
        }
        self.broken.replace(broken);
        table
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Source;

    #[test]
    fn places_count_lines_and_columns_count_characters() {
        let source = Source::new(&"a.toml".into(), "\u{feff}a\r\n\u{e9}b\n\nc");
        let places: Vec<_> = [0, 3, 5, 6, 7, 8, 99].map(|at| source.place(at).line).into();
        assert_eq!(places, [1, 2, 2, 2, 3, 4, 4]);
        assert_eq!(source.column(0), 1);
        assert_eq!(source.column(5), 2);
    }

    proptest! {
        #[test]
        fn a_line_is_one_more_than_the_line_feeds_before(text in "[a\n]{0,40}", at in 0usize..50) {
            let naive = text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
            prop_assert_eq!(Source::new(&"a".into(), &text).place(at).line as usize, naive);
        }
    }
}
