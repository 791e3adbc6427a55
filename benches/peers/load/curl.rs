//! Real TLS over HTTP/1.1 and HTTP/2: Debian's curl fetches objects from nginx, each run over one
//! connection.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::bench::Bench;
use crate::peer::{Ask, Peer};
use crate::process::program;
use crate::sample::{Meter, Sample};
use crate::web::{DOWNLOAD, OBJECTS};
use crate::wire::LOGIN;

/// Timeout for a single transfer, in seconds, so that a proxy that hangs does not block the run.
const PATIENCE: &str = "60";

/// The version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http1,
    Http2,
}

/// What curl fetches.
#[derive(Debug, Clone, Copy)]
pub struct Fetches {
    pub version: Version,
    /// The name of the object: see [`OBJECTS`].
    pub object: &'static str,
    pub count: usize,
    /// Whether a download runs beside them, in the same connection. Requires HTTP/2.
    pub beside_a_download: bool,
}

/// Checks that an object arrives through the proxy.
pub fn works(bench: &Bench, peer: &Peer) -> anyhow::Result<()> {
    let (version, object) = (Version::Http2, "1KiB");
    run(bench, peer, &Fetches { version, object, count: 1, beside_a_download: false }).map(|_| ())
}

/// Fetches the object again and again. The latency is from the request to the last byte. The first
/// fetch, which opens the connection, does not count.
pub fn run(bench: &Bench, peer: &Peer, fetches: &Fetches) -> anyhow::Result<Sample> {
    let meter = Meter::start(bench, peer);
    let mut child = command(bench, peer, fetches)?.spawn().context("curl")?;
    let output = child.stderr.take().context("no output")?;
    let mut latencies = Vec::with_capacity(fetches.count);
    let mut said = String::new();
    // The position of the object among the URLs.
    let fetched = if fetches.beside_a_download { "1" } else { "0" };
    for line in BufReader::new(output).lines() {
        let line = line?;
        match line.split_once(' ').map(|(url, seconds)| (url, seconds.parse::<f64>())) {
            Some((url, Ok(seconds))) if url == fetched => latencies.push((seconds * 1e9) as u64),
            Some((_, Ok(_))) => said.push_str("the download has ended"),
            _ => said.push_str(&line),
        }
        if latencies.len() > fetches.count || !said.is_empty() {
            break;
        }
    }
    // The download would go on.
    child.kill()?;
    child.wait()?;
    if latencies.len() <= fetches.count {
        bail!("curl ended after {} fetches: {said}", latencies.len());
    }
    let size =
        OBJECTS.iter().find(|(name, _)| *name == fetches.object).map_or(0, |(_, size)| *size);
    let (bytes, count) = (size * latencies.len() as u64, fetches.count as u64);
    latencies.remove(0);
    Ok(Sample { bytes, count, latencies, ..meter.stop() })
}

/// A curl that writes a line for each transfer when it ends: the position of its URL, and the seconds.
fn command(bench: &Bench, peer: &Peer, fetches: &Fetches) -> anyhow::Result<Command> {
    let web = bench.web.as_ref().context("there is no web server")?;
    let mut command = Command::new(program("curl").unwrap_or_default());
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.args(["-q", "--silent", "--show-error", "--no-progress-meter"]);
    command.args(["--fail", "--max-time", PATIENCE]);
    command.arg("--cacert").arg(&web.file);
    command.arg(match fetches.version {
        Version::Http1 => "--http1.1",
        Version::Http2 => "--http2",
    });
    let address = peer.route.address;
    match peer.route.ask {
        Ask::Nothing => command.args(["--connect-to", &format!("::{address}")]),
        Ask::Connect(_) => command.args(["--proxy", &format!("http://{address}")]),
    };
    if fetches.beside_a_download {
        // The download takes one of two places, the fetches the other, one after another.
        command.args(["--parallel", "--parallel-max", "2"]);
        let url = format!("https://{LOGIN}/{DOWNLOAD}");
        command.args(["--output", "/dev/null", &url]);
    }
    let (object, last) = (fetches.object, fetches.count + 1);
    let urls = format!("https://{LOGIN}/{object}?[1-{last}]");
    command.args(["--output", "/dev/null", &urls]);
    // Standard error is not buffered.
    command.args(["--write-out", "%{stderr}%{urlnum} %{time_total}\n"]);
    Ok(command)
}
