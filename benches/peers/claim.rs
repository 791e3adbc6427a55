//! The performance targets of pullgate, and whether a run meets them.

use std::fmt::Write as _;

use crate::found::Found;
use crate::peer::Kind;
use crate::sample::Figures;
use crate::table::number;

/// A figure of pullgate compared with that of another proxy.
struct Claim {
    of: Kind,
    what: &'static str,
    row: &'static str,
    figure: fn(&Figures) -> Option<f64>,
    against: Against,
}

enum Against {
    /// At most this multiple of the other's.
    Most(f64, Kind),
    /// At least this multiple of the other's.
    Least(f64, Kind),
    /// At most this value.
    Absolute(f64),
    /// At most this much more than the other's.
    Later(f64, Kind),
}

use Against::{Absolute, Later, Least, Most};
use Kind::{
    Bare, Direct, HaproxyAuto, HaproxyConnect, HaproxySplice, HaproxyTls, HaproxyTlsServer,
    HttpsParent, ProxyTls, SquidPeek, TrafficServer, Unbatched,
};

const fn claim(
    what: &'static str,
    row: &'static str,
    figure: fn(&Figures) -> Option<f64>,
    against: Against,
) -> Claim {
    Claim { of: Kind::Pullgate, what, row, figure, against }
}

/// Targets of the transparent listener, whose client sends the same bytes as HAProxy's.
const fn transparent(what: &'static str, row: &'static str, against: Against) -> Claim {
    Claim { of: Kind::Transparent, what, row, figure: Figures::cpu_a_thousand, against }
}

/// Targets of the mirror: it costs no more than a reverse proxy that reads nothing.
const fn mirror(
    what: &'static str,
    row: &'static str,
    figure: fn(&Figures) -> Option<f64>,
) -> Claim {
    Claim { of: Kind::Mirror, what, row, figure, against: Most(1.0, Kind::NginxReverse) }
}

/// Targets of the gate that inspects the login server.
const fn inspected(
    what: &'static str,
    row: &'static str,
    figure: fn(&Figures) -> Option<f64>,
    against: Against,
) -> Claim {
    Claim { of: Kind::Inspected, what, row, figure, against }
}

/// Targets of the gate behind a parent: its cost is that of a gate that connects directly to an
/// origin behind as many programs, which share the processors.
const fn behind(what: &'static str, row: &'static str) -> Claim {
    let against = Most(1.05, Kind::BeforeGate);
    Claim { of: Kind::ThroughParent, what, row, figure: Figures::cpu_a_gib, against }
}

/// Targets of the gate where it adds TLS: it costs no more than HAProxy that does the same.
const fn adds_tls(what: &'static str, row: &'static str, of: Kind, peer: Kind) -> Claim {
    Claim { of, what, row, figure: Figures::cpu_a_gib, against: Most(1.0, peer) }
}

const CPU: fn(&Figures) -> Option<f64> = Figures::cpu_a_gib;
const P99: fn(&Figures) -> Option<f64> = |of| of.within(990);

const CLAIMS: &[Claim] = &[
    claim("download, 1 tunnel, CPU-s/GiB", "down-1", CPU, Most(1.15, HaproxySplice)),
    claim("download, 1 tunnel, CPU-s/GiB", "down-1", CPU, Most(0.3, SquidPeek)),
    claim("download, 1 tunnel, CPU-s/GiB", "down-1", CPU, Most(1.2, Bare)),
    claim("download, 16 tunnels, CPU-s/GiB", "down-16", CPU, Most(1.15, HaproxySplice)),
    claim("download, 16 tunnels, CPU-s/GiB", "down-16", CPU, Most(0.3, SquidPeek)),
    claim("download, 16 tunnels, CPU-s/GiB", "down-16", CPU, Most(1.2, Bare)),
    claim("download, 64 tunnels, CPU-s/GiB", "down-64", CPU, Most(1.15, HaproxySplice)),
    claim("download, 64 tunnels, CPU-s/GiB", "down-64", CPU, Most(0.3, SquidPeek)),
    claim("download, 64 tunnels, CPU-s/GiB", "down-64", CPU, Most(1.2, Bare)),
    claim("upload, 1 tunnel, CPU-s/GiB", "up-1", CPU, Most(1.15, HaproxySplice)),
    claim("upload, 1 tunnel, CPU-s/GiB", "up-1", CPU, Most(0.3, SquidPeek)),
    claim("upload, 1 tunnel, CPU-s/GiB", "up-1", CPU, Most(1.2, Bare)),
    claim("upload, 16 tunnels, CPU-s/GiB", "up-16", CPU, Most(1.15, HaproxySplice)),
    claim("upload, 16 tunnels, CPU-s/GiB", "up-16", CPU, Most(0.3, SquidPeek)),
    claim("upload, 16 tunnels, CPU-s/GiB", "up-16", CPU, Most(1.2, Bare)),
    claim("upload, 64 tunnels, CPU-s/GiB", "up-64", CPU, Most(1.15, HaproxySplice)),
    claim("upload, 64 tunnels, CPU-s/GiB", "up-64", CPU, Most(0.3, SquidPeek)),
    claim("upload, 64 tunnels, CPU-s/GiB", "up-64", CPU, Most(1.2, Bare)),
    claim("16 tunnels at 8 MiB/s, CPU-s/GiB", "paced-8", CPU, Most(0.3, HaproxyAuto)),
    claim("16 tunnels at 8 MiB/s, CPU-s/GiB", "paced-8", CPU, Most(0.3, HaproxySplice)),
    claim("16 tunnels at 64 MiB/s, CPU-s/GiB", "paced-64", CPU, Most(0.6, HaproxySplice)),
    claim("TLS 1.2 upload, 16 tunnels, CPU-s/GiB", "tls12-up-16", CPU, Most(1.5, HaproxySplice)),
    claim("download, 1 tunnel, GiB/s", "down-1", Figures::throughput, Least(0.97, Unbatched)),
    claim("download, 16 tunnels, GiB/s", "down-16", Figures::throughput, Least(0.97, Unbatched)),
    claim("download, 64 tunnels, GiB/s", "down-64", Figures::throughput, Least(0.97, Unbatched)),
    claim("upload, 16 tunnels, GiB/s", "up-16", Figures::throughput, Least(0.97, Unbatched)),
    behind("through a parent, download, 1 tunnel, CPU-s/GiB", "down-1"),
    behind("through a parent, download, 16 tunnels, CPU-s/GiB", "down-16"),
    behind("through a parent, 16 tunnels at 64 MiB/s, CPU-s/GiB", "paced-64"),
    adds_tls(
        "TLS to clients, download, 1 tunnel, CPU-s/GiB",
        "proxy-tls-down-1",
        ProxyTls,
        HaproxyTls,
    ),
    adds_tls(
        "TLS to clients, download, 16 tunnels, CPU-s/GiB",
        "proxy-tls-down-16",
        ProxyTls,
        HaproxyTls,
    ),
    adds_tls("TLS to clients, upload, 1 tunnel, CPU-s/GiB", "proxy-tls-up-1", ProxyTls, HaproxyTls),
    adds_tls(
        "TLS to clients, 16 tunnels at 8 MiB/s, CPU-s/GiB",
        "proxy-tls-paced-8",
        ProxyTls,
        HaproxyTls,
    ),
    adds_tls(
        "`https://` parent, download, 1 tunnel, CPU-s/GiB",
        "https-parent-down-1",
        HttpsParent,
        HaproxyTlsServer,
    ),
    adds_tls(
        "`https://` parent, upload, 1 tunnel, CPU-s/GiB",
        "https-parent-up-1",
        HttpsParent,
        HaproxyTlsServer,
    ),
    claim("last byte of a transfer, p99, ms", "last-byte", P99, Later(10.0, Direct)),
    claim("exchange on a fresh tunnel, p99, ms", "ping", P99, Most(1.2, HaproxyAuto)),
    claim("exchange on a fresh tunnel, p99, ms", "ping", P99, Most(1.2, HaproxySplice)),
    claim("exchange just after bulk, p99, ms", "ping-bulk", P99, Most(1.2, HaproxyAuto)),
    claim("exchange just after bulk, p99, ms", "ping-bulk", P99, Most(1.2, HaproxySplice)),
    claim("1,000 set-ups, CPU-s", "set-ups", Figures::cpu_a_thousand, Most(0.5, SquidPeek)),
    claim("1,000 set-ups, CPU-s", "set-ups", Figures::cpu_a_thousand, Most(0.85, TrafficServer)),
    Claim {
        of: Kind::Verifying,
        what: "1,000 set-ups with `verify-upstream`, CPU-s",
        row: "set-ups",
        figure: Figures::cpu_a_thousand,
        against: Most(1.02, Kind::Pullgate),
    },
    claim("set-up, p99, ms", "set-ups", P99, Most(0.5, SquidPeek)),
    transparent("1,000 transparent set-ups, CPU-s", "set-ups", Most(1.1, HaproxyAuto)),
    transparent("1,000 transparent set-ups, CPU-s", "set-ups", Most(1.1, HaproxySplice)),
    claim("1,000 denials, CPU-s", "denials", Figures::cpu_a_thousand, Most(1.2, HaproxyConnect)),
    mirror("mirror, layers, 4 clients, CPU-s/GiB", "layers-4", CPU),
    mirror("mirror, 1,000 requests of 2 KB, CPU-s", "requests", Figures::cpu_a_thousand),
    inspected(
        "1,000 inspected set-ups with a request of 2 KB, CPU-s",
        "inspected-set-ups",
        Figures::cpu_a_thousand,
        Most(0.5, Kind::SquidBump),
    ),
    inspected(
        "1,000 inspected requests of 2 KB, CPU-s",
        "inspected-requests",
        Figures::cpu_a_thousand,
        Most(0.5, Kind::SquidBump),
    ),
    inspected(
        "a pull with the login server inspected, ms",
        "inspected-pull",
        |of| of.within(500),
        Most(1.03, Kind::Pullgate),
    ),
    claim("an idle tunnel, KiB", "idle", Figures::memory_each, Absolute(4.0)),
    claim("all tunnels idle, thousandths of a core", "idle", Figures::busy, Absolute(1.0)),
];

/// Returns a Markdown table. Targets without a result of the other proxy are left out.
pub fn markdown(found: &Found) -> String {
    let mut out = String::from("| what | pullgate | against | limit | holds |\n");
    out.push_str("| --- | --- | --- | --- | --- |\n");
    for claim in CLAIMS {
        let of = |kind| found.figures(claim.row, kind).as_ref().and_then(claim.figure);
        let Some(own) = of(claim.of) else { continue };
        let (other, limit, holds) = match claim.against {
            Absolute(most) => (String::new(), format!("at most {most}"), own <= most),
            Most(most, kind) => {
                let Some(other) = of(kind) else { continue };
                let ratio = own / other;
                let limit = format!("{ratio:.2}, at most {most}");
                (format!("{}: {}", kind.title(), number(other)), limit, ratio <= most)
            }
            Least(least, kind) => {
                let Some(other) = of(kind) else { continue };
                let ratio = own / other;
                let limit = format!("{ratio:.3}, at least {least}");
                (format!("{}: {}", kind.title(), number(other)), limit, ratio >= least)
            }
            Later(most, kind) => {
                // The other's median: its normal value.
                let other = found.figures(claim.row, kind).and_then(|of| of.within(500));
                let Some(other) = other else { continue };
                let later = own - other;
                let limit = format!("{later:.1} later, at most {most}");
                (format!("{}, p50: {}", kind.title(), number(other)), limit, later <= most)
            }
        };
        let holds = if holds { "yes" } else { "**no**" };
        let _ = writeln!(out, "| {} | {} | {other} | {limit} | {holds} |", claim.what, number(own));
    }
    out
}
