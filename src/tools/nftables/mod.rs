//! Generates firewall rules, from the configuration, that block every connection that bypasses the
//! gate. Pure.
//!
//! There are two sites. On a *host*, the gate runs as its own user, and the traffic of all other
//! users is redirected to it or dropped. On a *gateway*, traffic from the client interfaces is
//! redirected to the gate or dropped. Traffic is redirected with `redirect` and `dnat`, or with
//! `tproxy`.
//!
//! Only named traffic is accepted, and each rule is necessary: without it, a bypass opens or a
//! required connection fails. `pullgate doctor` detects this; a test removes each rule.

mod gateway;
mod host;
mod kit;
mod text;

use kit::{MARK, TABLE};
use text::Text;

pub use kit::{Cgroup, Kit, KitFault, NoCgroup, NoWord, Site, Word};

impl Kit<'_> {
    /// Returns the rules, in the syntax of `nft -f`.
    ///
    /// # Errors
    /// If the configuration lacks what they need.
    pub fn rules(&self) -> Result<String, KitFault> {
        let doors = self.doors()?;
        Ok(match self.site {
            Site::Host { user, cgroup } => host::rules(self, user, cgroup, &doors),
            Site::Gateway { inside, outside } => gateway::rules(self, inside, outside, &doors),
        })
    }
}

/// Returns the routes for TPROXY, as a script that can run repeatedly.
#[must_use]
pub fn routes() -> String {
    let mut text = Text::default();
    text.line("#!/bin/sh");
    text.comment(
        "The routes for the TPROXY rules: packets with their mark are delivered to this machine, \
         whatever their destination. Run this script as root at every boot.",
    );
    text.line("set -e");
    text.line("for family in -4 -6; do");
    text.line(&format!("\tip $family rule del fwmark {MARK} lookup {TABLE} 2>/dev/null || true"));
    text.line(&format!("\tip $family rule add fwmark {MARK} lookup {TABLE}"));
    text.line(&format!("\tip $family route replace local default dev lo table {TABLE}"));
    text.line("done");
    text.into_string()
}
