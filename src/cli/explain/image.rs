//! Explains an image as the mirror judges it: `contoso.azurecr.io/team/app:v1`.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Serialize;

use super::client::ExplainedClient;
use crate::cli::output;
use crate::listen::http::answer::RefusalAnswer;
use crate::oci::{Naming, Request};
use crate::policy::{Denial, PolicySet, Stop, denial_of_request};

/// Replaces the request id, which `explain` does not have.
const NO_ID: &str = "00000000000000000000000000";

/// The explanation of an image. The fields are the keys of `--json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Explained {
    image: String,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    registry: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meaning: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    docker_prints: Option<String>,
}

/// Returns whether a target is an image, not a host.
pub(super) fn is_image(target: &str) -> bool {
    target.contains('/')
}

/// Prints the verdict of the mirror for a pull by a client.
pub(super) fn print(
    set: &PolicySet,
    image: &str,
    client: &ExplainedClient,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let judged = judge(set, image, client);
    let mut explained = Explained {
        image: image.to_owned(),
        verdict: "allowed",
        registry: None,
        reason: None,
        meaning: None,
        docker_prints: None,
    };
    let denial = match judged {
        Ok((registry, denial)) => {
            explained.registry = Some(registry);
            explained.verdict = if denial.is_some() { "would-deny" } else { "allowed" };
            denial
        }
        Err(denial) => {
            explained.verdict = "denied";
            Some(denial)
        }
    };
    if let Some(denial) = denial {
        explained.reason = Some(denial.reason.code());
        explained.meaning = Some(denial.reason.meaning());
        let stop = Stop::from(denial);
        let refusal = RefusalAnswer { stop: &stop, host: Some(image), id: NO_ID };
        explained.docker_prints = Some(refusal.message(None));
    }
    if json {
        output::print_json(&explained)?;
    } else {
        output::print(&text(&explained)?)?;
    }
    Ok(if explained.verdict == "denied" { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Returns the name of the registry, and the denial that report mode ignores.
fn judge(
    set: &PolicySet,
    image: &str,
    client: &ExplainedClient,
) -> Result<(String, Option<Denial>), Denial> {
    let (name, reference) = match (image.split_once('@'), image.rsplit_once(':')) {
        (Some((name, digest)), _) => (name, digest),
        (None, Some((name, tag))) if !tag.contains('/') => (name, tag),
        (None, _) => (image, "latest"),
    };
    let target = format!("/v2/{name}/manifests/{reference}");
    let request = Request::parse("GET", &target, Naming::Mirror).map_err(denial_of_request)?;
    let enforcement = set.rules().enforcement;
    let allowed = match client {
        ExplainedClient::At(identity) => set.judge_request(&request, identity, enforcement)?,
        ExplainedClient::Of(group) => set.judge_request_for(&request, group, enforcement)?,
    };
    Ok((allowed.grant().registry.to_string(), allowed.would_deny().cloned()))
}

fn text(explained: &Explained) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    let Explained { image, verdict, registry, reason, meaning, docker_prints } = explained;
    match reason {
        Some(reason) => writeln!(out, "{image}: {verdict} [{reason}]")?,
        None => writeln!(out, "{image}: {verdict}")?,
    }
    if let Some(registry) = registry {
        writeln!(out, "  registry:  {registry}, through the mirror")?;
    }
    if let Some(meaning) = meaning {
        writeln!(out, "  why:       {meaning}")?;
    }
    if let Some(prints) = docker_prints {
        writeln!(out, "  docker:    {prints}")?;
    }
    Ok(out)
}
