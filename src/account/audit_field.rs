//! Values in audit lines: written from what the gate has, read as plain data.

use std::net::SocketAddr;

use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::headed::Headed;
use super::text::AuditText;
use crate::policy::AddressFault;

/// Maximum number of rejected addresses in a line.
pub(super) const DROPPED_SHOWN: usize = 8;

/// A value that the gate writes from a specific type and reads as plain data.
#[derive(Debug, Clone, PartialEq)]
pub enum Field<W, R> {
    /// To be written.
    Written(W),
    /// As read.
    Read(R),
}

/// Returns the text; `None` if it is empty, as a missing one is read.
pub(super) fn filled(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

impl<W> Field<W, String> {
    /// Returns the text as read; `None` if it is missing.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Read(text) => filled(text),
            Self::Written(_) => None,
        }
    }
}

impl<W, R: Default> Default for Field<W, R> {
    fn default() -> Self {
        Self::Read(R::default())
    }
}

impl<W: Serialize, R: Serialize> Serialize for Field<W, R> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Written(value) => value.serialize(out),
            Self::Read(value) => value.serialize(out),
        }
    }
}

impl<'de, W, R: Deserialize<'de>> Deserialize<'de> for Field<W, R> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        R::deserialize(input).map(Self::Read)
    }
}

/// The rejected addresses, and why.
#[derive(Debug)]
pub struct Dropped<'a>(pub(super) &'a [(SocketAddr, AddressFault)]);

impl Serialize for Dropped<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let shown = self.0.iter().take(DROPPED_SHOWN);
        let shown = shown.map(|(address, fault)| format!("{} {fault}", address.ip()));
        let more = self.0.len().saturating_sub(DROPPED_SHOWN);
        out.collect_seq(shown.chain((more > 0).then(|| format!("and {more} more"))))
    }
}

/// Facts that affect no decision.
#[derive(Debug)]
pub struct Facts<'a> {
    pub(super) headed: Option<Headed>,
    pub(super) more: &'a [(&'static str, AuditText)],
}

impl Serialize for Facts<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let mut map = out.serialize_map(None)?;
        if let Some(headed) = self.headed {
            map.serialize_entry("original-destination", &headed.address())?;
            if headed.is_spoofed() {
                map.serialize_entry("spoofed-destination", &headed.address())?;
            }
        }
        for (name, text) in self.more {
            map.serialize_entry(name, text.as_str())?;
        }
        map.end()
    }
}
