//! A step of a probe, and what it found.

use std::fmt;
use std::time::Duration;

use crate::policy::{Cause, Reason, Stop};

/// What a step tried, and how it went.
#[derive(Debug, Clone)]
pub struct Step {
    /// `name`, `dns`, `addresses`, `tcp`, `parent`, `tls`, `api`, `token`, `manifest` or `blob`.
    pub step: &'static str,
    /// What it was tried on: a host, an address, an image.
    pub subject: String,
    /// How long it took.
    pub took: Duration,
    /// What was seen.
    pub seen: String,
    /// What is wrong.
    pub fault: Option<StepFault>,
}

/// What is wrong, and what to do about it.
#[derive(Debug, Clone)]
pub struct StepFault {
    /// A reason's or cause's code, or a code of the probe's own.
    pub code: &'static str,
    /// What the operator does about it.
    pub remedy: String,
    /// What a client would be refused with.
    pub stop: Option<Stop>,
}

impl StepFault {
    pub(super) fn new(code: &'static str, remedy: impl Into<String>) -> Self {
        Self { code, remedy: remedy.into(), stop: None }
    }

    /// What a client would be refused with, too.
    pub(super) fn of_stop(stop: impl Into<Stop>) -> Self {
        let stop = stop.into();
        Self { code: stop.code(), remedy: remedy(&stop), stop: Some(stop) }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.took.as_millis();
        let Self { step, subject, seen, .. } = self;
        match &self.fault {
            None => write!(out, "ok     {step:9} {subject}: {seen} ({ms} ms)"),
            Some(StepFault { code, remedy, .. }) => {
                write!(out, "FAULT  {step:9} {subject}: {seen} [{code}] ({ms} ms); {remedy}")
            }
        }
    }
}

/// What the operator does about a refusal.
fn remedy(stop: &Stop) -> String {
    let fixed = match stop {
        Stop::Denied(denial) => match denial.reason {
            Reason::StorageAccount => {
                "dedicated data endpoints are off: import the registry's endpoints with pullgate \
                 import, deploy the policy, then run az acr update --name NAME --data-endpoint-enabled"
            }
            Reason::AddressNotAllowed => {
                "a private DNS zone in the wrong network, or missing private-addresses in the \
                 registry's file"
            }
            Reason::HostNotAllowed | Reason::OtherRegistry => {
                "if the host belongs to the registry, add it to data-endpoints of its file"
            }
            _ => "see the reason in the manual",
        },
        Stop::Failed(failure) => of_cause(failure.cause),
        Stop::Detailed(detailed) => of_cause(detailed.failure.cause),
    };
    match stop {
        Stop::Denied(denial) => match &denial.remedy {
            Some(more) => format!("{more}; {fixed}"),
            None => fixed.to_owned(),
        },
        _ => fixed.to_owned(),
    }
}

fn of_cause(cause: Cause) -> &'static str {
    match cause {
        Cause::NameNotFound => "check the name, and with Private Link the private DNS zone",
        Cause::LookupFailed | Cause::LookupTimeout => {
            "check [dns] servers, or /etc/resolv.conf, and the way to them"
        }
        Cause::ConnectRefused => "check what listens there, and the firewall on the way",
        Cause::ConnectTimeout => "a firewall drops the packets: open port 443 to this address",
        Cause::ConnectUnreachable => "there is no route to it: check the gate's routes",
        Cause::ParentUnreachable => "check the addresses of the [[parent]], and the way to them",
        Cause::ParentRefused => "the parent proxy does not allow the host: ask its operator",
        Cause::ParentAuth => "check credentials-file or credentials-command of the [[parent]]",
        Cause::ParentMalformed => "check that the address of the [[parent]] is an HTTP proxy",
        Cause::LocalPorts => "widen net.ipv4.ip_local_port_range",
        Cause::UpstreamTls | Cause::UpstreamCertificate => {
            "a private authority: set ca; otherwise a firewall intercepts TLS: exempt the host there"
        }
        _ => "see the reason in the manual",
    }
}
