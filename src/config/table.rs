//! A reader for TOML tables that reports every error at once.
//!
//! serde stops at the first unknown key or wrong type, but operators want all errors with their
//! lines. So this reader walks the tables with their spans, using the parser of the toml crate.

use std::ops::{Range, RangeInclusive};

use strsim::levenshtein;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::source::Source;
use crate::policy::{Located, Location};

/// A list of strings with their places.
pub(super) type Strings = Vec<Located<String>>;

/// A table that is read key by key. Keys that were not read before [`Table::finish`] are unknown.
pub(super) struct Table<'a> {
    source: &'a Source<'a>,
    table: &'a DeTable<'a>,
    /// Its name in errors: empty for the file, otherwise for example `[policy]`.
    title: &'static str,
    place: Location,
    read: Vec<&'static str>,
}

impl<'a> Table<'a> {
    /// Returns the root table of a file.
    pub(super) fn of_file(source: &'a Source<'a>, table: &'a Spanned<DeTable<'a>>) -> Self {
        Self { source, table: table.get_ref(), title: "", place: source.whole(), read: Vec::new() }
    }

    fn within(&self, table: &'a DeTable<'a>, title: &'static str, span: Range<usize>) -> Table<'a> {
        let place = self.source.place(span.start);
        Table { source: self.source, table, title, place, read: Vec::new() }
    }

    /// Returns the place where it starts.
    pub(super) fn place(&self) -> &Location {
        &self.place
    }

    fn take(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.read.push(key);
        self.table.get(key)
    }

    /// Returns whether a key exists, with any value.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Returns whether a key is an empty list.
    pub(super) fn is_empty_list(&self, key: &str) -> bool {
        let list = self.table.get(key).and_then(|value| value.get_ref().as_array());
        list.is_some_and(|list| list.is_empty())
    }

    fn wrong(&self, key: &str, span: Range<usize>, wanted: &str) {
        let place = self.source.place(span.start);
        let found = self.source.shortened(span);
        self.source.fault(place, format!("{key} is {found}"), format!("write {wanted}"));
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

    /// Returns a list of strings; empty if the key is absent.
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

    /// Returns one string or a list of strings.
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

    /// Returns an integer within a range.
    pub(super) fn number(&mut self, key: &'static str, bounds: RangeInclusive<u64>) -> Option<u64> {
        let value = self.take(key)?;
        let number = value.get_ref().as_integer().and_then(|integer| {
            u64::from_str_radix(&integer.as_str().replace('_', ""), integer.radix()).ok()
        });
        let number = number.filter(|number| bounds.contains(number));
        if number.is_none() {
            let wanted = format!("a whole number from {} to {}", bounds.start(), bounds.end());
            self.wrong(key, value.span(), &wanted);
        }
        number
    }

    /// Returns a nested table; `None` if the key is absent.
    pub(super) fn table(&mut self, key: &'static str, title: &'static str) -> Option<Table<'a>> {
        let value = self.take(key)?;
        match value.get_ref().as_table() {
            Some(table) => Some(self.within(table, title, value.span())),
            None => {
                self.wrong(key, value.span(), "a table");
                None
            }
        }
    }

    /// Returns the tables of `[[key]]`.
    pub(super) fn tables(&mut self, key: &'static str, title: &'static str) -> Vec<Table<'a>> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let Some(list) = value.get_ref().as_array() else {
            self.wrong(key, value.span(), title);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in list.iter() {
            match item.get_ref().as_table() {
                Some(table) => tables.push(self.within(table, title, item.span())),
                None => self.wrong(key, item.span(), title),
            }
        }
        tables
    }

    /// Returns every key with its strings, one or a list, for tables whose keys the operator
    /// chooses. Reports other values.
    pub(super) fn entries(self) -> Vec<(Located<String>, Option<Strings>)> {
        let mut entries = Vec::with_capacity(self.table.len());
        for (key, value) in self.table.iter() {
            let name = self.located(key.get_ref().to_string(), key.span());
            let listed = match value.get_ref() {
                DeValue::String(text) => Some(vec![self.located(text.to_string(), value.span())]),
                DeValue::Array(list) if !list.is_empty() => {
                    Some(self.strings_of(&name.value, value))
                }
                DeValue::Table(_) => {
                    let what = format!("{:?} is a table", name.value);
                    self.source.fault(name.place.clone(), what, "put the whole name in quotes");
                    None
                }
                _ => {
                    self.wrong(&name.value, value.span(), "a string in quotes, or a list of them");
                    None
                }
            };
            entries.push((name, listed));
        }
        entries
    }

    /// Reports unknown keys.
    pub(super) fn finish(self) {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if self.read.contains(&name) {
                continue;
            }
            let place = self.source.place(key.span().start);
            if self.title.is_empty() && self.source.follows_broken_header(&place) {
                continue;
            }
            let within = if self.title.is_empty() { "the file" } else { self.title };
            let nearest = self.read.iter().min_by_key(|known| levenshtein(known, name));
            let remedy = match nearest.filter(|known| levenshtein(known, name) <= 3) {
                Some(known) => format!("did you mean {known}?"),
                None => format!("remove it; known keys are {}", self.read.join(", ")),
            };
            self.source.fault(place, format!("{name:?} is not a known key of {within}"), remedy);
        }
    }
}

/// A value that is one item or a list.
#[derive(Debug)]
pub(super) enum OneOrMany {
    One(Located<String>),
    Many(Vec<Located<String>>),
}
