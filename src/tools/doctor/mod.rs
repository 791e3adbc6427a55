//! Tests whether a client can reach anything without the gate, and whether allowed hosts work:
//! `pullgate doctor`.
//!
//! It acts as a client without settings, or as one with a proxy, and knows nothing of the gate except
//! how it refuses. All tests run at once, each limited in time and in bytes.
//! Whatever is not shown to be closed counts as open: an answer, an accepted connection, silence
//! after it. A refusal that the far end may have sent is `unsure`, and counts as open as well.
//!
//! What it sends can be recognised: its hosts begin with [`MARK`], and it is the `User-Agent` of its
//! requests.

mod dns;
mod fault;
mod hello;
mod local;
mod no_proxy;
mod proxy;
mod route;
mod trial;
mod verdict;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::task::JoinSet;

use crate::config::AdminAddress;
use crate::dial::TlsClients;
use crate::policy::{HTTPS, Name, Target};
use trial::{INSPECTOR, Trial, TrialTransport, Trusted};
use verdict::broken;

pub use crate::account::DOCTOR_STORAGE as STORAGE;
pub use proxy::{NoProxy, Proxy};
pub use verdict::{MARK, TestedWay, Verdict};

/// The tests.
#[derive(Debug, Clone)]
pub struct DoctorPlan {
    /// External addresses, which answer on the ports below.
    pub outside: Vec<IpAddr>,
    /// TCP ports of these, besides 443 and 53.
    pub ports: Vec<u16>,
    /// Further addresses that must be closed for TCP.
    pub closed: Vec<SocketAddr>,
    /// The system's DNS servers, which must resolve only hosts of the policy.
    pub system_resolvers: Vec<SocketAddr>,
    /// Other DNS servers.
    pub resolvers: Vec<SocketAddr>,
    /// DNS servers that only a gate on this machine may query: tested from every port.
    pub gate_resolvers: Vec<SocketAddr>,
    /// The metadata services of clouds.
    pub metadata: Vec<SocketAddr>,
    /// A host that is not in the policy.
    pub stranger: Name,
    /// A storage account.
    pub storage: Name,
    /// A DNS-over-HTTPS server.
    pub doh: Name,
    /// Hosts of the policy, which must work.
    pub allowed: Vec<Target>,
    /// Mirrors, which must work without a proxy.
    pub mirrors: Vec<Target>,
    /// Registries of the mirrors, which must not be reached past them.
    pub registries: Vec<Target>,
    /// The proxy of the clients; `None` if they use none.
    pub proxy: Option<Proxy>,
    /// The value of `NO_PROXY`; empty if it is not set.
    pub no_proxy: String,
    /// Whether `HTTP_PROXY` is set and `HTTPS_PROXY` is not.
    pub only_http_proxy: bool,
    /// Authorities that clients trust for hosts of the policy, beside the system's.
    pub authorities: Vec<CertificateDer<'static>>,
    /// The admin listener of the gate on this machine, which knows the routes of the allowed hosts.
    pub admin: Option<AdminAddress>,
    /// Timeout of each test.
    pub patience: Duration,
}

/// A test: what to try, how, and the remedy.
#[derive(Debug)]
struct Test {
    title: String,
    trial: Trial,
    remedy: String,
}

/// The rule that redirects port 443 to the gate.
const CAPTURE: &str = "tcp dport 443 redirect to :3129";

/// The remedy for an unknown issuer.
const EXEMPT: &str = "an exemption of the host, if a firewall intercepts TLS; otherwise SSL_CERT_FILE \
     with the registry's own authority";

/// The remedy for a gate whose parent proxy opens no tunnel.
const PARENT: &str = "a parent proxy that lets the gate reach it: pullgate probe on the gate's host \
     tries the same way";

/// What the code in a gate's answer begins with, if the fault is its parent's.
const OF_PARENT: &str = "[parent-";

/// The remedy for the authority of a gate.
const TRUST: &str = "the gate's authority in certs.d of the client: pullgate kit docker, podman or \
     containerd prints it; test it with --authority FILE";

/// Runs all tests.
pub async fn examine(plan: &DoctorPlan) -> Vec<TestedWay> {
    let mut ways = ways(plan);
    ways.extend(past_mirror(plan));
    ways.extend(works(plan));
    let mut trying = JoinSet::new();
    let clients = TlsClients::with_system_roots();
    let trusted = Arc::new(Trusted { clients, authorities: plan.authorities.clone() });
    for (number, way) in ways.into_iter().enumerate() {
        let (patience, trusted) = (plan.patience, trusted.clone());
        trying.spawn(async move {
            let Test { title, trial, remedy } = way;
            let (verdict, seen) = trial.run(patience, &trusted).await;
            let remedy = match verdict {
                Verdict::Untrusted if seen.contains(INSPECTOR) => Some(TRUST.to_owned()),
                Verdict::Untrusted => Some(EXEMPT.to_owned()),
                Verdict::Fails if seen.contains(OF_PARENT) => Some(PARENT.to_owned()),
                verdict => (!verdict.is_well()).then_some(remedy),
            };
            (number, TestedWay { way: title, verdict, seen, remedy })
        });
    }
    let mut found = Vec::new();
    while let Some(ended) = trying.join_next().await {
        found.push(ended.unwrap_or_else(|_| (usize::MAX, broken())));
    }
    found.sort_unstable_by_key(|(number, _)| *number);
    let mut findings: Vec<TestedWay> = found.into_iter().map(|(_, finding)| finding).collect();
    // The gate has queried its DNS servers by now.
    for server in &plan.gate_resolvers {
        findings.push(swept(*server, &plan.stranger).await);
    }
    // Its sessions have met the parents by now.
    if let Some(admin) = &plan.admin {
        findings.extend(route::routes(admin, &plan.allowed, plan.patience).await);
    }
    findings.extend(settings(plan));
    findings
}

/// Tests every source port with one DNS server of the gate.
async fn swept(server: SocketAddr, name: &Name) -> TestedWay {
    let name = name.clone();
    let tried = tokio::task::spawn_blocking(move || local::sweep(server, &name)).await;
    let Ok((verdict, seen)) = tried else { return broken() };
    TestedWay {
        way: format!("DNS at {server} from the ports of the gate"),
        verdict,
        seen,
        remedy: (!verdict.is_well()).then(|| {
            "ct state established ct mark $own tcp flags & syn == 0 accept, and meta skuid $gate \
             for UDP"
                .to_owned()
        }),
    }
}

/// Checks the proxy variables of the environment for exemptions.
fn settings(plan: &DoctorPlan) -> Vec<TestedWay> {
    let mut findings = Vec::new();
    if plan.only_http_proxy {
        findings.push(TestedWay {
            way: "a proxy for HTTPS".into(),
            verdict: Verdict::Skipped,
            seen: "HTTP_PROXY is set and HTTPS_PROXY is not: registries are asked over HTTPS, so \
                   clients use no proxy. If they should, set HTTPS_PROXY"
                .into(),
            remedy: None,
        });
    }
    if plan.proxy.is_none() {
        return findings;
    }
    let entry = |target| no_proxy::exempting(&plan.no_proxy, target);
    let through = plan.allowed.iter().find(|target| entry(target).is_none());
    for (target, entry) in plan.allowed.iter().filter_map(|one| Some((one, entry(one)?))) {
        let not_all = match through {
            Some(other) => format!(", but {other} through it: a pull needs both"),
            None => String::new(),
        };
        findings.push(TestedWay {
            way: format!("{target} by NO_PROXY"),
            verdict: Verdict::Fails,
            seen: format!("its entry {entry:?} sends clients past the proxy{not_all}"),
            remedy: Some(format!("NO_PROXY without {entry:?}")),
        });
    }
    findings
}

/// Returns the tests of what must be closed.
// long: one table, an entry per way out
fn ways(plan: &DoctorPlan) -> Vec<Test> {
    let mut ways = Vec::new();
    let mut add = |title: String, trial: Trial, remedy: String| {
        ways.push(Test { title, trial, remedy });
    };
    for ip in &plan.outside {
        let at = |port| SocketAddr::new(*ip, port);
        let hello = |name: &Name| Trial::Hello { to: at(HTTPS), name: Some(name.clone()) };
        add(
            format!("TCP 443 to {ip}, as {}", plan.stranger),
            hello(&plan.stranger),
            CAPTURE.into(),
        );
        add(
            format!("TCP 443 to {ip}, as the storage account {}", plan.storage),
            hello(&plan.storage),
            CAPTURE.into(),
        );
        add(
            format!("TCP 443 to {ip}, DNS over HTTPS as {}", plan.doh),
            hello(&plan.doh),
            CAPTURE.into(),
        );
        add(
            format!("TCP 443 to {ip}, without a name"),
            Trial::Hello { to: at(HTTPS), name: None },
            CAPTURE.into(),
        );
        for port in &plan.ports {
            add(
                format!("TCP {port} to {ip}"),
                Trial::Tcp(at(*port)),
                format!("tcp dport {port} drop"),
            );
        }
        add(format!("UDP 443 to {ip}, QUIC"), Trial::Quic(at(HTTPS)), "udp dport 443 drop".into());
        if let IpAddr::V6(ip) = ip {
            add(
                format!("{ip} as a source address of this machine"),
                Trial::ForgedSource(*ip),
                "ct direction original fib saddr type != local drop".into(),
            );
        }
    }
    for to in &plan.closed {
        let family = if to.is_ipv4() { "ip" } else { "ip6" };
        add(
            format!("TCP {} to {}", to.port(), to.ip()),
            Trial::Tcp(*to),
            format!("{family} daddr {} tcp dport {} drop", to.ip(), to.port()),
        );
    }
    for to in plan.system_resolvers.iter().chain(&plan.resolvers) {
        let family = if to.is_ipv4() { "ip" } else { "ip6" };
        for (word, transport) in [("UDP", TrialTransport::Udp), ("TCP", TrialTransport::Tcp)] {
            add(
                format!("DNS at {to} over {word}, for {}", plan.stranger),
                Trial::Dns { to: *to, transport, name: plan.stranger.clone() },
                format!(
                    "{family} daddr {} meta l4proto {{ tcp, udp }} th dport {} drop",
                    to.ip(),
                    to.port()
                ),
            );
        }
    }
    for to in &plan.metadata {
        let family = if to.is_ipv4() { "ip" } else { "ip6" };
        add(
            format!("the metadata address {}, TCP {}", to.ip(), to.port()),
            Trial::Tcp(*to),
            format!("{family} daddr {} drop", to.ip()),
        );
    }
    if let Some(proxy) = &plan.proxy {
        let policy = |host: &str| format!("a policy without it: pullgate explain {host}");
        for host in [&plan.storage, &plan.stranger] {
            let target = format!("{host}:{HTTPS}");
            let trial = Trial::Tunnel { proxy: proxy.clone(), target };
            add(format!("{host} through {proxy}"), trial, policy(host.as_str()));
        }
        for ip in &plan.outside {
            let target = SocketAddr::new(*ip, HTTPS).to_string();
            let trial = Trial::Tunnel { proxy: proxy.clone(), target };
            add(
                format!("the address {ip} through {proxy}"),
                trial,
                "a proxy that rejects IP addresses".into(),
            );
        }
        for target in &plan.allowed {
            let trial = Trial::OtherName {
                proxy: proxy.clone(),
                target: target.to_string(),
                name: plan.stranger.clone(),
            };
            let title = format!("{} as {target} through {proxy}", plan.stranger);
            add(title, trial, "a proxy that checks the name in the ClientHello".into());
        }
    }
    ways
}

/// Returns the tests of registries that must be reached through a mirror only.
fn past_mirror(plan: &DoctorPlan) -> Vec<Test> {
    let mut ways = Vec::new();
    for target in &plan.registries {
        let remedy = format!("tcp dport {} drop, or {CAPTURE} and tunnel = \"none\"", target.port);
        ways.push(Test {
            title: format!("the registry {target} past the mirror, at its address from DNS"),
            trial: Trial::ClosedByDns { target: target.clone() },
            remedy: remedy.clone(),
        });
        for ip in &plan.outside {
            let to = SocketAddr::new(*ip, target.port);
            ways.push(Test {
                title: format!("the registry {target} past the mirror, at {to}"),
                trial: Trial::Hello { to, name: Some(target.name.clone()) },
                remedy: remedy.clone(),
            });
        }
        if let Some(proxy) = &plan.proxy {
            let target = target.to_string();
            ways.push(Test {
                title: format!("the registry {target} past the mirror, through {proxy}"),
                trial: Trial::Tunnel { proxy: proxy.clone(), target },
                remedy: "tunnel = \"none\" or \"data\" in the registry's file".into(),
            });
        }
    }
    ways
}

/// Returns the tests of what must work: without them, `closed` proves nothing.
fn works(plan: &DoctorPlan) -> Vec<Test> {
    let mut ways = Vec::new();
    for target in &plan.mirrors {
        ways.push(Test {
            title: format!("the mirror {target}"),
            trial: Trial::WorksByDns { target: target.clone() },
            remedy: format!("a connection to the mirror's port {}", target.port),
        });
    }
    for target in &plan.allowed {
        if let Some(proxy) = &plan.proxy {
            ways.push(Test {
                title: format!("{target} through {proxy}"),
                trial: Trial::WorksThrough {
                    proxy: proxy.clone(),
                    target: target.to_string(),
                    name: target.name.clone(),
                },
                remedy: format!("a connection to the proxy's port; see pullgate explain {target}"),
            });
            continue;
        }
        for server in &plan.system_resolvers {
            ways.push(Test {
                title: format!("DNS at {server} for {}", target.name),
                trial: Trial::Asked { to: *server, name: target.name.clone() },
                remedy: format!(
                    "the answerer at {}, and a rule for it: meta l4proto {{ tcp, udp }} th dport {} accept",
                    server.ip(),
                    server.port()
                ),
            });
        }
        let captured = format!(
            "tcp dport {} redirect to :3129, a connection to the listener's port, and connections of \
             the gate to its DNS servers and {target}",
            target.port
        );
        ways.push(Test {
            title: format!("{target} at its address from DNS"),
            trial: Trial::WorksByDns { target: target.clone() },
            remedy: captured.clone(),
        });
        // The gate replaces the destination address.
        for ip in &plan.outside {
            let to = SocketAddr::new(*ip, target.port);
            ways.push(Test {
                title: format!("{target} at {to}, a foreign address"),
                trial: Trial::Works { to, name: target.name.clone() },
                remedy: captured.clone(),
            });
        }
    }
    ways
}

#[cfg(test)]
mod tests;
