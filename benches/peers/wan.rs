//! Measurements over long links: the rows, their tables, and what must hold.

use std::fmt::Write as _;
use std::time::Duration;

use crate::found::Found;
use crate::link::Link;
use crate::load::bulk::{Bulk, Content, Direction};
use crate::load::curl::Fetches;
use crate::load::curl::Version::{self, Http1, Http2};
use crate::load::ping::Transfers;
use crate::peer::Kind;
use crate::row::{Row, Through, Work};
use crate::sample::Figures;
use crate::table::number;

const KIB: u64 = 1 << 10;

/// The compared proxies, in the order of the tables' columns.
const COLUMNS: &[Kind] = &[
    Kind::Direct,
    Kind::Pullgate,
    Kind::Other,
    Kind::Unbatched,
    Kind::HaproxySplice,
    Kind::Nginx,
    Kind::SquidPeek,
];

const THROUGH: Through = Through::Only(COLUMNS);

/// Those before the web server.
const WEB: Through = Through::Only(&[
    Kind::Direct,
    Kind::Pullgate,
    Kind::Other,
    Kind::Unbatched,
    Kind::HaproxySplice,
]);

const fn link(delay_ms: u32, rate_mbit: u32, loss_bp: u32) -> Link {
    Link { delay_ms, rate_mbit, loss_bp }
}

/// Until windows have grown: some ten round trips, and time for the relays to adapt.
const fn warm(link: Link) -> Duration {
    Duration::from_millis(500 + 24 * link.delay_ms as u64)
}

const fn bulk(code: &'static str, link: Link, direction: Direction, tunnels: usize) -> Row {
    let time = Duration::from_millis(1_500);
    let content = Content::ReadyMade;
    let bulk = Bulk { direction, content, tunnels, pace: 0, warm: warm(link), time };
    // Losses strike at random, so their rows vary more.
    let rounds = if link.loss_bp > 0 { 7 } else { 3 };
    Row { code, work: Work::Bulk(bulk), rounds, through: THROUGH, link: Some(link) }
}

const fn down(code: &'static str, link: Link, tunnels: usize) -> Row {
    bulk(code, link, Direction::Down, tunnels)
}

const fn objects(code: &'static str, link: Link, bytes: u64) -> Row {
    let time = Duration::from_millis(1_500 + 20 * link.delay_ms as u64);
    let transfers = Transfers { bytes, pace: 0, tunnels: 1, time };
    Row { code, work: Work::Transfers(transfers), rounds: 3, through: THROUGH, link: Some(link) }
}

const fn fetches(
    code: &'static str,
    link: Link,
    version: Version,
    (object, count): (&'static str, usize),
) -> Row {
    let work = Work::Fetches(Fetches { version, object, count, beside_a_download: false });
    Row { code, work, rounds: 3, through: WEB, link: Some(link) }
}

/// Small requests beside a download in the same connection.
const fn beside(code: &'static str, link: Link, count: usize) -> Row {
    let (version, object) = (Http2, "1KiB");
    let work = Work::Fetches(Fetches { version, object, count, beside_a_download: true });
    Row { code, work, rounds: 5, through: WEB, link: Some(link) }
}

/// Delay one way in milliseconds and rate in megabits per second, then what is measured.
pub const ROWS: &[Row] = &[
    down("5ms-100-down-1", link(5, 100, 0), 1),
    down("5ms-100-down-16", link(5, 100, 0), 16),
    down("5ms-1000-down-1", link(5, 1_000, 0), 1),
    down("5ms-1000-down-4", link(5, 1_000, 0), 4),
    down("5ms-1000-down-16", link(5, 1_000, 0), 16),
    down("20ms-100-down-1", link(20, 100, 0), 1),
    down("20ms-100-down-4", link(20, 100, 0), 4),
    down("20ms-100-down-16", link(20, 100, 0), 16),
    down("20ms-1000-down-1", link(20, 1_000, 0), 1),
    down("20ms-1000-down-16", link(20, 1_000, 0), 16),
    down("80ms-100-down-1", link(80, 100, 0), 1),
    down("80ms-1000-down-1", link(80, 1_000, 0), 1),
    down("80ms-1000-down-4", link(80, 1_000, 0), 4),
    down("80ms-1000-down-16", link(80, 1_000, 0), 16),
    bulk("20ms-100-up-1", link(20, 100, 0), Direction::Up, 1),
    bulk("5ms-1000-up-1", link(5, 1_000, 0), Direction::Up, 1),
    bulk("5ms-1000-up-16", link(5, 1_000, 0), Direction::Up, 16),
    down("20ms-100-loss-0.1%", link(20, 100, 10), 1),
    down("20ms-100-loss-1%", link(20, 100, 100), 1),
    down("5ms-1000-loss-0.1%", link(5, 1_000, 10), 4),
    objects("5ms-1000-1KiB", link(5, 1_000, 0), KIB),
    objects("5ms-1000-100KiB", link(5, 1_000, 0), 100 * KIB),
    objects("5ms-1000-1MiB", link(5, 1_000, 0), 1024 * KIB),
    objects("20ms-100-1KiB", link(20, 100, 0), KIB),
    objects("20ms-100-100KiB", link(20, 100, 0), 100 * KIB),
    objects("20ms-100-1MiB", link(20, 100, 0), 1024 * KIB),
    objects("80ms-1000-1MiB", link(80, 1_000, 0), 1024 * KIB),
    fetches("5ms-1000-http1-1KiB", link(5, 1_000, 0), Http1, ("1KiB", 50)),
    fetches("5ms-1000-http1-100KiB", link(5, 1_000, 0), Http1, ("100KiB", 50)),
    fetches("5ms-1000-http1-1MiB", link(5, 1_000, 0), Http1, ("1MiB", 50)),
    fetches("5ms-1000-http2-1KiB", link(5, 1_000, 0), Http2, ("1KiB", 50)),
    fetches("5ms-1000-http2-100KiB", link(5, 1_000, 0), Http2, ("100KiB", 50)),
    fetches("5ms-1000-http2-1MiB", link(5, 1_000, 0), Http2, ("1MiB", 50)),
    fetches("20ms-100-http1-1KiB", link(20, 100, 0), Http1, ("1KiB", 30)),
    fetches("20ms-100-http1-100KiB", link(20, 100, 0), Http1, ("100KiB", 30)),
    fetches("20ms-100-http1-1MiB", link(20, 100, 0), Http1, ("1MiB", 30)),
    fetches("20ms-100-http2-1KiB", link(20, 100, 0), Http2, ("1KiB", 30)),
    fetches("20ms-100-http2-100KiB", link(20, 100, 0), Http2, ("100KiB", 30)),
    fetches("20ms-100-http2-1MiB", link(20, 100, 0), Http2, ("1MiB", 30)),
    beside("5ms-1000-http2-beside", link(5, 1_000, 0), 60),
    beside("20ms-100-http2-beside", link(20, 100, 0), 20),
];

/// A table: a line per row, a column per proxy.
struct Table {
    title: &'static str,
    of: fn(&Work) -> bool,
    figure: fn(&Figures) -> Option<f64>,
}

const fn is_bulk(work: &Work) -> bool {
    matches!(work, Work::Bulk(_))
}

const fn is_transfer(work: &Work) -> bool {
    matches!(work, Work::Transfers(_))
}

const fn is_object(work: &Work) -> bool {
    is_transfer(work) || matches!(work, Work::Fetches(fetches) if !fetches.beside_a_download)
}

const fn is_beside(work: &Work) -> bool {
    matches!(work, Work::Fetches(fetches) if fetches.beside_a_download)
}

const CPU: fn(&Figures) -> Option<f64> = Figures::cpu_a_gib;
const MBIT: fn(&Figures) -> Option<f64> = |of| of.throughput().map(|gib| gib * 8_589.934_592);
const P50: fn(&Figures) -> Option<f64> = |of| of.within(500);
const P99: fn(&Figures) -> Option<f64> = |of| of.within(990);

const TABLES: [Table; 7] = [
    Table { title: "Bulk: CPU seconds of the proxy a GiB", of: is_bulk, figure: CPU },
    Table { title: "Bulk: Mbit/s", of: is_bulk, figure: MBIT },
    Table { title: "Objects: milliseconds to the last byte, p50", of: is_object, figure: P50 },
    Table { title: "Objects: milliseconds to the last byte, p99", of: is_object, figure: P99 },
    Table { title: "Objects: CPU seconds of the proxy a GiB", of: is_transfer, figure: CPU },
    Table { title: "A request beside a download: milliseconds, p50", of: is_beside, figure: P50 },
    Table { title: "A request beside a download: milliseconds, p99", of: is_beside, figure: P99 },
];

/// What must hold between pullgate and another proxy.
struct Claim {
    what: &'static str,
    of: fn(&Work) -> bool,
    figure: fn(&Figures) -> Option<f64>,
    against: Kind,
    limit: Limit,
}

enum Limit {
    /// At least this multiple of the other's.
    Least(f64),
    /// At most this multiple of the other's, and this one with 16 tunnels at 1 Gbit/s.
    Most(f64, f64),
    /// At most this many milliseconds later.
    Later(f64),
}

const CLAIMS: [Claim; 6] = [
    Claim {
        what: "Mbit/s",
        of: is_bulk,
        figure: MBIT,
        against: Kind::HaproxySplice,
        limit: Limit::Least(0.98),
    },
    Claim {
        what: "Mbit/s",
        of: is_bulk,
        figure: MBIT,
        against: Kind::Unbatched,
        limit: Limit::Least(0.98),
    },
    Claim {
        what: "CPU-s/GiB",
        of: is_bulk,
        figure: CPU,
        against: Kind::HaproxySplice,
        limit: Limit::Most(0.25, 0.4),
    },
    Claim {
        what: "last byte, p50",
        of: is_object,
        figure: P50,
        against: Kind::HaproxySplice,
        limit: Limit::Later(3.0),
    },
    Claim {
        what: "last byte, p99",
        of: is_object,
        figure: P99,
        against: Kind::HaproxySplice,
        limit: Limit::Later(5.0),
    },
    Claim {
        what: "request beside a download, p99",
        of: is_beside,
        figure: P99,
        against: Kind::HaproxySplice,
        limit: Limit::Most(1.1, 1.1),
    },
];

/// Returns all results of a run as Markdown.
pub fn markdown(found: &Found) -> String {
    let mut out = format!("{}. Rows: delay one way, Mbit/s, what is carried.\n", found.machine);
    for table in &TABLES {
        let _ = write!(out, "\n### {}\n{}", table.title, table.markdown(found));
    }
    let _ = write!(out, "\n### What must hold over long links\n{}", claims(found));
    out
}

impl Table {
    fn markdown(&self, found: &Found) -> String {
        let kinds: Vec<Kind> =
            COLUMNS.iter().copied().filter(|kind| found.versions.contains_key(kind)).collect();
        let titles: Vec<&str> = kinds.iter().map(|kind| kind.title()).collect();
        let mut out =
            format!("| | {} |\n|{}\n", titles.join(" | "), " --- |".repeat(1 + titles.len()));
        for row in ROWS.iter().filter(|row| (self.of)(&row.work)) {
            let figure =
                |kind: &Kind| found.figures(row.code, *kind).as_ref().and_then(self.figure);
            let cells: Vec<String> =
                kinds.iter().map(|kind| figure(kind).map_or(String::new(), number)).collect();
            if cells.iter().any(|cell| !cell.is_empty()) {
                let _ = writeln!(out, "| {} | {} |", row.code, cells.join(" | "));
            }
        }
        out
    }
}

fn claims(found: &Found) -> String {
    let mut out = String::from("| row | what | pullgate | against | limit | holds |\n");
    out.push_str("| --- | --- | --- | --- | --- | --- |\n");
    for row in ROWS {
        for claim in CLAIMS.iter().filter(|claim| (claim.of)(&row.work)) {
            let of = |kind| found.figures(row.code, kind).as_ref().and_then(claim.figure);
            let (Some(own), Some(other)) = (of(Kind::Pullgate), of(claim.against)) else {
                continue;
            };
            let (ratio, later) = (own / other, own - other);
            let (limit, holds) = match claim.limit {
                Limit::Least(least) => (format!("{ratio:.3}, at least {least}"), ratio >= least),
                Limit::Most(most, crowded) => {
                    let most = if row.is_crowded() { crowded } else { most };
                    (format!("{ratio:.2}, at most {most}"), ratio <= most)
                }
                Limit::Later(most) => {
                    (format!("{later:.1} ms later, at most {most}"), later <= most)
                }
            };
            let holds = if holds { "yes" } else { "**no**" };
            let (own, other) = (number(own), number(other));
            let (code, what, against) = (row.code, claim.what, claim.against.title());
            let _ = writeln!(
                out,
                "| {code} | {what} | {own} | {against}: {other} | {limit} | {holds} |"
            );
        }
    }
    out
}

impl Row {
    /// Whether many tunnels share a fast link.
    fn is_crowded(&self) -> bool {
        let fast = self.link.is_some_and(|link| link.rate_mbit >= 1_000);
        fast && matches!(self.work, Work::Bulk(bulk) if bulk.tunnels >= 16)
    }
}
