//! Explains the pull of an image from the mirror, or inside a tunnel that is inspected:
//! `contoso.azurecr.io/team/app:v1`. The tunnel itself is explained by the host of the image.

use std::fmt::{self, Write as _};

use serde::Serialize;

use crate::listen::http::answer::RefusalAnswer;
use crate::oci::ImageName;
use crate::policy::{ExplainedClient, ImageVerdict, ImageWay, PolicySet, Reason, Stop};

/// Replaces the request id, which `explain` does not have.
const NO_ID: &str = "00000000000000000000000000";

/// The verdict of the mirror, or inside a tunnel. The fields are the keys of `mirror` and `inspect` in
/// `--json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct ImageReport {
    #[serde(skip)]
    way: ImageWay,
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

/// The verdicts on an image by each way that judges more than its host.
#[derive(Debug, Default, Serialize)]
pub(super) struct ImageReports {
    /// The mirror's, if a registry has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    mirror: Option<ImageReport>,
    /// That inside the tunnel, if it is inspected.
    #[serde(skip_serializing_if = "Option::is_none")]
    inspect: Option<ImageReport>,
}

impl ImageReports {
    /// Judges the pull of an image.
    pub(super) fn of(
        set: &PolicySet,
        text: &str,
        image: &ImageName,
        client: &ExplainedClient,
    ) -> Self {
        let report = |judged| ImageReport::of(text, judged);
        Self {
            mirror: set.explain_mirrored(text, image, client).map(report),
            inspect: set.explain_inspected(text, image, client).map(report),
        }
    }

    /// Returns whether the image can be pulled, if its host is reached through a tunnel or not.
    pub(super) fn leave_a_way(&self, is_tunnelled: bool) -> bool {
        let passes = |report: &ImageReport| report.verdict != "denied";
        let by_tunnel = is_tunnelled && self.inspect.as_ref().is_none_or(passes);
        by_tunnel || self.mirror.as_ref().is_some_and(passes)
    }

    /// Appends the reports as text.
    pub(super) fn write(&self, image: &str, out: &mut String) -> fmt::Result {
        self.inspect.iter().chain(&self.mirror).try_for_each(|report| report.write(image, out))
    }
}

impl ImageReport {
    /// Reports a verdict on `text`.
    fn of(text: &str, judged: ImageVerdict) -> Self {
        let verdict = judged.code();
        let denial = judged.denial().cloned();
        let reason = denial.as_ref().map(|denial| denial.reason);
        let docker_prints = denial.filter(|_| verdict == "denied").map(|denial| {
            let stop = Stop::from(denial);
            RefusalAnswer { stop: &stop, host: Some(text), id: NO_ID }.message(None)
        });
        Self {
            way: judged.way,
            verdict,
            registry: judged.grant.map(|grant| grant.registry.to_string()),
            reason: reason.map(Reason::code),
            meaning: reason.map(Reason::meaning),
            docker_prints,
        }
    }

    /// Appends the report as text.
    fn write(&self, image: &str, out: &mut String) -> fmt::Result {
        let reason = self.reason.map(|reason| format!(" [{reason}]")).unwrap_or_default();
        let way = match self.way {
            ImageWay::Tunnel => "through a tunnel",
            ImageWay::Inspect => "in the inspected tunnel",
            ImageWay::Mirror => "from the mirror",
        };
        writeln!(out, "{image} {way}: {}{reason}", self.verdict)?;
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
