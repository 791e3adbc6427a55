//! The `explain` form of the status page: a host or an image, judged by the current policy for a
//! client on loopback. No DNS query is sent.

use std::net::Ipv4Addr;

use serde::Serialize;

use super::source::Admin;
use crate::listen::http::answer::RefusalAnswer;
use crate::oci::{ImageName, pasted};
use crate::policy::{ClientIdentity, ExplainedClient, ImageVerdict, ImageWay, Reason, Stop};

/// Replaces the session id, which an explanation does not have.
const NO_ID: &str = "00000000000000000000000000";

/// The answer of `/explain`.
#[derive(Debug, Serialize)]
pub(super) struct PageExplanation {
    asked: String,
    ways: Vec<ExplainedWay>,
}

/// A way in which a client can ask for it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct ExplainedWay {
    way: &'static str,
    target: String,
    verdict: &'static str,
    reason: Option<&'static str>,
    meaning: Option<&'static str>,
    remedy: Option<&'static str>,
    registry: Option<String>,
    endpoint: Option<&'static str>,
    place: Option<String>,
    docker_prints: Option<String>,
}

impl Admin {
    /// Explains the host or image of a query.
    pub(super) fn explain(&self, query: &str) -> PageExplanation {
        let asked = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "host");
        let asked = asked.map(|(_, text)| pasted(&text).to_owned()).unwrap_or_default();
        let set = self.policy.borrow().clone();
        let local = ExplainedClient::At(ClientIdentity::at(Ipv4Addr::LOCALHOST.into()));
        let judged = match ImageName::parse(&asked) {
            Some(image) => set.explain_image(&asked, &image, &local),
            None => vec![set.explain_host(&asked, &local)],
        };
        PageExplanation { asked, ways: judged.into_iter().map(ExplainedWay::from).collect() }
    }
}

impl From<ImageVerdict> for ExplainedWay {
    fn from(judged: ImageVerdict) -> Self {
        let verdict = judged.code();
        let denial = judged.denial().cloned();
        let reason = denial.as_ref().map(|denial| denial.reason);
        let docker_prints = denial.filter(|_| verdict == "denied").map(|denial| {
            let stop = Stop::from(denial);
            let refusal = RefusalAnswer { stop: &stop, host: Some(&judged.asked), id: NO_ID };
            match judged.way {
                ImageWay::Tunnel => refusal.phrase(),
                ImageWay::Inspect | ImageWay::Mirror => refusal.message(None),
            }
        });
        let grant = judged.grant;
        Self {
            way: judged.way.code(),
            target: judged.asked,
            verdict,
            reason: reason.map(Reason::code),
            meaning: reason.map(Reason::meaning),
            remedy: reason.map(Reason::advice),
            registry: grant.as_ref().map(|grant| grant.registry.to_string()),
            endpoint: grant.as_ref().map(|grant| grant.endpoint.code()),
            place: grant.as_ref().map(|grant| grant.place.to_string()),
            docker_prints,
        }
    }
}
