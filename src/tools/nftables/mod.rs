//! Firewall rules that leave no way past the gate, printed from the configuration: pure.
//!
//! They are for one of two sites. On a *host*, the gate runs under its own user, and the traffic of all
//! other users is redirected to it or dropped. On a *gateway*, the traffic of the clients' interfaces is
//! redirected to the gate or dropped. Traffic is redirected with `redirect` and `dnat`, or `tproxy`.
//!
//! Only what is named is accepted, and each rule is necessary: without it, something is open or
//! something does not work that should. `pullgate doctor` finds out which; a test removes each rule.

mod gateway;
mod host;
mod text;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::config::{Capture, Mode, Settings};
use crate::policy::{HTTPS, PolicySet, Registry};
use text::Text;

/// The mark of what TPROXY takes, and the number of the routing table for it.
const MARK: &str = "0x3129";
const TABLE: &str = "3129";

/// The folder of what the operator adds: the rules include it, and nothing of ours writes there.
const ADDITIONS: &str = "/etc/pullgate/nftables.d";

/// The table that is loaded while the rules cannot be: `deploy/nftables/closed.nft`.
const CLOSED: &str = "pullgate_closed";

/// What the rules are made from.
#[derive(Debug, Clone, Copy)]
pub struct Kit<'a> {
    /// The listeners and the answerer.
    pub settings: &'a Settings,
    /// The hosts' ports, and the DNS servers.
    pub policy: &'a PolicySet,
    /// How the traffic is brought to the gate.
    pub capture: Capture,
    /// Where the rules are to be loaded.
    pub site: Site<'a>,
}

/// Where rules are to be loaded.
#[derive(Debug, Clone, Copy)]
pub enum Site<'a> {
    /// On a host with a gate of its own.
    Host {
        /// The user that the gate runs as: a name or a number.
        user: &'a Word,
        /// The cgroup that the gate runs in; `None` if the user alone identifies it.
        cgroup: Option<&'a Cgroup>,
    },
    /// On a gateway.
    Gateway {
        /// The interfaces of its clients.
        inside: &'a [Word],
        /// Every other interface that it accepts packets from.
        outside: &'a [Word],
    },
}

/// A cgroup (version 2) by its path from the root of the hierarchy, such as `pullgate.slice`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup(String);

impl Cgroup {
    /// How deep it lies, from 1.
    fn level(&self) -> usize {
        self.0.split('/').count()
    }
}

impl std::fmt::Display for Cgroup {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

/// Why a text is not a [`Cgroup`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be the path of a cgroup below /sys/fs/cgroup, such as pullgate.slice, of up to 200 \
     letters, digits and . - _ @ : /"
)]
pub struct NoCgroup;

impl std::str::FromStr for Cgroup {
    type Err = NoCgroup;

    fn from_str(text: &str) -> Result<Self, NoCgroup> {
        let text = text.trim_start_matches('/').trim_end_matches('/');
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_@:/".contains(&byte);
        let fits = text.len() <= 200 && text.bytes().all(plain);
        let named = text.split('/').all(|name| !matches!(name, "" | "." | ".."));
        if fits && named { Ok(Self(text.to_owned())) } else { Err(NoCgroup) }
    }
}

/// A word that stands in the rules as it is: the name of an interface or of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word(String);

/// Why no rules can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KitFault {
    /// No listener takes what would be brought there.
    #[error(
        "the configuration has no transparent listener with capture = \"{0}\": add one, or print \
         the rules for the other capture"
    )]
    NoListener(&'static str),
    /// A port that is not known before the gate runs.
    #[error("{0} has port 0: set a fixed port")]
    AnyPort(SocketAddr),
    /// A listener that nobody on another machine reaches.
    #[error(
        "clients cannot connect to the loopback address {0}: listen on an address of the gateway"
    )]
    Loopback(SocketAddr),
}

/// Why a text is no [`Word`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 32 letters, digits, dots, dashes and underscores")]
pub struct NoWord;

impl std::str::FromStr for Word {
    type Err = NoWord;

    fn from_str(text: &str) -> Result<Self, NoWord> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let fits = (1..=32).contains(&text.len()) && text.bytes().all(plain);
        if fits { Ok(Self(text.to_owned())) } else { Err(NoWord) }
    }
}

impl Kit<'_> {
    /// The rules, as `nft -f` reads them.
    ///
    /// # Errors
    /// When the configuration has not what they need.
    pub fn rules(&self) -> Result<String, KitFault> {
        let doors = self.doors()?;
        Ok(match self.site {
            Site::Host { user, cgroup } => host::rules(self, user, cgroup, &doors),
            Site::Gateway { inside, outside } => gateway::rules(self, inside, outside, &doors),
        })
    }

    /// The transparent listeners, one for each family that has one.
    fn doors(&self) -> Result<Doors, KitFault> {
        let fits = |mode| mode == Mode::Transparent(self.capture);
        let mut doors = Doors { v4: None, v6: None };
        // A host's own, beside those for the clients behind its bridges.
        let mut unreached = None;
        for listener in self.settings.listeners.iter().filter(|one| fits(one.mode)) {
            let address = listener.address;
            if address.port() == 0 {
                return Err(KitFault::AnyPort(address));
            }
            if address.ip().is_loopback() && matches!(self.site, Site::Gateway { .. }) {
                unreached = unreached.or(Some(address));
                continue;
            }
            match address {
                SocketAddr::V4(_) => doors.v4 = doors.v4.or(Some(address)),
                SocketAddr::V6(_) => doors.v6 = doors.v6.or(Some(address)),
            }
        }
        // A socket on `::` takes IPv4 as well.
        doors.v4 = doors.v4.or(doors.v6.filter(|address| address.ip().is_unspecified()));
        match (doors.v4, doors.v6) {
            (None, None) if let Some(address) = unreached => Err(KitFault::Loopback(address)),
            (None, None) => Err(KitFault::NoListener(match self.capture {
                Capture::Redirect => "redirect",
                Capture::Tproxy => "tproxy",
            })),
            _ => Ok(doors),
        }
    }

    /// The ports of the policy's hosts, which clients dial.
    fn ports(&self) -> BTreeSet<u16> {
        let registries = &self.policy.rules().registries;
        let ports = registries.iter().flat_map(Registry::endpoints);
        ports.map(|endpoint| endpoint.target.port).chain([HTTPS]).collect()
    }

    /// The ports that the gate dials: the same, but for those that fixed answers replace.
    fn dialled_ports(&self) -> BTreeSet<u16> {
        let pins = self.policy.rules().pins.values().flatten();
        self.ports().into_iter().chain(pins.filter_map(|pin| pin.port)).collect()
    }

    /// The `define` lines and the heading that all rules share.
    fn heading(&self, text: &mut Text, about: &[&str]) {
        text.line("#!/usr/sbin/nft -f");
        for line in about {
            text.comment(line);
        }
        text.comment(
            "Blocked for IPv4 and IPv6: port 80, 22 and all others; QUIC (UDP port 443); DNS and DNS over \
             TLS, except to the answerer; DNS over HTTPS, because no policy names such a host; the \
             cloud metadata services 169.254.169.254 and 168.63.129.16.",
        );
        if self.capture == Capture::Tproxy {
            text.comment("These rules need the routes that `pullgate kit routes` prints.");
        }
        text.comment(
            "Generated from the configuration: print the rules again when its listeners, its DNS servers \
             or the ports of its hosts change. Load them with `nft -f`, and test them with \
             `pullgate doctor`.",
        );
        text.blank();
    }
}

/// The transparent listeners, by family.
#[derive(Debug, Clone, Copy)]
struct Doors {
    v4: Option<SocketAddr>,
    v6: Option<SocketAddr>,
}

impl Doors {
    /// Says of which family nothing comes to the gate.
    fn tell_absent(self, text: &mut Text) {
        for (name, door) in [("IPv4", self.v4), ("IPv6", self.v6)] {
            if door.is_none() {
                text.comment(&format!(
                    "{name} has no listener: its connections are dropped below."
                ));
            }
        }
    }

    fn iter(self) -> impl Iterator<Item = (Family, SocketAddr)> {
        let doors = [(Family::V4, self.v4), (Family::V6, self.v6)];
        doors.into_iter().filter_map(|(family, door)| Some((family, door?)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// As nftables calls it in a rule.
    fn word(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    /// The match of a rule that is for one family.
    fn only(self) -> &'static str {
        match self {
            Self::V4 => "meta nfproto ipv4",
            Self::V6 => "meta nfproto ipv6",
        }
    }
}

/// An address and port where nftables wants it: a listener on every address is wherever the packet
/// comes in.
fn place(door: SocketAddr) -> String {
    if door.ip().is_unspecified() { format!(":{}", door.port()) } else { door.to_string() }
}

/// Ports as a set of nftables.
fn set(items: impl IntoIterator<Item = impl ToString>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    format!("{{ {} }}", items.join(", "))
}

/// The routes that TPROXY needs, as a script that may run again.
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
