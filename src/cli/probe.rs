//! `pullgate probe`: tries the real way from this host to a registry, step by step.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use serde::Serialize;

use super::config_argument::ConfigArgument;
use super::output;
use crate::account::probe_metrics;
use crate::listen::http::answer::RefusalAnswer;
use crate::tools::probe::{self, ProbePlan, Step};

/// In place of a session's id, which a probe has not.
const NO_ID: &str = "00000000000000000000000000";

/// Try the real way from this host to a registry: names, addresses, TCP, TLS, the API, a token, a
/// manifest, and the redirect of a blob, judged by the policy.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The registry: the name of its file.
    registry: String,
    /// An image, so that a token, a manifest and a blob are tried, too.
    #[arg(value_name = "REPOSITORY[:TAG]")]
    image: Option<String>,
    /// Print what this client would print of the first refusal.
    #[arg(long, value_name = "CLIENT")]
    client: Option<Client>,
    /// How long one step may take.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 10_000,
          value_parser = clap::value_parser!(u64).range(1..=60_000))]
    timeout_ms: u64,
    /// Write the result as metrics, for the textfile collector of node_exporter. The file is
    /// replaced in one step.
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,
    /// One JSON object, for scripts.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgument,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Client {
    Docker,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report<'a> {
    registry: &'a str,
    well: bool,
    steps: Vec<ReportedStep<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    docker_prints: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct ReportedStep<'a> {
    step: &'static str,
    subject: &'a str,
    ok: bool,
    seen: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<&'a str>,
    ms: u128,
}

impl<'a> From<&'a Step> for ReportedStep<'a> {
    fn from(step: &'a Step) -> Self {
        Self {
            step: step.step,
            subject: &step.subject,
            ok: step.fault.is_none(),
            seen: &step.seen,
            cause: step.fault.as_ref().map(|fault| fault.code),
            remedy: step.fault.as_ref().map(|fault| fault.remedy.as_str()),
            ms: step.took.as_millis(),
        }
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Some(loaded) = args.config.load() else { return Ok(ExitCode::FAILURE) };
    let registries = &loaded.policy.rules().registries;
    let Some(registry) = registries.iter().find(|one| **one.name() == *args.registry) else {
        let known: Vec<&str> = registries.iter().take(20).map(|one| &**one.name()).collect();
        eprintln!("pullgate: no registry {:?}; known keys are {}", args.registry, known.join(", "));
        return Ok(ExitCode::from(2));
    };
    let image = args.image.as_deref().map(|image| {
        let (repository, reference) = match image.split_once('@') {
            Some(parts) => parts,
            None => image.rsplit_once(':').unwrap_or((image, "latest")),
        };
        (repository.to_owned(), reference.to_owned())
    });
    let timeout = Duration::from_millis(args.timeout_ms);
    let plan = ProbePlan { set: &loaded.policy, registry, image, timeout };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let steps = runtime.block_on(probe::probe(&plan));
    let well = steps.iter().all(|step| step.fault.is_none());
    if let Some(path) = &args.metrics {
        write_metrics(path, &args.registry, &steps)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let docker_prints = args.client.and_then(|Client::Docker| docker_prints(&steps));
    if args.json {
        let steps = steps.iter().map(Into::into).collect();
        let report = Report { registry: &args.registry, well, steps, docker_prints };
        output::print_json(&report)?;
    } else {
        output::print(&text(&steps, docker_prints.as_deref())?)?;
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Replaces the file of metrics. The collector reads no file whose name ends otherwise than `.prom`.
fn write_metrics(path: &Path, registry: &str, steps: &[Step]) -> anyhow::Result<()> {
    let faults = steps.iter().filter_map(|step| Some((step.step, step.fault.as_ref()?.code)));
    let text = probe_metrics(registry, faults, SystemTime::now())?;
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, text)?;
    fs::rename(&new, path)?;
    Ok(())
}

/// What docker would print of the first refusal by the gate.
fn docker_prints(steps: &[Step]) -> Option<String> {
    steps.iter().find_map(|step| {
        let stop = step.fault.as_ref()?.stop.as_ref()?;
        // The blob's step names the host that it is redirected to.
        let host = step.seen.strip_prefix("redirects to ").unwrap_or(&step.subject);
        let host = host.split([' ', ':']).next();
        Some(RefusalAnswer { stop, host, id: NO_ID }.phrase())
    })
}

fn text(steps: &[Step], docker_prints: Option<&str>) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    for step in steps {
        writeln!(out, "{step}")?;
    }
    let faults = steps.iter().filter(|step| step.fault.is_some()).count();
    writeln!(out, "{} ok, {faults} with a fault", steps.len() - faults)?;
    if let Some(line) = docker_prints {
        writeln!(out, "docker prints: {line}")?;
    }
    Ok(out)
}
