//! What the rules are made from, and the parts that a host's and a gateway's share.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::text::Text;
use crate::config::{Capture, Mode, Settings};
use crate::policy::{HTTPS, ParentHost, PolicySet, Registry};

/// The packet mark for TPROXY, and the number of its routing table.
pub(super) const MARK: &str = "0x3129";
pub(super) const TABLE: &str = "3129";

/// The folder for rules of the operator. The generated rules include it and never write to it.
pub(super) const ADDITIONS: &str = "/etc/pullgate/nftables.d";

/// The table that is loaded if the rules cannot be: `deploy/nftables/closed.nft`.
pub(super) const CLOSED: &str = "pullgate_closed";

/// The input of the rules.
#[derive(Debug, Clone, Copy)]
pub struct Kit<'a> {
    /// The listeners and the DNS server.
    pub settings: &'a Settings,
    /// The ports of the hosts, and the upstream DNS servers.
    pub policy: &'a PolicySet,
    /// How traffic reaches the gate.
    pub capture: Capture,
    /// Where the rules will be loaded.
    pub site: Site<'a>,
}

/// Where rules will be loaded.
#[derive(Debug, Clone, Copy)]
pub enum Site<'a> {
    /// On a host with its own gate.
    Host {
        /// The user of the gate: a name or a number.
        user: &'a Word,
        /// The cgroup of the gate; `None` if the user alone identifies it.
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

/// A cgroup (version 2) by its path from the root of the hierarchy, for example `pullgate.slice`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup(pub(super) String);

impl Cgroup {
    /// Its depth, from 1.
    pub(super) fn level(&self) -> usize {
        self.0.split('/').count()
    }
}

impl std::fmt::Display for Cgroup {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

/// Why a text is not a valid [`Cgroup`].
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

/// A word that appears in the rules: the name of an interface or user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word(pub(super) String);

/// Why no rules can be generated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KitFault {
    /// No listener accepts the redirected traffic.
    #[error(
        "the configuration has no transparent listener with capture = \"{0}\": add one, or print \
         the rules for the other capture"
    )]
    NoListener(&'static str),
    /// A port that is unknown before the gate runs.
    #[error("{0} has port 0: set a fixed port")]
    AnyPort(SocketAddr),
    /// A listener that other machines cannot reach.
    #[error(
        "clients cannot connect to the loopback address {0}: listen on an address of the gateway"
    )]
    Loopback(SocketAddr),
}

/// Why a text is not a valid [`Word`].
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
    /// Returns the transparent listeners, one for each family that has one.
    pub(super) fn doors(&self) -> Result<Doors, KitFault> {
        let fits = |mode| mode == Mode::Transparent(self.capture);
        let mut doors = Doors { v4: None, v6: None };
        // The host's own, besides those for containers behind its bridges.
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
        // A socket on `::` also accepts IPv4.
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

    /// Returns the ports of the policy's hosts, which clients dial.
    pub(super) fn ports(&self) -> BTreeSet<u16> {
        let registries = &self.policy.rules().registries;
        let ports = registries.iter().flat_map(Registry::endpoints);
        ports.map(|endpoint| endpoint.target.port).chain([HTTPS]).collect()
    }

    /// The ports that the gate dials: those of the hosts that are not reached through a parent, and
    /// those that fixed answers replace. Empty if the gate dials its parents only.
    pub(super) fn dialled_ports(&self) -> BTreeSet<u16> {
        let direct = self.policy.routes().filter(|(_, route)| route.parent().is_none());
        let ports = direct.flat_map(|(registry, _)| registry.endpoints());
        let mut ports: BTreeSet<u16> = ports.map(|endpoint| endpoint.target.port).collect();
        if ports.is_empty() && !self.policy.rules().parents.is_empty() {
            return ports;
        }
        ports.insert(HTTPS);
        let pins = self.policy.rules().pins.values().flatten();
        ports.extend(pins.filter_map(|pin| pin.port));
        ports
    }

    /// Where the gate dials its parents: addresses and ports, and the ports of those whose addresses
    /// are known to DNS only.
    pub(super) fn parents(&self) -> (BTreeSet<SocketAddr>, BTreeSet<u16>) {
        let rules = self.policy.rules();
        let (mut known, mut ports) = (BTreeSet::new(), BTreeSet::new());
        for address in rules.parents.iter().flat_map(|parent| &parent.addresses) {
            let port = address.port();
            match address.host() {
                ParentHost::Ip(ip) => drop(known.insert(SocketAddr::new(*ip, port))),
                ParentHost::Name(name) => match rules.pins.get(name) {
                    Some(pins) => known.extend(
                        pins.iter()
                            .map(|pin| SocketAddr::new(pin.address, pin.port.unwrap_or(port))),
                    ),
                    None => drop(ports.insert(port)),
                },
            }
        }
        (known, ports)
    }

    /// Returns the `define` lines and the heading of all rules.
    pub(super) fn heading(&self, text: &mut Text, about: &[&str]) {
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

/// Returns the transparent listeners, by family.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doors {
    pub(super) v4: Option<SocketAddr>,
    pub(super) v6: Option<SocketAddr>,
}

impl Doors {
    /// Names the families without a listener in a comment.
    pub(super) fn tell_absent(self, text: &mut Text) {
        for (name, door) in [("IPv4", self.v4), ("IPv6", self.v6)] {
            if door.is_none() {
                text.comment(&format!(
                    "{name} has no listener: its connections are dropped below."
                ));
            }
        }
    }

    pub(super) fn iter(self) -> impl Iterator<Item = (Family, SocketAddr)> {
        let doors = [(Family::V4, self.v4), (Family::V6, self.v6)];
        doors.into_iter().filter_map(|(family, door)| Some((family, door?)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Returns the name of the family in nftables rules.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    /// Returns the match of a rule for one family.
    pub(super) fn only(self) -> &'static str {
        match self {
            Self::V4 => "meta nfproto ipv4",
            Self::V6 => "meta nfproto ipv6",
        }
    }
}

/// Returns address and port in nftables syntax. A wildcard listener uses the address of the packet.
pub(super) fn place(door: SocketAddr) -> String {
    if door.ip().is_unspecified() { format!(":{}", door.port()) } else { door.to_string() }
}

/// Returns ports as an nftables set.
pub(super) fn set(items: impl IntoIterator<Item = impl ToString>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    format!("{{ {} }}", items.join(", "))
}
