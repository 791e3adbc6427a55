//! The measured rows: what, how often, and through which proxies.

use std::time::Duration;

use crate::bench::Bench;
use crate::link::Link;
use crate::load::bulk::{self, Bulk, Content, Direction};
use crate::load::curl::{self, Fetches};
use crate::load::ping::{self, Before, Transfers};
use crate::load::{crowd, idle, inspected, requests, setups};
use crate::peer::{Kind, Peer};
use crate::sample::Sample;

/// A row: one measured quantity.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The code that selects and stores it.
    pub code: &'static str,
    pub work: Work,
    /// Number of rounds.
    pub rounds: usize,
    /// The proxies that it is measured through.
    pub through: Through,
    /// The link between proxy and origin; `None` is the loopback interface.
    pub link: Option<Link>,
}

#[derive(Debug, Clone, Copy)]
pub enum Work {
    Bulk(Bulk),
    SetUps,
    Denials,
    Idle,
    Ping(Before),
    Transfers(Transfers),
    Crowd,
    /// Small requests on kept connections.
    Requests,
    /// Small requests on fresh connections.
    FreshRequests,
    /// A pull with its layers on the data endpoint.
    Pull,
    /// Objects of the web server.
    Fetches(Fetches),
}

#[derive(Debug, Clone, Copy)]
pub enum Through {
    /// All except the transparent listener, which relays like the CONNECT listener.
    Relays,
    /// Those that set up tunnels.
    Gates,
    /// The same, and the gate that verifies its upstreams: they relay alike.
    SetUps,
    /// Those with an allow-list.
    Policed,
    /// These.
    Only(&'static [Kind]),
}

impl Through {
    pub fn has(self, kind: Kind) -> bool {
        match self {
            Self::Only(kinds) if kind == Kind::Other => kinds.contains(&Kind::Pullgate),
            Self::Only(kinds) => kinds.contains(&kind),
            _ if kind.reads_requests() || kind.adds_tls() => false,
            Self::SetUps => kind.carries() && !kind.is_for_bulk(),
            _ if kind == Kind::Verifying => false,
            Self::Relays => kind.carries() && kind != Kind::Transparent,
            Self::Gates => kind.carries() && !kind.is_for_bulk(),
            Self::Policed => kind.is_policed() && !kind.is_for_bulk(),
        }
    }
}

const MIB: u64 = 1 << 20;

/// Duration of a bulk measurement.
const FULL_SPEED: Duration = Duration::from_millis(500);
const WARM: Duration = Duration::from_millis(250);
const PACED: Duration = Duration::from_millis(1_000);

/// Number of rounds of short measurements with much variation.
const OFTEN: usize = 7;

const fn full(code: &'static str, direction: Direction, tunnels: usize) -> Row {
    let content = Content::ReadyMade;
    let bulk = Bulk { direction, content, tunnels, pace: 0, warm: WARM, time: FULL_SPEED };
    let rounds = if tunnels == 1 { OFTEN } else { 5 };
    Row { code, work: Work::Bulk(bulk), rounds, through: Through::Relays, link: None }
}

const fn paced(code: &'static str, pace: u64) -> Row {
    let content = Content::ReadyMade;
    let direction = Direction::Down;
    let bulk = Bulk { direction, content, tunnels: 16, pace, warm: WARM, time: PACED };
    Row { code, work: Work::Bulk(bulk), rounds: 3, through: Through::Relays, link: None }
}

/// TLS between the client and the proxy, or between the proxy and its parent.
const fn in_tls(
    code: &'static str,
    (direction, tunnels): (Direction, usize),
    through: &'static [Kind],
) -> Row {
    let through = Through::Only(through);
    Row { rounds: OFTEN, through, ..full(code, direction, tunnels) }
}

const TLS_TO_CLIENTS: &[Kind] = &[Kind::ProxyTls, Kind::OtherProxyTls, Kind::HaproxyTls];
const TLS_TO_A_PARENT: &[Kind] =
    &[Kind::HttpsParent, Kind::OtherHttpsParent, Kind::HaproxyTlsServer];

/// The registry, and what stands before it under its name.
const REGISTRIES: Through =
    Through::Only(&[Kind::Direct, Kind::Mirror, Kind::NginxReverse, Kind::DockerRegistry]);

/// Without docker-registry, which opens connections to the registry again and again: 1,000 requests
/// take it more than two CPU seconds.
const PROXIES: Through = Through::Only(&[Kind::Direct, Kind::Mirror, Kind::NginxReverse]);

/// The login server in tunnels: not decrypted, and decrypted.
const INSPECTED: Through =
    Through::Only(&[Kind::Direct, Kind::Pullgate, Kind::Inspected, Kind::SquidBump]);

/// Idle tunnels are measured first, before programs keep memory from other work.
pub const ROWS: &[Row] = &[
    Row { code: "idle", work: Work::Idle, rounds: 1, through: Through::Gates, link: None },
    full("down-1", Direction::Down, 1),
    full("down-16", Direction::Down, 16),
    full("down-64", Direction::Down, 64),
    full("up-1", Direction::Up, 1),
    full("up-16", Direction::Up, 16),
    full("up-64", Direction::Up, 64),
    paced("paced-8", 8 * MIB),
    paced("paced-64", 64 * MIB),
    Row {
        code: "tls12-up-16",
        work: Work::Bulk(Bulk {
            direction: Direction::Up,
            content: Content::ReadyMadeTls12,
            tunnels: 16,
            pace: 0,
            warm: WARM,
            time: FULL_SPEED,
        }),
        rounds: 5,
        through: Through::Only(&[Kind::Bare, Kind::Pullgate, Kind::HaproxySplice, Kind::SquidPeek]),
        link: None,
    },
    Row {
        code: "tls12-up-bytes",
        work: Work::Bulk(Bulk {
            direction: Direction::Up,
            content: Content::OneByteTls12,
            tunnels: 1,
            pace: 0,
            warm: WARM,
            time: FULL_SPEED,
        }),
        rounds: 3,
        through: Through::Only(&[Kind::Pullgate, Kind::HaproxySplice]),
        link: None,
    },
    Row {
        code: "real-tls-4",
        work: Work::Bulk(Bulk {
            direction: Direction::Down,
            content: Content::RealTls,
            tunnels: 4,
            pace: 0,
            warm: WARM,
            time: FULL_SPEED,
        }),
        rounds: 5,
        through: Through::Only(&[
            Kind::Direct,
            Kind::Bare,
            Kind::Pullgate,
            Kind::HaproxySplice,
            Kind::Nginx,
            Kind::SquidPeek,
        ]),
        link: None,
    },
    in_tls("proxy-tls-down-1", (Direction::Down, 1), TLS_TO_CLIENTS),
    in_tls("proxy-tls-down-16", (Direction::Down, 16), TLS_TO_CLIENTS),
    in_tls("proxy-tls-up-1", (Direction::Up, 1), TLS_TO_CLIENTS),
    Row {
        rounds: 5,
        through: Through::Only(TLS_TO_CLIENTS),
        ..paced("proxy-tls-paced-8", 8 * MIB)
    },
    in_tls("https-parent-down-1", (Direction::Down, 1), TLS_TO_A_PARENT),
    in_tls("https-parent-up-1", (Direction::Up, 1), TLS_TO_A_PARENT),
    Row {
        code: "set-ups",
        work: Work::SetUps,
        rounds: OFTEN,
        through: Through::SetUps,
        link: None,
    },
    Row {
        code: "denials",
        work: Work::Denials,
        rounds: OFTEN,
        through: Through::Policed,
        link: None,
    },
    Row {
        code: "ping",
        work: Work::Ping(Before::Fresh),
        rounds: OFTEN,
        through: Through::Gates,
        link: None,
    },
    Row {
        code: "ping-bulk",
        work: Work::Ping(Before::Bulk),
        rounds: OFTEN,
        through: Through::Gates,
        link: None,
    },
    Row {
        code: "last-byte",
        work: Work::Transfers(Transfers {
            bytes: MIB,
            pace: 8 * MIB,
            tunnels: 8,
            time: Duration::from_millis(900),
        }),
        rounds: 3,
        through: Through::Relays,
        link: None,
    },
    Row { code: "crowd", work: Work::Crowd, rounds: 3, through: Through::Gates, link: None },
    Row {
        code: "layers-4",
        work: Work::Bulk(Bulk {
            direction: Direction::Down,
            content: Content::Layers,
            tunnels: 4,
            pace: 0,
            warm: WARM,
            time: PACED,
        }),
        rounds: 5,
        through: REGISTRIES,
        link: None,
    },
    Row { code: "requests", work: Work::Requests, rounds: OFTEN, through: PROXIES, link: None },
    Row {
        code: "inspected-set-ups",
        work: Work::FreshRequests,
        rounds: 5,
        through: INSPECTED,
        link: None,
    },
    Row {
        code: "inspected-requests",
        work: Work::Requests,
        rounds: 5,
        through: INSPECTED,
        link: None,
    },
    Row { code: "inspected-pull", work: Work::Pull, rounds: OFTEN, through: INSPECTED, link: None },
];

/// Number of set-ups and denials per measurement.
const SET_UPS: usize = 3_000;
const DENIALS: usize = 2_000;

/// Number of small requests per measurement.
const REQUESTS: usize = 2_000;
const FRESH_REQUESTS: usize = 1_000;

/// Number of idle tunnels, if there are enough descriptors.
const IDLE: u64 = 9_000;

/// Number of tunnels that exchange small messages, one after another.
const PINGED: usize = 8;

impl Row {
    /// Whether the origin is the web server.
    pub fn needs_web(&self) -> bool {
        matches!(self.work, Work::Fetches(_))
    }

    /// Measures once.
    pub fn measure(
        &self,
        bench: &mut Bench,
        peer: &Peer,
        descriptors: u64,
    ) -> anyhow::Result<Sample> {
        bench.set_link(self.link)?;
        match &self.work {
            Work::Bulk(it) => bulk::run(bench, peer, it),
            Work::SetUps => setups::run(bench, peer, SET_UPS),
            Work::Denials => setups::denials(bench, peer, DENIALS),
            // A proxy needs two descriptors per tunnel, and pullgate reserves some for new
            // connections.
            Work::Idle => idle::run(bench, peer, IDLE.min(descriptors * 9 / 20) as usize),
            Work::Ping(before) => ping::run(bench, peer, *before, PINGED),
            Work::Transfers(transfers) => ping::transfers(bench, peer, *transfers),
            Work::Crowd => crowd::run(bench, peer, Duration::from_millis(800)),
            Work::Requests => requests::kept(bench, peer, REQUESTS),
            Work::FreshRequests => inspected::fresh(bench, peer, FRESH_REQUESTS),
            Work::Pull => inspected::pull(bench, peer),
            Work::Fetches(fetches) => curl::run(bench, peer, fetches),
        }
    }
}
