//! Tries the real way from the gate's host to a registry: names, addresses, TCP, TLS, the API, a
//! token, a manifest, and where the registry redirects a blob to.
//!
//! Each host of the registry is tried at each of its addresses. Only hosts that the policy names are
//! looked up and dialled, by the gate's own resolver and dialler.

mod http;
mod image;
mod step;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

pub use step::{Step, StepFault};

use crate::dial::{self, Caller, Dialler, Resolver, SeenCertificate, TlsClients, Upstream};
use crate::policy::{
    Cause, DetailedFailure, EndpointKind, Failure, OwnAddresses, Permit, PolicySet, Registry,
    RegistryCredentials, Route, Side, Target,
};

const DAY: i64 = 24 * 60 * 60;

/// A certificate that expires within this number of days is a fault.
const EXPIRES_SOON: i64 = 7;

/// What is probed, and with what.
#[derive(Debug)]
pub struct ProbePlan<'a> {
    /// The policy.
    pub set: &'a PolicySet,
    /// The registry.
    pub registry: &'a Registry,
    /// The repository, and the tag or digest.
    pub image: Option<(String, String)>,
    /// How long one step may take.
    pub timeout: Duration,
}

/// Probes a registry.
pub async fn probe(plan: &ProbePlan<'_>) -> Vec<Step> {
    let resolver = Arc::new(Resolver::new(&plan.set.rules().dns_servers));
    let prober = Prober {
        plan,
        dialler: Dialler::new(resolver.clone()),
        resolver,
        own: OwnAddresses { interfaces: dial::interfaces(), listeners: Vec::new() },
        tls: Arc::new(TlsClients::with_system_roots()),
    };
    let mut steps = Vec::new();
    let mut login = None;
    for endpoint in plan.registry.endpoints() {
        if endpoint.kind == EndpointKind::Also {
            continue;
        }
        let reached = prober.host(&endpoint.target, &mut steps).await;
        if endpoint.kind == EndpointKind::Login {
            login = reached;
        }
    }
    if let Some(stream) = login {
        prober.api(stream, &mut steps).await;
    }
    steps
}

struct Prober<'a> {
    plan: &'a ProbePlan<'a>,
    resolver: Arc<Resolver>,
    dialler: Dialler,
    own: OwnAddresses,
    tls: Arc<TlsClients>,
}

impl Prober<'_> {
    fn by(&self) -> Instant {
        Instant::now() + self.plan.timeout
    }

    fn credentials(&self) -> Option<&RegistryCredentials> {
        self.plan.registry.mirror().and_then(|mirror| mirror.credentials())
    }

    /// Tries a host at all of its addresses. Returns the first connection that is verified.
    async fn host(&self, target: &Target, steps: &mut Vec<Step>) -> Option<TlsStream<Upstream>> {
        let permit = self.permit(target, steps).await?;
        if let Route::Parent(parent) = permit.allowed().route() {
            let parent = parent.name.to_string();
            return self.through_parent(&permit, &parent, steps).await;
        }
        let mut reached = None;
        let mut is_reached: Vec<SocketAddr> = Vec::new();
        let mut failed: Vec<(usize, SocketAddr)> = Vec::new();
        for address in permit.addresses() {
            let began = Instant::now();
            let subject = format!("{target} at {address}");
            let connected = dial::connect_to(&permit, *address, self.by()).await;
            let fault = connected.as_ref().err().map(|failure| StepFault::of_stop(*failure));
            let seen = match &connected {
                Ok(_) => "connected".to_owned(),
                Err(failure) => failure.cause.meaning().to_owned(),
            };
            let step =
                Step { step: "tcp", subject: subject.clone(), took: began.elapsed(), seen, fault };
            steps.push(step);
            let Ok(socket) = connected else {
                failed.push((steps.len() - 1, *address));
                continue;
            };
            is_reached.push(*address);
            let stream = self.tls(&permit, subject, Upstream::Left(socket), steps).await;
            reached = reached.or(stream);
        }
        // A family that fails as a whole while the other works is a fault of its routes.
        let other_works = |address: SocketAddr| {
            is_reached.iter().any(|one| one.is_ipv6() != address.is_ipv6())
                && !is_reached.iter().any(|one| one.is_ipv6() == address.is_ipv6())
        };
        for (index, address) in failed {
            let Some(fault) = steps.get_mut(index).and_then(|step| step.fault.as_mut()) else {
                continue;
            };
            if address.is_ipv6() && other_works(address) {
                fault.code = "ipv6-black-hole";
                fault.remedy = "IPv6 does not work from here, IPv4 does: fix its route, or take \
                                the IPv6 addresses out of DNS"
                    .to_owned();
            }
        }
        reached
    }

    /// Connects through the registry's parent proxy, as sessions do: never past it.
    async fn through_parent(
        &self,
        permit: &Permit,
        parent: &str,
        steps: &mut Vec<Step>,
    ) -> Option<TlsStream<Upstream>> {
        let began = Instant::now();
        let subject = format!("{} through parent {parent}", permit.allowed().target());
        let rules = (self.plan.set, &self.own);
        let dialled = self.dialler.dial(rules, permit, &Caller::default(), self.by()).await;
        let (seen, fault, upstream) = match dialled {
            Ok(connection) => ("connected".to_owned(), None, Some(connection.upstream)),
            Err(stop) => (stop.to_string(), Some(StepFault::of_stop(stop)), None),
        };
        let step =
            Step { step: "parent", subject: subject.clone(), took: began.elapsed(), seen, fault };
        steps.push(step);
        self.tls(permit, subject, upstream?, steps).await
    }

    /// Looks a host up, and judges its addresses. A parent that is asked by name does that itself.
    async fn permit(&self, target: &Target, steps: &mut Vec<Step>) -> Option<Permit> {
        let began = Instant::now();
        let subject = target.to_string();
        let mut step = |step, seen: String, fault| {
            let took = began.elapsed();
            steps.push(Step { step, subject: subject.clone(), took, seen, fault });
        };
        let allowed = match self.plan.set.judge_own(target) {
            Ok(allowed) => allowed,
            Err(denial) => {
                step("name", denial.reason.meaning().into(), Some(StepFault::of_stop(denial)));
                return None;
            }
        };
        if let Some(permit) = self.plan.set.leave_to_parent(&allowed) {
            return Some(permit);
        }
        let answer = match self.resolver.resolve(self.plan.set, &allowed, self.by()).await {
            Ok(answer) => answer,
            Err(failure) => {
                step("dns", failure.cause.meaning().into(), Some(StepFault::of_stop(failure)));
                return None;
            }
        };
        let listed: Vec<String> = answer.addresses.iter().map(ToString::to_string).collect();
        step("dns", listed.join(", "), None);
        match self.plan.set.judge_addresses(allowed, &answer.addresses, &self.own) {
            Ok(vetted) => {
                if !vetted.dropped.is_empty() {
                    let dropped = vetted.dropped.iter().map(|(at, why)| format!("{at} {why}"));
                    step("addresses", dropped.collect::<Vec<_>>().join(", "), None);
                }
                Some(vetted.permit)
            }
            Err(none) => {
                let dropped = none.dropped.iter().map(|(at, why)| format!("{at} {why}"));
                let seen = dropped.collect::<Vec<_>>().join(", ");
                step("addresses", seen, Some(StepFault::of_stop(none.denial)));
                None
            }
        }
    }

    /// Makes the handshake at an address.
    async fn tls(
        &self,
        permit: &Permit,
        subject: String,
        socket: Upstream,
        steps: &mut Vec<Step>,
    ) -> Option<TlsStream<Upstream>> {
        let began = Instant::now();
        let target = permit.allowed().target();
        let roots = permit.allowed().roots();
        let examined = self.tls.examine(socket, &target.name, &roots, self.by()).await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let certificate = examined.certificate.as_ref();
        let mut seen = certificate.map_or_else(
            || "no certificate".to_owned(),
            |certificate| {
                let SeenCertificate { issuer, not_after, .. } = certificate;
                format!("issuer {issuer}, expires in {} days", (not_after - now) / DAY)
            },
        );
        let (stream, fault) = match examined.stream {
            Ok(stream) => {
                let left = certificate.map_or(i64::MAX, |one| (one.not_after - now) / DAY);
                let soon = (left < EXPIRES_SOON).then(|| {
                    StepFault::new("certificate-expires", "ask the registry's owner to renew it")
                });
                (Some(stream), soon)
            }
            Err(fault) => {
                seen = format!("{seen}; {}", fault.detail);
                let wrong = certificate.and_then(|certificate| of_time(certificate, now));
                let wrong = wrong.unwrap_or_else(|| {
                    let failure =
                        Failure { side: Side::Upstream, cause: Cause::UpstreamCertificate };
                    StepFault::of_stop(DetailedFailure { failure, detail: fault.detail })
                });
                (None, Some(wrong))
            }
        };
        steps.push(Step { step: "tls", subject, took: began.elapsed(), seen, fault });
        stream
    }
}

/// What is wrong with a certificate's time.
fn of_time(certificate: &SeenCertificate, now: i64) -> Option<StepFault> {
    if now < certificate.not_before {
        let remedy = "the certificate is not valid yet: the clock of this host is behind; set it";
        return Some(StepFault::new("clock-behind", remedy));
    }
    (now > certificate.not_after).then(|| {
        let remedy = "the certificate has expired; or the clock of this host is ahead: check both";
        StepFault::new("certificate-expired", remedy)
    })
}
