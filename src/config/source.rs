//! A file's text, its lines, and a reader of its tables that finds every fault at once.
//!
//! serde stops at the first unknown key or wrong type, and an operator wants all of them: so the
//! tables are walked with their spans by a small reader of our own, on toml's own parser.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::policy::{Fault, Located, Place};

/// A text and where its lines begin.
#[derive(Debug)]
pub(super) struct Source<'a> {
    file: Arc<str>,
    text: &'a str,
    /// Collected on the way; the readers of one file share it.
    faults: RefCell<Vec<Fault>>,
}

impl<'a> Source<'a> {
    pub(super) fn new(file: &Arc<str>, text: &'a str) -> Self {
        // Editors on Windows begin a file with a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self { file: file.clone(), text, faults: RefCell::default() }
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// The place of a byte.
    pub(super) fn place(&self, at: usize) -> Place {
        let before = self.text.as_bytes().get(..at).unwrap_or(self.text.as_bytes());
        let ends = before.iter().filter(|byte| **byte == b'\n').count();
        Place { file: self.file.clone(), line: u32::try_from(ends + 1).unwrap_or(u32::MAX) }
    }

    /// The file as a whole: what is missing is added at its top.
    pub(super) fn whole(&self) -> Place {
        Place { file: self.file.clone(), line: 1 }
    }

    pub(super) fn fault(&self, place: Place, what: impl Into<String>, remedy: impl Into<String>) {
        let fault = Fault { place, what: what.into(), remedy: remedy.into() };
        self.faults.borrow_mut().push(fault);
    }

    pub(super) fn take_faults(&self) -> Vec<Fault> {
        self.faults.take()
    }

    /// Parses TOML, noting every fault of its form.
    pub(super) fn toml(&self) -> Spanned<DeTable<'a>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in errors {
            let place = error.span().map_or_else(|| self.whole(), |span| self.place(span.start));
            let column = error.span().map_or(0, |span| self.column(span.start));
            let message = error.message().lines().collect::<Vec<_>>().join(", ");
            self.fault(place, format!("column {column}: {message}"), "mend the TOML");
        }
        table
    }

    /// The column of a byte, from 1.
    pub(super) fn column(&self, at: usize) -> usize {
        let before = self.text.get(..at).unwrap_or(self.text);
        before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1
    }
}

/// A table that is read key by key. What is left when it is dropped by [`Table::finish`] is unknown.
pub(super) struct Table<'a> {
    source: &'a Source<'a>,
    table: &'a DeTable<'a>,
    /// How faults call it: empty for the file, else `[policy]`.
    title: &'static str,
    read: Vec<&'static str>,
}

impl<'a> Table<'a> {
    pub(super) fn new(source: &'a Source<'a>, table: &'a DeTable<'a>, title: &'static str) -> Self {
        Self { source, table, title, read: Vec::new() }
    }

    fn take(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.read.push(key);
        self.table.get(key)
    }

    fn wrong(&self, key: &str, span: Range<usize>, wanted: &str) {
        let place = self.source.place(span.start);
        self.source.fault(place, format!("{key} is not {wanted}"), format!("write {wanted}"));
    }

    /// The place of a key's value, where it is there.
    pub(super) fn place_of(&self, key: &str) -> Option<Place> {
        self.table.get(key).map(|value| self.source.place(value.span().start))
    }

    fn located<T>(&self, value: T, span: Range<usize>) -> Located<T> {
        Located { value, place: self.source.place(span.start) }
    }

    pub(super) fn string(&mut self, key: &'static str) -> Option<Located<String>> {
        let value = self.take(key)?;
        match value.get_ref().as_str() {
            Some(text) => Some(self.located(text.to_owned(), value.span())),
            None => {
                self.wrong(key, value.span(), "a string in quotes");
                None
            }
        }
    }

    /// A list of strings; absent is empty.
    pub(super) fn strings(&mut self, key: &'static str) -> Vec<Located<String>> {
        self.take(key).map(|value| self.strings_of(key, value)).unwrap_or_default()
    }

    fn strings_of(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Vec<Located<String>> {
        let Some(list) = value.get_ref().as_array() else {
            self.wrong(key, value.span(), "a list of strings");
            return Vec::new();
        };
        let mut strings = Vec::with_capacity(list.len());
        for item in list.iter() {
            match item.get_ref().as_str() {
                Some(text) => strings.push(self.located(text.to_owned(), item.span())),
                None => self.wrong(&format!("an item of {key}"), item.span(), "a string in quotes"),
            }
        }
        strings
    }

    /// Either one string or a list of them.
    pub(super) fn string_or_strings(&mut self, key: &'static str) -> Option<OneOrMany> {
        let value = self.take(key)?;
        Some(match value.get_ref().as_str() {
            Some(text) => OneOrMany::One(self.located(text.to_owned(), value.span())),
            None => OneOrMany::Many(self.strings_of(key, value)),
        })
    }

    pub(super) fn boolean(&mut self, key: &'static str) -> Option<Located<bool>> {
        let value = self.take(key)?;
        match value.get_ref().as_bool() {
            Some(boolean) => Some(self.located(boolean, value.span())),
            None => {
                self.wrong(key, value.span(), "true or false");
                None
            }
        }
    }

    /// A whole number within bounds.
    pub(super) fn number(&mut self, key: &'static str, bounds: Range<u64>) -> Option<u64> {
        let value = self.take(key)?;
        let number = value.get_ref().as_integer().and_then(|integer| {
            u64::from_str_radix(&integer.as_str().replace('_', ""), integer.radix()).ok()
        });
        let number = number.filter(|number| bounds.contains(number));
        if number.is_none() {
            let wanted = format!("a whole number from {} to {}", bounds.start, bounds.end - 1);
            self.wrong(key, value.span(), &wanted);
        }
        number
    }

    /// A table within; nothing where it is absent.
    pub(super) fn table(&mut self, key: &'static str, title: &'static str) -> Option<Table<'a>> {
        let value = self.take(key)?;
        match value.get_ref().as_table() {
            Some(table) => Some(Table::new(self.source, table, title)),
            None => {
                self.wrong(key, value.span(), "a table");
                None
            }
        }
    }

    /// The tables of `[[key]]`, each with its place.
    pub(super) fn tables(
        &mut self,
        key: &'static str,
        title: &'static str,
    ) -> Vec<Located<Table<'a>>> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let Some(list) = value.get_ref().as_array() else {
            self.wrong(key, value.span(), "a list of tables");
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in list.iter() {
            match item.get_ref().as_table() {
                Some(table) => {
                    let table = Table::new(self.source, table, title);
                    tables.push(self.located(table, item.span()));
                }
                None => self.wrong(key, item.span(), "a list of tables"),
            }
        }
        tables
    }

    /// Every key with its value, for tables whose keys are the operator's.
    pub(super) fn entries(self) -> Vec<(Located<String>, OneOrMany)> {
        let mut entries = Vec::new();
        for (key, value) in self.table.iter() {
            let name = self.located(key.get_ref().to_string(), key.span());
            let listed = match value.get_ref().as_str() {
                Some(text) => OneOrMany::One(self.located(text.to_owned(), value.span())),
                None => OneOrMany::Many(self.strings_of(&name.value, value)),
            };
            entries.push((name, listed));
        }
        entries
    }

    /// Says which keys nobody knows.
    pub(super) fn finish(self) {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if self.read.contains(&name) {
                continue;
            }
            let place = self.source.place(key.span().start);
            let within = if self.title.is_empty() { "the file" } else { self.title };
            let nearest = self.read.iter().min_by_key(|known| distance(known, name));
            let remedy = match nearest.filter(|known| distance(known, name) <= 3) {
                Some(known) => format!("did you mean {known}?"),
                None => format!("take it out; known are {}", self.read.join(", ")),
            };
            self.source.fault(place, format!("{within} knows no key {name:?}"), remedy);
        }
    }
}

/// A value that may be written as one or as a list.
#[derive(Debug)]
pub(super) enum OneOrMany {
    One(Located<String>),
    Many(Vec<Located<String>>),
}

impl OneOrMany {
    pub(super) fn into_vec(self) -> Vec<Located<String>> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// How many letters have to be put in, taken out or changed (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.chars().count()).collect();
    for (line, from) in left.chars().enumerate() {
        let mut diagonal = line;
        let mut before = line + 1;
        if let Some(first) = row.first_mut() {
            *first = before;
        }
        for (cell, to) in row.iter_mut().skip(1).zip(right.chars()) {
            let changed = diagonal + usize::from(from != to);
            diagonal = *cell;
            before = changed.min(before + 1).min(diagonal + 1);
            *cell = before;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn distances() {
        let cases = [("", "", 0), ("a", "", 1), ("login", "logn", 1), ("kitten", "sitting", 3)];
        for (left, right, expected) in cases {
            assert_eq!(distance(left, right), expected, "{left} {right}");
            assert_eq!(distance(right, left), expected, "{right} {left}");
        }
    }
}
