//! `pullgate explain`: the verdict of the policy for a host, with file and line; or the hosts and
//! clients of a registry.

mod client;
mod image;
mod registry;
mod transparent;
mod verify;

use std::convert::Infallible;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tokio::time::Instant;

use super::config_argument::ConfigArgument;
use super::output;
use crate::config::{Loaded, Settings};
use crate::dial;
use crate::dial::{Caller, DialledServer, Resolver};
use crate::listen::http::answer::{RefusalAnswer, shown};
use crate::oci::{ImageName, pasted};
use crate::policy::{
    AddressFault, Allowed, Budget, ExplainedClient, Grant, OwnAddresses, Permit, PolicySet, Stop,
    Target,
};
use image::ImageReports;
use registry::{AllowedClients, ExplainedPreset};
use transparent::{DestinationReport, DialledAddress, EntryMode};

/// Timeout for resolving a name.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Replaces the session id, which `explain` does not have.
const NO_ID: &str = "00000000000000000000000000";

/// Show whether a host is allowed, which line of which file allows it, and its addresses.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A host, with its port unless it is 443; the name of a registry; or an image, such as
    /// contoso.azurecr.io/team/app:1.0.
    #[arg(value_name = "HOST[:PORT]|REGISTRY|IMAGE", value_parser = as_pasted)]
    target: String,
    /// The client: an address, or the name of a [[client]].
    #[arg(long, value_name = "ADDRESS|NAME", default_value = "127.0.0.1")]
    client: String,
    /// Explain a connection that is redirected to a transparent listener. This is the default if the
    /// configuration has only transparent listeners.
    #[arg(long)]
    transparent: bool,
    /// The original destination of such a connection, to compare with the addresses of the host.
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    dialled: Option<DialledAddress>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgument,
}

/// The explanation of a host. The fields are the keys of `--json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Explanation {
    /// The image, if the argument is one; `target` is its host then.
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    target: String,
    /// The entry mode.
    way: &'static str,
    client: String,
    /// The `[[client]]` that the client belongs to.
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
    /// The preset that contains the host, and its date.
    #[serde(skip_serializing_if = "Option::is_none")]
    preset: Option<ExplainedPreset>,
    /// The upload budget of a tunnel; `None` if uploads are not limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    upload: Option<UploadBudget>,
    /// The clients that can use the registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    clients: Option<AllowedClients>,
    /// How its tunnels leave: directly, or through a parent proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    /// Whether the servers at the addresses have a valid certificate; absent without
    /// `verify-upstream`.
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<bool>,
    addresses: Vec<String>,
    refused_addresses: Vec<String>,
    /// The answer of the gate's DNS server.
    #[serde(skip_serializing_if = "Option::is_none")]
    answerer: Option<String>,
    /// The original destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    dialled: Option<DestinationReport>,
    /// The text that a Go client such as docker prints after the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    docker_prints: Option<String>,
    /// The verdicts on the image, besides that on its host.
    #[serde(flatten)]
    reports: ImageReports,
}

/// The value of `upload` in `--json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct UploadBudget {
    base_bytes: u64,
    ratio_percent: u64,
    request_bytes: u64,
}

/// Parses the argument: the scheme and the end of a URL are removed.
fn as_pasted(text: &str) -> Result<String, Infallible> {
    Ok(pasted(text).to_owned())
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Some(loaded) = args.config.load() else { return Ok(ExitCode::FAILURE) };
    let Loaded { settings, policy, .. } = loaded;
    let set = &Arc::new(policy);
    let Some(client) = client::find(set, &args.client) else {
        let known = set.rules().clients.iter().map(|client| &*client.name).collect::<Vec<_>>();
        eprintln!(
            "pullgate: --client {:?} is neither an address nor a [[client]]; known clients: {}",
            args.client,
            if known.is_empty() { "none".to_owned() } else { known.join(", ") }
        );
        return Ok(ExitCode::from(2));
    };
    if let Some(registry) = registry::named(set, &args.target) {
        registry.print(args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let image = ImageName::parse(&args.target);
    let host = image.as_ref().map_or(args.target.as_str(), ImageName::host);
    if let Some(dialled) = args.dialled.filter(|dialled| dialled.contradicts(host)) {
        eprintln!("pullgate: {host} and --dialled {dialled} have different ports; give one port",);
        return Ok(ExitCode::from(2));
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let way = EntryMode::of(&settings, args.transparent, args.dialled);
    let mut explanation = runtime.block_on(explain((&settings, set), (host, args), way, &client));
    if let Some(image) = &image {
        explanation.image = Some(args.target.clone());
        explanation.reports = ImageReports::of(set, &args.target, image, &client);
    }
    if args.json {
        output::print_json(&explanation)?;
    } else {
        output::print(&text(&explanation)?)?;
    }
    let is_tunnelled = !matches!(explanation.verdict, "denied" | "failed");
    let has_way = explanation.reports.leave_a_way(is_tunnelled);
    Ok(if has_way { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn explain(
    (settings, set): (&Settings, &Arc<PolicySet>),
    (host, args): (&str, &Args),
    way: EntryMode,
    client: &ExplainedClient,
) -> Explanation {
    let mut explanation = Explanation {
        image: None,
        target: host.to_owned(),
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
        route: None,
        verified: None,
        addresses: Vec::new(),
        refused_addresses: Vec::new(),
        answerer: None,
        dialled: None,
        docker_prints: None,
        reports: ImageReports::default(),
    };
    if let Err(stop) = judge((settings, set), host, way, client, &mut explanation).await {
        explanation.refuse(&stop, way);
    }
    explanation
}

/// Judges the target as a session does, up to the connection, and fills in the explanation.
async fn judge(
    (settings, set): (&Settings, &Arc<PolicySet>),
    host: &str,
    way: EntryMode,
    client: &ExplainedClient,
    explanation: &mut Explanation,
) -> Result<(), Stop> {
    let with_port = match transparent::written_port(host) {
        Some(_) => host.to_owned(),
        None => format!("{host}:{}", way.port()),
    };
    let target = Target::parse_authority(&with_port)
        .map_err(|fault| crate::policy::Denial::with_remedy(fault.reason(), fault.to_string()))?;
    explanation.target = shown(&target);
    if let Ok(grant) = set.named(&target) {
        explanation.name(set, &grant);
    }
    if way != EntryMode::Connect {
        explanation.answerer = transparent::answered(settings, set, &target.name, client);
    }
    let allowed = match client {
        ExplainedClient::At(asker) => set.judge_name(&target, asker, set.rules().enforcement),
        ExplainedClient::Of(client) => set.judge_name_for(&target, client),
    };
    let allowed = allowed.map_err(|denial| match way {
        EntryMode::Connect => denial,
        _ => denial.of_hello(),
    })?;
    explanation.allow(&allowed);
    let resolver = Arc::new(Resolver::new(&set.rules().dns_servers));
    let own = OwnAddresses { interfaces: dial::interfaces(), listeners: Vec::new() };
    if let Some(permit) = set.leave_to_parent(&allowed) {
        return match set.rules().verify_upstream {
            true => explanation.verify((set, own), permit, resolver).await,
            false => Ok(()),
        };
    }
    let answer = resolver.resolve(set, &allowed, Instant::now() + RESOLVE_TIMEOUT).await?;
    explanation.dialled = way.headed(&target, &answer.addresses, &own);
    match set.judge_addresses(allowed, &answer.addresses, &own) {
        Ok(vetted) => {
            explanation.refuse_addresses(&vetted.dropped);
            if set.rules().verify_upstream {
                return explanation.verify((set, own), vetted.permit, resolver).await;
            }
            explanation.addresses =
                vetted.permit.addresses().iter().map(ToString::to_string).collect();
            Ok(())
        }
        Err(none) => {
            explanation.refuse_addresses(&none.dropped);
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
        self.upload = grant.upload.map(|Budget { base_bytes, ratio_percent, request_bytes }| {
            UploadBudget { base_bytes, ratio_percent, request_bytes }
        });
        self.clients = Some(AllowedClients::of(set, &grant.registry));
    }

    fn allow(&mut self, allowed: &Allowed) {
        self.route = allowed.route().parent().map(|_| allowed.route().to_string());
        if let Some(client) = allowed.client() {
            self.client_name = Some(client.name.to_string());
        }
        if let Some(denial) = allowed.would_deny() {
            self.verdict = "would-deny";
            self.reason = Some(denial.reason.code());
            self.meaning = Some(denial.reason.meaning());
        }
    }

    fn refuse(&mut self, stop: &Stop, way: EntryMode) {
        (self.verdict, self.meaning) = match stop {
            Stop::Denied(denial) => ("denied", Some(denial.reason.meaning())),
            Stop::Failed(failure) => ("failed", Some(failure.cause.meaning())),
            Stop::Detailed(detailed) => ("failed", Some(detailed.failure.cause.meaning())),
        };
        self.reason = Some(stop.code());
        let refusal = RefusalAnswer { stop, host: Some(&self.target), id: NO_ID };
        self.docker_prints = Some(way.alert(stop).unwrap_or_else(|| refusal.phrase()));
    }

    /// Verifies the servers that a permit leads to, and takes what was seen of them.
    async fn verify(
        &mut self,
        (set, own): (&Arc<PolicySet>, OwnAddresses),
        permit: Permit,
        resolver: Arc<Resolver>,
    ) -> Result<(), Stop> {
        let (set, own, caller) = (set.clone(), Arc::new(own), Caller::default());
        let server = DialledServer { set, own, permit, address: None, caller };
        let seen = verify::servers(server, resolver).await;
        self.addresses = seen.addresses;
        self.refused_addresses.extend(seen.refused);
        seen.outcome?;
        self.verified = Some(true);
        Ok(())
    }

    fn refuse_addresses(&mut self, dropped: &[(std::net::SocketAddr, AddressFault)]) {
        let described = dropped.iter().map(|(address, fault)| format!("{address} {fault}"));
        self.refused_addresses = described.collect();
    }
}

/// Returns the explanation as text.
fn text(explanation: &Explanation) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    let reason = explanation.reason.map(|reason| format!(" [{reason}]")).unwrap_or_default();
    writeln!(out, "{}: {}{reason}", explanation.target, explanation.verdict)?;
    if let Some(meaning) = explanation.meaning {
        writeln!(out, "  why:       {meaning}")?;
    }
    if let (Some(registry), Some(endpoint), Some(place)) =
        (&explanation.registry, explanation.endpoint, &explanation.place)
    {
        writeln!(out, "  registry:  {registry} ({endpoint} endpoint)")?;
        writeln!(out, "  rule:      {place}")?;
    }
    if let Some(ExplainedPreset { name, date }) = &explanation.preset {
        writeln!(out, "  preset:    {name} of {date}")?;
    }
    if let Some(clients) = &explanation.clients {
        writeln!(out, "  allowed:   {clients}")?;
    }
    if let Some(name) = &explanation.client_name {
        writeln!(out, "  client:    {} ({name})", explanation.client)?;
    }
    if let Some(UploadBudget { base_bytes, ratio_percent, request_bytes }) = &explanation.upload {
        writeln!(
            out,
            "  upload:    {base_bytes} bytes plus {ratio_percent} % of the bytes downloaded plus \
             {request_bytes} for each response"
        )?;
    }
    if let Some(answer) = &explanation.answerer {
        writeln!(out, "  DNS:       answer: {answer}")?;
    }
    if let Some(dialled) = &explanation.dialled {
        writeln!(out, "  dialled:   {dialled}")?;
    }
    if let Some(route) = &explanation.route {
        writeln!(out, "  route:     {route}")?;
    }
    for address in &explanation.addresses {
        writeln!(out, "  address:   {address}")?;
    }
    if explanation.verified == Some(true) {
        let at =
            if explanation.addresses.is_empty() { "behind the parent" } else { "at each address" };
        writeln!(out, "  verified:  the certificate of the server {at}")?;
    }
    for address in &explanation.refused_addresses {
        writeln!(out, "  rejected:  {address}")?;
    }
    if let Some(line) = &explanation.docker_prints {
        writeln!(out, "  docker:    {line}")?;
    }
    if let Some(image) = &explanation.image {
        explanation.reports.write(image, &mut out)?;
    }
    Ok(out)
}
