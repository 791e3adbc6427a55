//! The results of a run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::peer::Kind;
use crate::sample::{Figures, Sample};

/// The results of a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Found {
    /// Description of the machine.
    pub machine: String,
    /// The proxies that ran, and their versions.
    pub versions: BTreeMap<Kind, String>,
    /// The packages of proxies that are not installed.
    pub absent: Vec<String>,
    pub seconds: u64,
    /// Samples by row and proxy.
    pub samples: BTreeMap<String, BTreeMap<Kind, Vec<Sample>>>,
}

impl Found {
    pub fn figures(&self, row: &str, kind: Kind) -> Option<Figures> {
        let samples = self.samples.get(row)?.get(&kind)?;
        Some(Figures::new(samples.clone()))
    }
}
