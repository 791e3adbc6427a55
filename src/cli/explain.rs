//! `pullgate explain`: what the gate would say of a host, and by which file and line; and who may
//! pull from a registry.

mod client;
mod image;
mod registry;
mod transparent;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tokio::time::Instant;

use super::config_argument::ConfigArgument;
use super::output;
use crate::config::Loaded;
use crate::dial::Resolver;
use crate::listen::http::answer::{RefusalAnswer, shown};
use crate::policy::{AddressFault, Allowed, Budget, Grant, OwnAddresses, PolicySet, Stop, Target};
use crate::{config, dial, reload};
use client::ExplainedClient;
use registry::{Clients, ExplainedPreset};
use transparent::{Dialled, ToldHeaded, Way};

/// How long looking a name up may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// In place of a session's id, which `explain` has not.
const NO_ID: &str = "00000000000000000000000000";

/// Say whether a host is allowed, by which file and line, and where it resolves to.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The host, with its port where it is not 443; a registry's name; or an image, as the mirror
    /// judges it.
    #[arg(value_name = "HOST[:PORT]|REGISTRY|IMAGE")]
    target: String,
    /// Who asks: an address, or the name of a [[client]].
    #[arg(long, value_name = "ADDRESS|NAME", default_value = "127.0.0.1")]
    client: String,
    /// For a client whose traffic is brought to a transparent listener; taken for granted where the
    /// configuration has no other.
    #[arg(long)]
    transparent: bool,
    /// Where such a client is headed: is it an address of the host's?
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    dialled: Option<Dialled>,
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
    /// How the client comes.
    way: &'static str,
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
    /// The preset that the host is from, and its date.
    #[serde(skip_serializing_if = "Option::is_none")]
    preset: Option<ExplainedPreset>,
    /// How much a tunnel may send up, where that is bounded.
    #[serde(skip_serializing_if = "Option::is_none")]
    upload: Option<ToldBudget>,
    /// Who may use the registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    clients: Option<Clients>,
    addresses: Vec<String>,
    refused_addresses: Vec<String>,
    /// What the answerer says of the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    answerer: Option<String>,
    /// Where the client is headed.
    #[serde(skip_serializing_if = "Option::is_none")]
    dialled: Option<ToldHeaded>,
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
            output::print_faults(&faults);
            return Ok(ExitCode::FAILURE);
        }
    };
    let set = &loaded.policy;
    if let Some(registry) = registry::named(set, &args.target) {
        registry.print(args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(client) = client::find(set, &args.client) else {
        let known = set.rules().clients.iter().map(|client| &*client.name).collect::<Vec<_>>();
        eprintln!(
            "pullgate: {:?} is no address and no [[client]]; known are {}",
            args.client,
            if known.is_empty() { "none".to_owned() } else { known.join(", ") }
        );
        return Ok(ExitCode::from(2));
    };
    if image::is_image(&args.target) {
        return image::print(set, &args.target, &client, args.json);
    }
    if let Some(dialled) = args.dialled.filter(|dialled| dialled.contradicts(&args.target)) {
        eprintln!("pullgate: {dialled} and {} name two ports; the dialled one counts", args.target);
        return Ok(ExitCode::from(2));
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let way = Way::of(&loaded.settings, args.transparent, args.dialled);
    let explanation = runtime.block_on(explain(&loaded, args, way, &client));
    if args.json {
        output::print_json(&explanation)?;
    } else {
        output::print(&text(&explanation)?)?;
    }
    let passes = explanation.verdict != "denied" && explanation.verdict != "failed";
    Ok(if passes { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn explain(loaded: &Loaded, args: &Args, way: Way, client: &ExplainedClient) -> Explanation {
    let set = &loaded.policy;
    let mut explanation = Explanation {
        target: args.target.clone(),
        way: way.code(),
        client: args.client.clone(),
        client_name: match client {
            ExplainedClient::At(asker) => set.group_of(asker).map(|client| client.name.to_string()),
            ExplainedClient::Of(client) => Some(client.name.to_string()),
        },
        verdict: "allowed",
        reason: None,
        meaning: None,
        registry: None,
        endpoint: None,
        place: None,
        preset: None,
        upload: None,
        clients: None,
        addresses: Vec::new(),
        refused_addresses: Vec::new(),
        answerer: None,
        dialled: None,
        docker_prints: None,
    };
    if let Err(stop) = judge(loaded, args, way, client, &mut explanation).await {
        explanation.refuse(&stop, way);
    }
    explanation
}

/// The session's story, as far as it goes without a connection.
async fn judge(
    loaded: &Loaded,
    args: &Args,
    way: Way,
    client: &ExplainedClient,
    told: &mut Explanation,
) -> Result<(), Stop> {
    let with_port = match transparent::written_port(&args.target) {
        Some(_) => args.target.clone(),
        None => format!("{}:{}", args.target, way.port()),
    };
    let set = &loaded.policy;
    let target = Target::parse_authority(&with_port)
        .map_err(|fault| crate::policy::Denial::with_remedy(fault.reason(), fault.to_string()))?;
    told.target = shown(&target);
    if let Ok(grant) = set.named(&target) {
        told.name(set, &grant);
    }
    if way != Way::Connect {
        told.answerer = transparent::answered(&loaded.settings, set, &target.name, client);
    }
    let allowed = match client {
        ExplainedClient::At(asker) => set.judge_name(&target, asker, set.rules().enforcement)?,
        ExplainedClient::Of(client) => set.judge_name_for(&target, client)?,
    };
    told.allow(&allowed);
    let resolver = Resolver::new(&set.rules().dns_servers);
    let answer = resolver.resolve(set, &allowed, Instant::now() + PATIENCE).await?;
    let own = OwnAddresses { interfaces: dial::interfaces(), listeners: Vec::new() };
    told.dialled = way.headed(&target, &answer.addresses, &own);
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
        self.preset = ExplainedPreset::of(set, grant);
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

    fn refuse(&mut self, stop: &Stop, way: Way) {
        (self.verdict, self.meaning) = match stop {
            Stop::Denied(denial) => ("denied", Some(denial.reason.meaning())),
            Stop::Failed(failure) => ("failed", Some(failure.cause.meaning())),
        };
        self.reason = Some(stop.code());
        let refusal = RefusalAnswer { stop, host: Some(&self.target), id: NO_ID };
        self.docker_prints = Some(way.alert(stop).unwrap_or_else(|| refusal.phrase()));
    }

    fn refuse_addresses(&mut self, dropped: &[(std::net::SocketAddr, AddressFault)]) {
        let told = dropped.iter().map(|(address, fault)| format!("{address} {fault}"));
        self.refused_addresses = told.collect();
    }
}

/// The explanation as lines of text.
fn text(told: &Explanation) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    let reason = told.reason.map(|reason| format!(" [{reason}]")).unwrap_or_default();
    writeln!(out, "{}: {}{reason}", told.target, told.verdict)?;
    if let Some(meaning) = told.meaning {
        writeln!(out, "  why:       {meaning}")?;
    }
    if let (Some(registry), Some(endpoint), Some(place)) =
        (&told.registry, told.endpoint, &told.place)
    {
        writeln!(out, "  registry:  {registry} ({endpoint} endpoint)")?;
        writeln!(out, "  by:        {place}")?;
    }
    if let Some(ExplainedPreset { name, date }) = &told.preset {
        writeln!(out, "  preset:    {name} of {date}")?;
    }
    if let Some(clients) = &told.clients {
        writeln!(out, "  clients:   {clients}")?;
    }
    if let Some(name) = &told.client_name {
        writeln!(out, "  asks:      {} ({name})", told.client)?;
    }
    if let Some(ToldBudget { base_bytes, ratio_percent }) = &told.upload {
        writeln!(out, "  upload:    {base_bytes} bytes, and {ratio_percent} % of what comes down")?;
    }
    if let Some(answer) = &told.answerer {
        writeln!(out, "  DNS:       the answerer says {answer}")?;
    }
    if let Some(dialled) = &told.dialled {
        writeln!(out, "  headed to: {dialled}")?;
    }
    for address in &told.addresses {
        writeln!(out, "  dials:     {address}")?;
    }
    for address in &told.refused_addresses {
        writeln!(out, "  never:     {address}")?;
    }
    if let Some(line) = &told.docker_prints {
        writeln!(out, "  docker:    {line}")?;
    }
    Ok(out)
}
