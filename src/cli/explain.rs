//! `pullgate explain`: what the gate would say of a host, and by which file and line.

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tokio::time::Instant;

use super::ConfigArgument;
use crate::dial::Resolver;
use crate::listen::answer::{Refusal, shown};
use crate::policy::{
    AddressFault, Allowed, Budget, ClientAddress, OwnAddresses, PolicySet, Stop, Target,
};
use crate::{config, dial, reload};

/// How long looking a name up may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// In place of a session's id, which `explain` has not.
const NO_ID: &str = "00000000000000000000000000";

/// Say whether a host is allowed, by which file and line, and where it resolves to.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The host, with its port where it is not 443.
    #[arg(value_name = "HOST[:PORT]")]
    target: String,
    /// The client that asks.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    client: IpAddr,
    /// One JSON object, for scripts.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgument,
}

/// What there is to say; the keys of `--json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Explanation {
    target: String,
    client: IpAddr,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meaning: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    registry: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<String>,
    /// How much a tunnel may send up, where that is bounded.
    #[serde(skip_serializing_if = "Option::is_none")]
    upload: Option<ToldBudget>,
    addresses: Vec<String>,
    refused_addresses: Vec<String>,
    /// The very line that a Go client such as docker would print after the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    docker_prints: Option<String>,
}

/// As `upload` names it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct ToldBudget {
    base_bytes: u64,
    ratio_percent: u64,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let path = args.config.path();
    let loaded = reload::read_files(&path).and_then(|files| config::compile(&files, 1));
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(faults) => {
            super::print_faults(&faults);
            return Ok(ExitCode::FAILURE);
        }
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let explanation = runtime.block_on(explain(&loaded.policy, args));
    if args.json {
        println!("{}", serde_json::to_string_pretty(&explanation)?);
    } else {
        print(&explanation);
    }
    let passes = explanation.verdict != "denied" && explanation.verdict != "failed";
    Ok(if passes { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn explain(set: &PolicySet, args: &Args) -> Explanation {
    let mut explanation = Explanation {
        target: args.target.clone(),
        client: args.client,
        verdict: "allowed",
        reason: None,
        meaning: None,
        registry: None,
        endpoint: None,
        place: None,
        upload: None,
        addresses: Vec::new(),
        refused_addresses: Vec::new(),
        docker_prints: None,
    };
    if let Err(stop) = judge(set, args, &mut explanation).await {
        explanation.refuse(&stop);
    }
    explanation
}

/// The session's story, as far as it goes without a connection.
async fn judge(set: &PolicySet, args: &Args, told: &mut Explanation) -> Result<(), Stop> {
    let with_port = match args.target.rsplit_once(':') {
        Some((_, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => args.target.clone(),
        _ => format!("{}:{}", args.target, crate::policy::HTTPS),
    };
    let target = Target::parse_authority(&with_port)
        .map_err(|fault| crate::policy::Denial::with_remedy(fault.reason(), fault.to_string()))?;
    told.target = shown(&target);
    let client = ClientAddress(args.client);
    let enforcement = set.rules().enforcement;
    let allowed = set.judge_name(&target, client, enforcement)?;
    told.allow(&allowed);
    let resolver = Resolver::new(&set.rules().dns_servers);
    let answer = resolver.resolve(set, &allowed, Instant::now() + PATIENCE).await?;
    let own = OwnAddresses { interfaces: dial::interfaces(), listeners: Vec::new() };
    match set.judge_addresses(allowed, &answer.addresses, &own) {
        Ok(vetted) => {
            told.addresses = vetted.permit.addresses().iter().map(ToString::to_string).collect();
            told.refuse_addresses(&vetted.dropped);
            Ok(())
        }
        Err(none) => {
            told.refuse_addresses(&none.dropped);
            Err(none.denial.into())
        }
    }
}

impl Explanation {
    fn allow(&mut self, allowed: &Allowed) {
        if let Some(grant) = allowed.grant() {
            self.registry = Some(grant.registry.to_string());
            self.endpoint = Some(grant.endpoint.code());
            self.place = Some(grant.place.to_string());
            self.upload = grant.upload.map(|Budget { base_bytes, ratio_percent }| ToldBudget {
                base_bytes,
                ratio_percent,
            });
        }
        if let Some(denial) = allowed.would_deny() {
            self.verdict = "would-deny";
            self.reason = Some(denial.reason.code());
            self.meaning = Some(denial.reason.meaning());
        }
    }

    fn refuse(&mut self, stop: &Stop) {
        (self.verdict, self.meaning) = match stop {
            Stop::Denied(denial) => ("denied", Some(denial.reason.meaning())),
            Stop::Failed(failure) => ("failed", Some(failure.cause.meaning())),
        };
        self.reason = Some(stop.code());
        let refusal = Refusal { stop, host: Some(&self.target), id: NO_ID };
        self.docker_prints = Some(refusal.phrase());
    }

    fn refuse_addresses(&mut self, dropped: &[(std::net::SocketAddr, AddressFault)]) {
        let told = dropped.iter().map(|(address, fault)| format!("{address} {fault}"));
        self.refused_addresses = told.collect();
    }
}

fn print(told: &Explanation) {
    let reason = told.reason.map(|reason| format!(" [{reason}]")).unwrap_or_default();
    println!("{}: {}{reason}", told.target, told.verdict);
    if let Some(meaning) = told.meaning {
        println!("  why:       {meaning}");
    }
    if let (Some(registry), Some(endpoint), Some(place)) =
        (&told.registry, told.endpoint, &told.place)
    {
        println!("  registry:  {registry} ({endpoint} endpoint)");
        println!("  by:        {place}");
    }
    if let Some(ToldBudget { base_bytes, ratio_percent }) = &told.upload {
        println!("  upload:    {base_bytes} bytes, and {ratio_percent} % of what comes down");
    }
    for address in &told.addresses {
        println!("  dials:     {address}");
    }
    for address in &told.refused_addresses {
        println!("  never:     {address}");
    }
    if let Some(line) = &told.docker_prints {
        println!("  docker:    {line}");
    }
}
