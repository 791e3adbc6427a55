//! `pullgate explain`: what the gate would say of a host, and by which file and line; and who may
//! pull from a registry.

mod registry;

use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tokio::time::Instant;

use super::ConfigArgument;
use crate::dial::Resolver;
use crate::listen::answer::{Refusal, shown};
use crate::policy::{
    AddressFault, Allowed, Asker, Budget, Client, Grant, OwnAddresses, PolicySet, Stop, Target,
};
use crate::{config, dial, reload};
use registry::Clients;

/// How long looking a name up may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// In place of a session's id, which `explain` has not.
const NO_ID: &str = "00000000000000000000000000";

/// Say whether a host is allowed, by which file and line, and where it resolves to.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The host, with its port where it is not 443; or a registry's name.
    #[arg(value_name = "HOST[:PORT]|REGISTRY")]
    target: String,
    /// Who asks: an address, or the name of a [[client]].
    #[arg(long, value_name = "ADDRESS|NAME", default_value = "127.0.0.1")]
    client: String,
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
    client: String,
    /// The [[client]] that this makes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_name: Option<String>,
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
    /// Who may use the registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    clients: Option<Clients>,
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
    let set = &loaded.policy;
    if let Some(registry) = registry::named(set, &args.target) {
        registry.print(args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(client) = who(set, &args.client) else {
        let known = set.rules().clients.iter().map(|client| &*client.name).collect::<Vec<_>>();
        eprintln!(
            "pullgate: {:?} is no address and no [[client]]; known are {}",
            args.client,
            if known.is_empty() { "none".to_owned() } else { known.join(", ") }
        );
        return Ok(ExitCode::from(2));
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let explanation = runtime.block_on(explain(set, args, &client));
    if args.json {
        println!("{}", serde_json::to_string_pretty(&explanation)?);
    } else {
        print(&explanation);
    }
    let passes = explanation.verdict != "denied" && explanation.verdict != "failed";
    Ok(if passes { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Who asks, as the command line says it.
enum Who {
    At(Asker),
    Of(Arc<Client>),
}

fn who(set: &PolicySet, written: &str) -> Option<Who> {
    if let Ok(address) = written.parse::<IpAddr>() {
        return Some(Who::At(Asker::at(address)));
    }
    let client = set.rules().clients.iter().find(|client| *client.name == *written)?;
    Some(Who::Of(client.clone()))
}

async fn explain(set: &PolicySet, args: &Args, client: &Who) -> Explanation {
    let mut explanation = Explanation {
        target: args.target.clone(),
        client: args.client.clone(),
        client_name: match client {
            Who::At(asker) => set.group_of(asker).map(|client| client.name.to_string()),
            Who::Of(client) => Some(client.name.to_string()),
        },
        verdict: "allowed",
        reason: None,
        meaning: None,
        registry: None,
        endpoint: None,
        place: None,
        upload: None,
        clients: None,
        addresses: Vec::new(),
        refused_addresses: Vec::new(),
        docker_prints: None,
    };
    if let Err(stop) = judge(set, args, client, &mut explanation).await {
        explanation.refuse(&stop);
    }
    explanation
}

/// The session's story, as far as it goes without a connection.
async fn judge(
    set: &PolicySet,
    args: &Args,
    client: &Who,
    told: &mut Explanation,
) -> Result<(), Stop> {
    let with_port = match args.target.rsplit_once(':') {
        Some((_, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => args.target.clone(),
        _ => format!("{}:{}", args.target, crate::policy::HTTPS),
    };
    let target = Target::parse_authority(&with_port)
        .map_err(|fault| crate::policy::Denial::with_remedy(fault.reason(), fault.to_string()))?;
    told.target = shown(&target);
    if let Ok(grant) = set.named(&target) {
        told.name(set, &grant);
    }
    let allowed = match client {
        Who::At(asker) => set.judge_name(&target, asker, set.rules().enforcement)?,
        Who::Of(client) => set.judge_name_for(&target, client)?,
    };
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
    fn name(&mut self, set: &PolicySet, grant: &Grant) {
        self.registry = Some(grant.registry.to_string());
        self.endpoint = Some(grant.endpoint.code());
        self.place = Some(grant.place.to_string());
        self.upload = grant
            .upload
            .map(|Budget { base_bytes, ratio_percent }| ToldBudget { base_bytes, ratio_percent });
        self.clients = Some(Clients::of(set, &grant.registry));
    }

    fn allow(&mut self, allowed: &Allowed) {
        if let Some(client) = allowed.client() {
            self.client_name = Some(client.name.to_string());
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
    if let Some(clients) = &told.clients {
        println!("  clients:   {clients}");
    }
    if let Some(name) = &told.client_name {
        println!("  asks:      {} ({name})", told.client);
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
