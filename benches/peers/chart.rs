//! The chart: a panel per column of the summary, a bar per proxy. It writes SVG directly, because a
//! few rectangles need no library.

use std::fmt::Write as _;

use crate::found::Found;
use crate::peer::Kind;
use crate::table::{Column, SUMMARY, number};

/// Dimensions of the panels, in pixels.
const WIDTH: usize = 400;
const LABEL: usize = 170;
const BAR: usize = 150;
const LINE: usize = 18;
const HEAD: usize = 34;
const GAP: usize = 16;
const COLUMNS: usize = 2;

/// The proxies that the chart shows.
const SHOWN: &[Kind] = &[
    Kind::Pullgate,
    Kind::HaproxySplice,
    Kind::HaproxyAuto,
    Kind::Nginx,
    Kind::SquidPeek,
    Kind::TrafficServer,
];

pub fn svg(found: &Found) -> String {
    let shown: Vec<Kind> =
        SHOWN.iter().copied().filter(|kind| found.versions.contains_key(kind)).collect();
    let panels = SUMMARY.columns;
    let height = HEAD + shown.len() * LINE + GAP;
    let rows = panels.len().div_ceil(COLUMNS);
    let (wide, high) = (COLUMNS * WIDTH, rows * height + GAP);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {wide} {high}\" width=\"{wide}\" \
         height=\"{high}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{wide}\" height=\"{high}\" fill=\"#ffffff\"/>\n"
    );
    for (index, column) in panels.iter().enumerate() {
        let (x, y) = (index % COLUMNS * WIDTH, index / COLUMNS * height + GAP);
        panel(&mut out, (x, y), column, found, &shown);
    }
    out.push_str("</svg>\n");
    out
}

fn panel(out: &mut String, (x, y): (usize, usize), column: &Column, found: &Found, shown: &[Kind]) {
    let most = shown.iter().filter_map(|kind| column.of(found, *kind)).fold(0.0, f64::max);
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"{}\" font-weight=\"bold\" fill=\"#222222\">{}</text>",
        x + GAP,
        y + 16,
        column.title
    );
    for (line, kind) in shown.iter().enumerate() {
        let Some(figure) = column.of(found, *kind) else { continue };
        let top = y + HEAD - 6 + line * LINE;
        let (colour, weight) =
            if *kind == Kind::Pullgate { ("#1261a6", "bold") } else { ("#b4bcc4", "normal") };
        let length = if most > 0.0 { (figure / most * BAR as f64).max(1.0) } else { 1.0 };
        let title = kind.title().replace('`', "");
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" font-weight=\"{weight}\" \
             fill=\"#222222\">{title}</text>\
             <rect x=\"{}\" y=\"{}\" width=\"{length:.1}\" height=\"{}\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{}\" fill=\"#222222\">{}</text>",
            x + LABEL,
            top + 12,
            x + LABEL + 8,
            top + 2,
            LINE - 5,
            (x + LABEL + 14) as f64 + length,
            top + 12,
            number(figure)
        );
    }
}
