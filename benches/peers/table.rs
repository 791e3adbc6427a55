//! The tables: a row per proxy, a column per figure, and each figure's ratio to the best peer.

use std::fmt::Write as _;

use clap::ValueEnum as _;

use crate::found::Found;
use crate::peer::Kind;
use crate::sample::Figures;

/// A column: a figure of a row.
#[derive(Clone, Copy)]
pub struct Column {
    pub title: &'static str,
    pub row: &'static str,
    pub figure: fn(&Figures) -> Option<f64>,
    pub better: Better,
}

/// Whether a lower or a higher figure is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Less,
    More,
}

/// A table.
pub struct Table {
    pub title: &'static str,
    pub columns: &'static [Column],
}

const fn less(
    title: &'static str,
    row: &'static str,
    figure: fn(&Figures) -> Option<f64>,
) -> Column {
    Column { title, row, figure, better: Better::Less }
}

const fn more(
    title: &'static str,
    row: &'static str,
    figure: fn(&Figures) -> Option<f64>,
) -> Column {
    Column { title, row, figure, better: Better::More }
}

/// The titles and rows of the bulk measurements.
const BULK: [(&str, &str); 11] = [
    ("down 1", "down-1"),
    ("down 16", "down-16"),
    ("down 64", "down-64"),
    ("up 1", "up-1"),
    ("up 16", "up-16"),
    ("up 64", "up-64"),
    ("16 at 8 MiB/s", "paced-8"),
    ("16 at 64 MiB/s", "paced-64"),
    ("TLS 1.2 up 16", "tls12-up-16"),
    ("the same in bytes, up 1", "tls12-up-bytes"),
    ("real TLS down 4", "real-tls-4"),
];

/// A column for each of them.
const fn of_bulk(figure: fn(&Figures) -> Option<f64>, better: Better) -> [Column; BULK.len()] {
    let mut columns = [Column { title: "", row: "", figure, better }; BULK.len()];
    let mut at = 0;
    while at < BULK.len() {
        (columns[at].title, columns[at].row) = BULK[at];
        at += 1;
    }
    columns
}

/// The summary for the README.
pub const SUMMARY: Table = Table {
    title: "What a tunnel costs",
    columns: &[
        less("download, CPU-s/GiB", "down-16", Figures::cpu_a_gib),
        less("upload, CPU-s/GiB", "up-16", Figures::cpu_a_gib),
        less("at 8 MiB/s each, CPU-s/GiB", "paced-8", Figures::cpu_a_gib),
        less("at 64 MiB/s each, CPU-s/GiB", "paced-64", Figures::cpu_a_gib),
        less("1,000 set-ups, CPU-s", "set-ups", Figures::cpu_a_thousand),
        less("1,000 denials, CPU-s", "denials", Figures::cpu_a_thousand),
        less("idle tunnel, KiB", "idle", Figures::memory_each),
    ],
};

/// All figures.
pub const TABLES: &[Table] = &[
    Table {
        title: "CPU seconds of the proxy a GiB",
        columns: &of_bulk(Figures::cpu_a_gib, Better::Less),
    },
    Table {
        title: "CPU seconds of the whole machine a GiB, client and origin included",
        columns: &of_bulk(Figures::machine_a_gib, Better::Less),
    },
    Table { title: "GiB a second", columns: &of_bulk(Figures::throughput, Better::More) },
    Table {
        title: "Where TLS is added: between client and proxy, and between proxy and parent",
        columns: &[
            less("clients, down 1, CPU-s/GiB", "proxy-tls-down-1", Figures::cpu_a_gib),
            more("GiB a second", "proxy-tls-down-1", Figures::throughput),
            less("down 16, CPU-s/GiB", "proxy-tls-down-16", Figures::cpu_a_gib),
            more("GiB a second", "proxy-tls-down-16", Figures::throughput),
            less("up 1, CPU-s/GiB", "proxy-tls-up-1", Figures::cpu_a_gib),
            more("GiB a second", "proxy-tls-up-1", Figures::throughput),
            less("down 16 at 8 MiB/s, CPU-s/GiB", "proxy-tls-paced-8", Figures::cpu_a_gib),
            less("parent, down 1, CPU-s/GiB", "https-parent-down-1", Figures::cpu_a_gib),
            more("GiB a second", "https-parent-down-1", Figures::throughput),
            less("up 1, CPU-s/GiB", "https-parent-up-1", Figures::cpu_a_gib),
            more("GiB a second", "https-parent-up-1", Figures::throughput),
        ],
    },
    Table {
        title: "Set-ups and denials, 32 clients at once",
        columns: &[
            less("1,000 set-ups, CPU-s", "set-ups", Figures::cpu_a_thousand),
            less("of the machine", "set-ups", Figures::machine_a_thousand),
            more("a second", "set-ups", Figures::rate),
            less("p50, ms", "set-ups", |of| of.within(500)),
            less("p99, ms", "set-ups", |of| of.within(990)),
            less("p99.9, ms", "set-ups", |of| of.within(999)),
            less("1,000 denials, CPU-s", "denials", Figures::cpu_a_thousand),
            less("of the machine", "denials", Figures::machine_a_thousand),
            more("a second", "denials", Figures::rate),
            less("p99, ms", "denials", |of| of.within(990)),
        ],
    },
    Table {
        title: "Exchanges of 256 bytes for 1,000 within a tunnel, milliseconds",
        columns: &[
            less("fresh: p50", "ping", |of| of.within(500)),
            less("p99", "ping", |of| of.within(990)),
            less("p99.9", "ping", |of| of.within(999)),
            less("just bulk: p50", "ping-bulk", |of| of.within(500)),
            less("p99", "ping-bulk", |of| of.within(990)),
            less("p99.9", "ping-bulk", |of| of.within(999)),
            less("in a crowd: p50", "crowd", |of| of.within(500)),
            less("p99", "crowd", |of| of.within(990)),
        ],
    },
    Table {
        title: "A mirror with TLS on both sides: layers of 64 MiB to 4 clients, manifests to 32",
        columns: &[
            less("layers, CPU-s/GiB", "layers-4", Figures::cpu_a_gib),
            less("of the machine", "layers-4", Figures::machine_a_gib),
            more("GiB a second", "layers-4", Figures::throughput),
            less("1,000 requests, CPU-s", "requests", Figures::cpu_a_thousand),
            less("of the machine", "requests", Figures::machine_a_thousand),
            more("a second", "requests", Figures::rate),
            less("p50, ms", "requests", |of| of.within(500)),
            less("p99, ms", "requests", |of| of.within(990)),
        ],
    },
    Table {
        title: "An inspected login server: 32 clients at once; a pull of 10 layers of 64 MiB",
        columns: &[
            less(
                "1,000 set-ups with a request, CPU-s",
                "inspected-set-ups",
                Figures::cpu_a_thousand,
            ),
            less("of the machine", "inspected-set-ups", Figures::machine_a_thousand),
            less("p50, ms", "inspected-set-ups", |of| of.within(500)),
            less("p99, ms", "inspected-set-ups", |of| of.within(990)),
            less("1,000 requests, CPU-s", "inspected-requests", Figures::cpu_a_thousand),
            less("p99, ms", "inspected-requests", |of| of.within(990)),
            less("a pull, ms", "inspected-pull", |of| of.within(500)),
            less("CPU-s/GiB", "inspected-pull", Figures::cpu_a_gib),
        ],
    },
    Table {
        title: "Idle tunnels, and transfers of 1 MiB at 8 MiB/s",
        columns: &[
            less("PSS each, KiB", "idle", Figures::memory_each),
            less("of the kernel, both ends included", "idle", Figures::kernel_each),
            less("thousandths of a core, all idle", "idle", Figures::busy),
            less("transfer: p50, ms", "last-byte", |of| of.within(500)),
            less("p99, ms", "last-byte", |of| of.within(990)),
        ],
    },
];

impl Table {
    /// Formats the table as Markdown.
    pub fn markdown(&self, found: &Found) -> String {
        let columns: Vec<&Column> =
            self.columns.iter().filter(|column| found.samples.contains_key(column.row)).collect();
        if columns.is_empty() {
            return String::new();
        }
        let titles: Vec<&str> = columns.iter().map(|column| column.title).collect();
        let mut out =
            format!("| | {} |\n|{}\n", titles.join(" | "), " --- |".repeat(1 + titles.len()));
        for kind in
            Kind::value_variants().iter().copied().filter(|kind| found.versions.contains_key(kind))
        {
            let cells: Vec<String> =
                columns.iter().map(|column| column.cell(found, kind)).collect();
            if cells.iter().any(|cell| !cell.is_empty()) {
                let title = match (kind, kind.title()) {
                    (Kind::Pullgate, title) => format!("**{title}**"),
                    (_, title) => title.to_owned(),
                };
                let _ = writeln!(out, "| {title} | {} |", cells.join(" | "));
            }
        }
        out
    }
}

impl Column {
    /// The figure of one proxy.
    pub fn of(&self, found: &Found, kind: Kind) -> Option<f64> {
        found.figures(self.row, kind).as_ref().and_then(self.figure)
    }

    /// The best figure of the peers.
    pub fn best(&self, found: &Found) -> Option<f64> {
        let peers = Kind::value_variants().iter().copied().filter(|kind| kind.is_peer());
        let figures = peers.filter_map(|kind| self.of(found, kind));
        match self.better {
            Better::Less => figures.min_by(f64::total_cmp),
            Better::More => figures.max_by(f64::total_cmp),
        }
    }

    fn cell(&self, found: &Found, kind: Kind) -> String {
        let Some(figure) = self.of(found, kind) else { return String::new() };
        let ratio = self.best(found).filter(|best| *best > 0.0).map(|best| figure / best);
        let ratio = ratio.map(|ratio| format!(" ({ratio:.2})")).unwrap_or_default();
        format!("{}{ratio}", number(figure))
    }
}

/// Formats a number with three significant digits.
pub fn number(figure: f64) -> String {
    match figure.abs() {
        size if size >= 99.95 => format!("{figure:.0}"),
        size if size >= 9.995 => format!("{figure:.1}"),
        size if size >= 0.095 || size == 0.0 => format!("{figure:.2}"),
        _ => format!("{figure:.3}"),
    }
}
