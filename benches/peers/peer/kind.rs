//! The compared paths from the client to the origin.

use clap::ValueEnum as _;
use serde::{Deserialize, Serialize};

/// A path from the client to the origin.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
pub enum Kind {
    /// No proxy.
    Direct,
    /// The bare relay that only splices.
    Bare,
    /// pullgate with CONNECT.
    Pullgate,
    /// Another build of pullgate, for comparison.
    Other,
    /// pullgate without batching: `[relay] batch-ms = 0`.
    Unbatched,
    /// pullgate with a transparent listener.
    Transparent,
    /// pullgate behind a second one as its parent proxy, whose cost does not count.
    ThroughParent,
    /// pullgate that takes a second one's transparent listener for the origin. There are as many
    /// programs as with a parent; the cost of the second does not count.
    BeforeGate,
    /// pullgate with `[policy] verify-upstream = true`.
    Verifying,
    /// pullgate whose clients speak TLS to it.
    ProxyTls,
    /// Another build of pullgate, whose clients speak TLS to it.
    OtherProxyTls,
    /// pullgate behind a second one as its parent proxy, to which it speaks TLS.
    HttpsParent,
    /// Another build of pullgate, behind such a parent.
    OtherHttpsParent,
    /// pullgate as a registry mirror with `blobs = "relay"`.
    Mirror,
    /// pullgate with CONNECT that inspects the login server.
    Inspected,
    /// HAProxy by SNI, `option splice-auto`.
    #[value(name = "haproxy")]
    HaproxyAuto,
    /// HAProxy by SNI, splice forced in both directions.
    HaproxySplice,
    /// HAProxy that rejects a CONNECT with an answer. It cannot accept one.
    HaproxyConnect,
    /// HAProxy by SNI, whose clients speak TLS to it.
    HaproxyTls,
    /// HAProxy that passes everything on to pullgate, the parent of [`Kind::HttpsParent`], in TLS.
    HaproxyTlsServer,
    /// nginx by SNI, `ssl_preread`.
    Nginx,
    /// nginx as a reverse proxy before the registry, which caches nothing.
    NginxReverse,
    /// docker-registry as a pull-through cache, which has everything after the first request.
    DockerRegistry,
    /// Squid with CONNECT, which peeks at the hello like pullgate.
    SquidPeek,
    /// Squid with CONNECT that decrypts the login server, with its own authority.
    SquidBump,
    /// Squid with CONNECT only.
    Squid,
    /// Traffic Server with CONNECT.
    TrafficServer,
}

impl Kind {
    /// The code that selects it on the command line.
    pub fn code(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The name in the tables.
    pub fn title(self) -> &'static str {
        match self {
            Self::Direct => "no proxy",
            Self::Bare => "a bare splice relay",
            Self::Pullgate => "pullgate",
            Self::Other => "pullgate, the other build",
            Self::Unbatched => "pullgate, `batch-ms = 0`",
            Self::Transparent => "pullgate, transparent",
            Self::ThroughParent => "pullgate, through a parent",
            Self::BeforeGate => "pullgate, before another gate",
            Self::Verifying => "pullgate, `verify-upstream`",
            Self::ProxyTls => "pullgate, TLS to clients",
            Self::OtherProxyTls => "pullgate, TLS to clients, the other build",
            Self::HttpsParent => "pullgate, `https://` parent",
            Self::OtherHttpsParent => "pullgate, `https://` parent, the other build",
            Self::Mirror => "pullgate, mirror, `relay`",
            Self::Inspected => "pullgate, inspect",
            Self::HaproxyAuto => "HAProxy, SNI, `splice-auto`",
            Self::HaproxySplice => "HAProxy, SNI, splice forced",
            Self::HaproxyConnect => "HAProxy, 403 to CONNECT",
            Self::HaproxyTls => "HAProxy, SNI, TLS to clients",
            Self::HaproxyTlsServer => "HAProxy, TLS to the parent",
            Self::Nginx => "nginx, `ssl_preread`",
            Self::NginxReverse => "nginx, reverse proxy",
            Self::DockerRegistry => "docker-registry, pull-through, cached",
            Self::SquidPeek => "Squid, CONNECT and peek",
            Self::SquidBump => "Squid, CONNECT and bump",
            Self::Squid => "Squid, CONNECT only",
            Self::TrafficServer => "Traffic Server, CONNECT",
        }
    }

    /// Whether it is a third-party program.
    pub fn is_peer(self) -> bool {
        self.is_policed() && !self.is_pullgate()
    }

    /// Whether it is a form of pullgate.
    pub fn is_pullgate(self) -> bool {
        let forms = [
            Self::Pullgate,
            Self::Other,
            Self::Unbatched,
            Self::Transparent,
            Self::ThroughParent,
            Self::BeforeGate,
            Self::Verifying,
            Self::ProxyTls,
            Self::OtherProxyTls,
            Self::HttpsParent,
            Self::OtherHttpsParent,
            Self::Mirror,
            Self::Inspected,
        ];
        forms.contains(&self)
    }

    /// Whether it has an allow-list.
    pub fn is_policed(self) -> bool {
        !matches!(self, Self::Direct | Self::Bare)
    }

    /// Whether it differs from pullgate in nothing but the way of bulk.
    pub fn is_for_bulk(self) -> bool {
        matches!(self, Self::Unbatched | Self::ThroughParent | Self::BeforeGate)
    }

    /// Whether it adds TLS to the tunnels. Only rows of its own measure it.
    pub fn adds_tls(self) -> bool {
        let kinds = [
            Self::ProxyTls,
            Self::OtherProxyTls,
            Self::HttpsParent,
            Self::OtherHttpsParent,
            Self::HaproxyTls,
            Self::HaproxyTlsServer,
        ];
        kinds.contains(&self)
    }

    /// Whether it is another build of pullgate.
    pub fn is_other(self) -> bool {
        matches!(self, Self::Other | Self::OtherProxyTls | Self::OtherHttpsParent)
    }

    /// Whether it reads the requests inside TLS. Only rows with requests measure it.
    pub fn reads_requests(self) -> bool {
        let readers = [
            Self::Mirror,
            Self::Inspected,
            Self::NginxReverse,
            Self::DockerRegistry,
            Self::SquidBump,
        ];
        readers.contains(&self)
    }

    /// Whether it relays the hosts of its allow-list.
    pub fn carries(self) -> bool {
        self != Self::HaproxyConnect
    }

    /// The program that it needs, and its Debian package.
    pub fn needs(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::HaproxyAuto
            | Self::HaproxySplice
            | Self::HaproxyConnect
            | Self::HaproxyTls
            | Self::HaproxyTlsServer => Some(("haproxy", "haproxy")),
            Self::Nginx | Self::NginxReverse => Some(("nginx", "nginx")),
            Self::DockerRegistry => Some(("docker-registry", "docker-registry")),
            Self::SquidPeek | Self::SquidBump | Self::Squid => Some(("squid", "squid-openssl")),
            Self::TrafficServer => Some(("traffic_server", "trafficserver")),
            _ => None,
        }
    }
}
