//! Explains the pull of an image from the mirror: `contoso.azurecr.io/team/app:v1`. A pull through a
//! tunnel is explained by the host of the image.

use std::fmt::{self, Write as _};

use serde::Serialize;

use crate::listen::http::answer::RefusalAnswer;
use crate::oci::ImageName;
use crate::policy::{ExplainedClient, PolicySet, Reason, Stop};

/// Replaces the request id, which `explain` does not have.
const NO_ID: &str = "00000000000000000000000000";

/// The verdict of the mirror. The fields are the keys of `mirror` in `--json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct MirrorReport {
    pub(super) verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    registry: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meaning: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    docker_prints: Option<String>,
}

impl MirrorReport {
    /// Judges the pull of an image; `None` if no registry of the policy has a mirror.
    pub(super) fn of(
        set: &PolicySet,
        text: &str,
        image: &ImageName,
        client: &ExplainedClient,
    ) -> Option<Self> {
        let judged = set.explain_mirrored(text, image, client)?;
        let verdict = judged.code();
        let denial = judged.denial().cloned();
        let reason = denial.as_ref().map(|denial| denial.reason);
        let docker_prints = denial.filter(|_| verdict == "denied").map(|denial| {
            let stop = Stop::from(denial);
            RefusalAnswer { stop: &stop, host: Some(text), id: NO_ID }.message(None)
        });
        Some(Self {
            verdict,
            registry: judged.grant.map(|grant| grant.registry.to_string()),
            reason: reason.map(Reason::code),
            meaning: reason.map(Reason::meaning),
            docker_prints,
        })
    }

    /// Appends the report as text.
    pub(super) fn write(&self, image: &str, out: &mut String) -> fmt::Result {
        let reason = self.reason.map(|reason| format!(" [{reason}]")).unwrap_or_default();
        writeln!(out, "{image} from the mirror: {}{reason}", self.verdict)?;
        if let Some(meaning) = self.meaning {
            writeln!(out, "  why:       {meaning}")?;
        }
        if let Some(registry) = &self.registry {
            writeln!(out, "  registry:  {registry}")?;
        }
        if let Some(prints) = &self.docker_prints {
            writeln!(out, "  docker:    {prints}")?;
        }
        Ok(())
    }
}
