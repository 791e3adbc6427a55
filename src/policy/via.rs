//! The gates that a request has passed, as its `Via` fields name them, so that a loop is found.
//!
//! Each gate has a random pseudonym (RFC 9110 §7.6.3). Of a client's `Via` only the pseudonyms of
//! gates are kept and forwarded: nothing else that a client writes there reaches a parent proxy.

use std::fmt;

/// What a gate's pseudonym begins with; 16 hexadecimal digits follow.
const PREFIX: &str = "pullgate-";

/// The number of digits of a pseudonym.
const DIGITS: usize = 16;

/// At most this many gates may stand in a row. Longer chains count as loops.
const MOST_GATES: usize = 8;

/// The pseudonym of one gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GateId(u64);

impl GateId {
    /// The pseudonym that a random number makes.
    #[must_use]
    pub fn new(random: u64) -> Self {
        Self(random)
    }

    /// Parses `pullgate-` and 16 lower-case hexadecimal digits.
    fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(PREFIX).filter(|digits| digits.len() == DIGITS)?;
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        digits.bytes().all(is_digit).then(|| u64::from_str_radix(digits, 16).ok())?.map(Self)
    }
}

impl fmt::Display for GateId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{PREFIX}{:0DIGITS$x}", self.0)
    }
}

/// The gates that a request has passed, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Via(Vec<GateId>);

impl Via {
    /// Adds the gates that the value of a `Via` field names. At most one gate more than may stand in
    /// a row is kept.
    pub fn read(&mut self, value: &str) {
        let gates = value.split(',').filter_map(|hop| {
            let received_by = hop.split_ascii_whitespace().nth(1)?;
            GateId::parse(received_by)
        });
        let room = (MOST_GATES + 1).saturating_sub(self.0.len());
        self.0.extend(gates.take(room));
    }

    /// Whether the request has passed this gate before, or more gates than may stand in a row.
    #[must_use]
    pub fn is_loop(&self, own: GateId) -> bool {
        self.0.contains(&own) || self.0.len() > MOST_GATES
    }

    /// The value of the field for the next proxy, in which this gate is the last.
    #[must_use]
    pub fn through(&self, own: GateId) -> String {
        let hops = self.0.iter().chain([&own]).map(|gate| format!("1.1 {gate}"));
        hops.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Via {
        let mut via = Via::default();
        via.read(value);
        via
    }

    #[test]
    fn gates_are_found_among_other_proxies_and_nothing_else_is_kept() {
        let own = GateId::new(0xabc);
        let cases = [
            ("", 0),
            ("1.1 pullgate-0000000000000abc", 1),
            ("1.1 pullgate-0000000000000abc (v1, x), 1.1 squid (squid/5.7)", 1),
            ("1.1 pullgate-0000000000000ABC", 0),
            ("1.1 pullgate-abc", 0),
            ("1.1 pullgate-0000000000000abcd", 0),
            ("pullgate-0000000000000abc", 0),
            ("1.1 pullgate-00000000000000+c", 0),
            ("1.1 a,1.1 pullgate-0000000000000001 , 1.0 pullgate-0000000000000002", 2),
        ];
        for (value, count) in cases {
            let via = read(value);
            assert_eq!(via.0.len(), count, "{value}");
            assert_eq!(read(&via.through(own)).0.len(), count + 1, "{value}");
        }
        assert!(read("1.1 pullgate-0000000000000abc").is_loop(own));
        assert!(!read("1.1 pullgate-0000000000000abd").is_loop(own));
    }

    #[test]
    fn a_chain_without_end_is_a_loop() {
        let mut via = Via::default();
        for number in 0..MOST_GATES as u64 {
            let next = GateId::new(number);
            assert!(!via.is_loop(next), "{number}");
            via = read(&via.through(next));
        }
        assert!(!via.is_loop(GateId::new(99)));
        via = read(&via.through(GateId::new(98)));
        assert!(via.is_loop(GateId::new(99)));
        let many = read(&format!("{},", via.through(GateId::new(1))).repeat(1000));
        assert_eq!(many.0.len(), MOST_GATES + 1);
    }
}
