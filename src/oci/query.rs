//! Query strings: known keys, each once, and values that are decoded exactly once.

use super::fault::RequestFault;

/// The keys and values of a query, in the order in which the client wrote them.
#[derive(Debug, Default)]
pub(super) struct Query<'a> {
    pairs: Vec<(&'a str, String)>,
}

/// How many pairs a query may have.
pub(super) const MOST_PAIRS: usize = 16;

impl<'a> Query<'a> {
    /// Splits a query and decodes its values. A key is taken as it stands, so one with an escape is
    /// not known.
    pub(super) fn parse(text: Option<&'a str>) -> Result<Self, RequestFault> {
        let Some(text) = text else { return Ok(Self::default()) };
        let mut pairs = Vec::new();
        for pair in text.split('&') {
            let (key, value) = pair.split_once('=').ok_or(RequestFault::QueryForm)?;
            if key.is_empty() || value.is_empty() || pairs.len() == MOST_PAIRS {
                return Err(RequestFault::QueryForm);
            }
            pairs.push((key, decoded(value).ok_or(RequestFault::QueryForm)?));
        }
        Ok(Self { pairs })
    }

    /// Takes out a key that may stand once; `None` when it is absent.
    pub(super) fn take(&mut self, key: &str) -> Result<Option<String>, RequestFault> {
        let mut values = self.take_all(key);
        match values.len() {
            0 | 1 => Ok(values.pop()),
            _ => Err(RequestFault::KeyTwice),
        }
    }

    /// Takes out a key that may stand several times.
    pub(super) fn take_all(&mut self, key: &str) -> Vec<String> {
        let (taken, left) =
            std::mem::take(&mut self.pairs).into_iter().partition(|(one, _)| *one == key);
        self.pairs = left;
        taken.into_iter().map(|(_, value)| value).collect()
    }

    /// Refuses what was not taken.
    pub(super) fn finish(self) -> Result<(), RequestFault> {
        if self.pairs.is_empty() { Ok(()) } else { Err(RequestFault::UnknownKey) }
    }
}

/// Decodes a value once. What it decodes to is printable ASCII; `None` otherwise.
fn decoded(value: &str) -> Option<String> {
    let mut text = String::with_capacity(value.len());
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            other => other,
        };
        if !(b' '..=b'~').contains(&byte) {
            return None;
        }
        text.push(char::from(byte));
    }
    Some(text)
}

/// Returns pairs as a form or a query has them, without a question mark.
#[must_use]
pub fn encoded(pairs: &[(&str, &str)]) -> String {
    let mut query = QueryText::default();
    for (key, value) in pairs {
        query.pair(key, value);
    }
    query.finish().trim_start_matches('?').to_owned()
}

/// Writes a query: each value encoded, so that reading it gives the same value.
#[derive(Debug, Default)]
pub(super) struct QueryText {
    text: String,
}

impl QueryText {
    /// Adds a pair.
    pub(super) fn pair(&mut self, key: &str, value: &str) {
        self.text.push(if self.text.is_empty() { '?' } else { '&' });
        self.text.push_str(key);
        self.text.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                self.text.push(char::from(byte));
            } else {
                self.text.push_str(&format!("%{byte:02X}"));
            }
        }
    }

    /// Adds a pair where there is a value.
    pub(super) fn optional(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.pair(key, value);
        }
    }

    /// Returns the query with its question mark; empty without a pair.
    pub(super) fn finish(self) -> String {
        self.text
    }
}
