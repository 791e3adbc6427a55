//! `pullgate doctor`: tests whether this machine can reach anything without the gate.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Serialize;

use super::health::admin_address;
use super::output;
use crate::config::AdminAddress;
use crate::dial;
use crate::policy::{Name, Target, parse_host};
use crate::tools::doctor::{self, DoctorPlan, NoProxy, Proxy, TestedWay, Verdict};

/// The port of DNS, and of the metadata services.
const DNS: u16 = 53;
const HTTP: u16 = 80;

/// Test whether this machine can reach anything without the gate, and print the rules that prevent it.
///
/// Run it on a client, as an ordinary user. Name hosts of the policy with --allowed: without them
/// nothing shows that the network works.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Hosts of the policy that must work.
    #[arg(long, value_name = "HOST[:PORT]", value_delimiter = ',', value_parser = target)]
    allowed: Vec<Target>,
    /// Mirrors that must work: the hosts and ports by which clients know the gate.
    #[arg(long, value_name = "HOST[:PORT]", value_delimiter = ',', value_parser = target)]
    mirror: Vec<Target>,
    /// Registries of the mirrors, which must not be reached past them.
    #[arg(long, value_name = "HOST[:PORT]", value_delimiter = ',', value_parser = target)]
    registry: Vec<Target>,
    /// The proxy that clients use. Default: HTTPS_PROXY of the environment, or none.
    #[arg(long, value_name = "URL")]
    proxy: Option<Proxy>,
    /// External addresses that answer on ports 443, 80, 53 and 853.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',',
          default_values = ["1.1.1.1", "2606:4700:4700::1111"])]
    outside: Vec<IpAddr>,
    /// TCP ports of the external addresses to test, besides 443 and 53.
    #[arg(long, value_name = "PORT", value_delimiter = ',', default_values = ["22", "80", "853"])]
    ports: Vec<u16>,
    /// Further addresses that must be closed for TCP, such as the gateway's port 22.
    #[arg(long, value_name = "ADDRESS:PORT", value_delimiter = ',')]
    closed: Vec<SocketAddr>,
    /// DNS servers that must refuse, besides the system's and the external ones. Name those of a gate on this
    /// machine: they are also asked from every source port.
    #[arg(long, value_name = "ADDRESS[:PORT]", value_delimiter = ',', value_parser = server)]
    resolver: Vec<SocketAddr>,
    /// Cloud metadata services.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',',
          default_values = ["169.254.169.254", "168.63.129.16", "fd00:ec2::254"])]
    metadata: Vec<IpAddr>,
    /// A host that is in no policy.
    #[arg(long, value_name = "HOST", default_value = "pullgate-doctor.example.com",
          value_parser = Name::parse)]
    stranger: Name,
    /// A storage account.
    #[arg(long, value_name = "HOST", value_parser = Name::parse,
          default_value = doctor::STORAGE)]
    storage: Name,
    /// A DNS-over-HTTPS server.
    #[arg(long, value_name = "HOST", default_value = "pullgate-doctor.cloudflare-dns.com",
          value_parser = Name::parse)]
    doh: Name,
    /// Certificates (PEM) that clients trust for hosts of the policy, beside the system's: the
    /// authority of a gate that inspects them.
    #[arg(long, value_name = "FILE")]
    authority: Option<PathBuf>,
    /// The admin listener of the gate on this machine: an address and port, or unix:PATH. It shows the
    /// route of each --allowed host, and why a parent proxy opens no tunnel.
    #[arg(long, value_name = "ADDRESS", value_parser = admin_address)]
    admin: Option<AdminAddress>,
    /// Timeout of each test. All tests run at once.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 3000,
          value_parser = clap::value_parser!(u64).range(1..=60_000))]
    timeout_ms: u64,
    /// One JSON object, for scripts.
    #[arg(long)]
    json: bool,
}

fn target(text: &str) -> Result<Target, String> {
    parse_host(text).map_err(|fault| fault.to_string())
}

fn server(text: &str) -> Result<SocketAddr, std::net::AddrParseError> {
    text.parse().or_else(|_| text.parse().map(|ip: IpAddr| SocketAddr::new(ip, DNS)))
}

/// The output of `--json`.
#[derive(Debug, Serialize)]
struct DoctorReport<'a> {
    well: bool,
    ways: Vec<TestReport<'a>>,
}

#[derive(Debug, Serialize)]
struct TestReport<'a> {
    way: &'a str,
    verdict: &'static str,
    seen: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<&'a str>,
}

impl<'a> From<&'a TestedWay> for TestReport<'a> {
    fn from(finding: &'a TestedWay) -> Self {
        let TestedWay { way, verdict, seen, remedy } = finding;
        Self { way, verdict: verdict.word(), seen, remedy: remedy.as_deref() }
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let plan = plan(args)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let findings = runtime.block_on(doctor::examine(&plan));
    // Does not wait for DNS queries of the system resolver, which may hang.
    runtime.shutdown_background();
    let well = findings.iter().all(|finding| finding.verdict.is_well());
    if args.json {
        let report = DoctorReport { well, ways: findings.iter().map(TestReport::from).collect() };
        output::print_json(&report)?;
    } else {
        output::print(&text(&findings, &plan)?)?;
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn plan(args: &Args) -> anyhow::Result<DoctorPlan> {
    let system_resolvers = dial::system_servers();
    let outside = args.outside.iter().map(|ip| SocketAddr::new(*ip, DNS));
    let mut resolvers: Vec<SocketAddr> = outside.chain(args.resolver.iter().copied()).collect();
    resolvers.retain(|server| !system_resolvers.contains(server));
    let gate_resolvers = args.resolver.iter().filter(|server| !server.ip().is_loopback()).copied();
    Ok(DoctorPlan {
        outside: args.outside.clone(),
        ports: args.ports.clone(),
        closed: args.closed.clone(),
        system_resolvers,
        resolvers,
        gate_resolvers: gate_resolvers.collect(),
        metadata: args.metadata.iter().map(|ip| SocketAddr::new(*ip, HTTP)).collect(),
        stranger: args.stranger.clone(),
        storage: args.storage.clone(),
        doh: args.doh.clone(),
        allowed: args.allowed.clone(),
        mirrors: args.mirror.clone(),
        registries: args.registry.clone(),
        proxy: match &args.proxy {
            Some(proxy) => Some(proxy.clone()),
            None => proxy_of_environment()?,
        },
        no_proxy: variable(&["no_proxy", "NO_PROXY"]).unwrap_or_default(),
        only_http_proxy: args.proxy.is_none()
            && variable(&["http_proxy", "HTTP_PROXY"]).is_some()
            && variable(&HTTPS_PROXY).is_none(),
        authorities: match &args.authority {
            Some(path) => authorities(path)?,
            None => Vec::new(),
        },
        admin: args.admin.clone(),
        patience: Duration::from_millis(args.timeout_ms),
    })
}

fn authorities(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    all.with_context(|| format!("{}: it is no PEM file of certificates", path.display()))
}

const HTTPS_PROXY: [&str; 2] = ["https_proxy", "HTTPS_PROXY"];

/// Returns the first of these variables that is set and not empty.
fn variable(names: &[&str]) -> Option<String> {
    let mut found = names.iter().filter_map(|name| std::env::var(name).ok());
    found.find(|value| !value.is_empty())
}

/// Returns the proxy of the environment; `None` if it is not set.
fn proxy_of_environment() -> anyhow::Result<Option<Proxy>> {
    match variable(&HTTPS_PROXY) {
        // The value may hold a password: it is not quoted.
        Some(value) => value
            .parse()
            .map(Some)
            .map_err(|error: NoProxy| anyhow::anyhow!("HTTPS_PROXY: {error}")),
        None => Ok(None),
    }
}

/// Returns the findings as text.
fn text(findings: &[TestedWay], plan: &DoctorPlan) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    for finding in findings {
        writeln!(out, "{finding}")?;
    }
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    writeln!(
        out,
        "{} closed, {} open, {} unsure; {} expected connections work, {} fail",
        count(Verdict::Closed),
        count(Verdict::Open),
        count(Verdict::Unsure),
        count(Verdict::Works),
        count(Verdict::Fails),
    )?;
    if count(Verdict::Open) + count(Verdict::Unsure) > 0 {
        writeln!(
            out,
            "`pullgate kit`, run on the gateway or on this host, prints firewall rules that close them"
        )?;
    }
    if plan.allowed.is_empty() && plan.mirrors.is_empty() {
        writeln!(
            out,
            "no expected connection was tested, so the network may be down: give hosts of the policy with --allowed, or the mirror with --mirror"
        )?;
    }
    Ok(out)
}
