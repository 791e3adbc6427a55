//! The routes of the gate on this machine, as its admin listener shows them: directly, or through
//! which parent proxy, and why that opens no tunnel.
//!
//! A client cannot see the route, and an ordinary user of the gate's host may not reach the parent.
//! The gate knows how its last session fared there.

use std::time::Duration;

use serde::Deserialize;

use super::verdict::{TestedWay, Verdict, broken};
use crate::config::AdminAddress;
use crate::policy::{Cause, Target};
use crate::tools::health;

/// Maximum size of the answer, in bytes: a policy of many registries is large.
const LARGEST: usize = 32 << 20;

/// What is read of `/policy`.
#[derive(Debug, Deserialize)]
struct RunningPolicy {
    registries: Vec<RunningRegistry>,
    #[serde(default)]
    parents: Vec<RunningParent>,
}

#[derive(Debug, Deserialize)]
struct RunningRegistry {
    endpoints: Vec<RunningHost>,
    parent: Option<String>,
}

#[derive(Debug, Deserialize)]
struct RunningHost {
    host: String,
}

#[derive(Debug, Deserialize)]
struct RunningParent {
    name: String,
    addresses: Vec<String>,
    connect: String,
    up: bool,
    trouble: Option<Trouble>,
}

#[derive(Debug, Deserialize)]
struct Trouble {
    reason: String,
    detail: String,
    target: String,
}

/// Asks the gate for the routes of these hosts.
pub(super) async fn routes(
    admin: &AdminAddress,
    targets: &[Target],
    timeout: Duration,
) -> Vec<TestedWay> {
    let address = admin.clone();
    let asked =
        tokio::task::spawn_blocking(move || health::ask(&address, "/policy", timeout, LARGEST));
    let Ok(answer) = asked.await else { return vec![broken()] };
    let policy = answer.map_err(|error| error.to_string()).and_then(|answer| match answer.well {
        true => serde_json::from_str(&answer.text).map_err(|error| error.to_string()),
        false => Err(answer.text.trim().to_owned()),
    });
    match policy {
        Ok(policy) => targets.iter().map(|target| route(&policy, target)).collect(),
        Err(error) => vec![TestedWay {
            way: format!("the routes of the gate, from its admin listener {admin}"),
            verdict: Verdict::Fails,
            seen: error,
            remedy: Some("the [admin] address of the gate on this machine".into()),
        }],
    }
}

/// The route of a host.
fn route(policy: &RunningPolicy, target: &Target) -> TestedWay {
    let text = target.to_string();
    let has_host = |one: &&RunningRegistry| one.endpoints.iter().any(|one| one.host == text);
    let (verdict, seen, remedy) = match policy.registries.iter().find(has_host) {
        None => {
            let remedy = format!("a policy with it: pullgate explain {target}");
            (Verdict::Fails, "no registry of the gate's policy has it".to_owned(), Some(remedy))
        }
        Some(RunningRegistry { parent: None, .. }) => (Verdict::Works, "directly".to_owned(), None),
        Some(RunningRegistry { parent: Some(name), .. }) => {
            match policy.parents.iter().find(|parent| parent.name == *name) {
                Some(parent) => through(parent, &text),
                None => (Verdict::Fails, format!("through parent {name}, which is unknown"), None),
            }
        }
    };
    TestedWay { way: format!("the gate's route to {target}"), verdict, seen, remedy }
}

/// What is known of a parent, for one host.
fn through(parent: &RunningParent, target: &str) -> (Verdict, String, Option<String>) {
    let RunningParent { name, addresses, connect, up, trouble } = parent;
    let at = addresses.join(", ");
    let how = format!("through parent {name} at {at}, asked by {connect}");
    // A refusal concerns the host that was asked for, every other trouble the whole parent.
    let concerns =
        |one: &&Trouble| one.reason != Cause::ParentRefused.code() || one.target == target;
    match trouble.as_ref().filter(concerns) {
        Some(Trouble { reason, detail, .. }) => {
            let remedy = Cause::from_code(reason).map_or("a working parent", remedy);
            (Verdict::Fails, format!("{how}: {detail} [{reason}]"), Some(remedy.to_owned()))
        }
        None if *up => (Verdict::Works, format!("{how}: no failure is known"), None),
        None => {
            let remedy = remedy(Cause::ParentUnreachable).to_owned();
            (Verdict::Fails, format!("{how}: no address can be reached"), Some(remedy))
        }
    }
}

/// What a failure at a parent needs.
fn remedy(cause: Cause) -> &'static str {
    match cause {
        Cause::ParentAuth => "credentials that the parent accepts",
        Cause::ParentRefused => "a rule of the parent for the host, or what its log says",
        Cause::ParentMalformed => {
            "the port of an HTTP proxy in addresses, and tls if it speaks TLS"
        }
        _ => "a parent that listens there, and a firewall that lets the gate reach it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_route_has_its_verdict() {
        let json = |up: bool, trouble: &str| {
            format!(
                r#"{{"generation":1,
                "registries":[
                {{"name":"a","endpoints":[{{"host":"contoso.azurecr.io:443"}}],"parent":"corp"}},
                {{"name":"b","endpoints":[{{"host":"fabrikam.azurecr.io:443"}}]}}],
                "parents":[{{"name":"corp","addresses":["10.0.0.8:8080","p.example:80"],
                "connect":"name","up":{up}{trouble}}}]}}"#
            )
        };
        let trouble = |reason: &str, target: &str| {
            format!(r#","trouble":{{"reason":"{reason}","detail":"x y","target":"{target}"}}"#)
        };
        let shown = |json: &str, host: &str| {
            let policy: RunningPolicy = serde_json::from_str(json).unwrap();
            route(&policy, &crate::policy::parse_host(host).unwrap()).to_string()
        };
        let contoso = "contoso.azurecr.io:443";
        let how = "through parent corp at 10.0.0.8:8080, p.example:80, asked by name";
        for (up, trouble, expected) in [
            (
                true,
                String::new(),
                format!("works   the gate's route to {contoso}: {how}: no failure is known"),
            ),
            (
                false,
                String::new(),
                format!(
                    "FAILS   the gate's route to {contoso}: {how}: no address can be reached; it needs: a parent that listens"
                ),
            ),
            (
                true,
                trouble("parent-auth", "other.example:443"),
                format!(
                    "FAILS   the gate's route to {contoso}: {how}: x y [parent-auth]; it needs: credentials"
                ),
            ),
            (
                true,
                trouble("parent-refused", contoso),
                format!(
                    "FAILS   the gate's route to {contoso}: {how}: x y [parent-refused]; it needs: a rule"
                ),
            ),
            (
                true,
                trouble("parent-refused", "other.example:443"),
                format!("works   the gate's route to {contoso}: {how}"),
            ),
        ] {
            let line = shown(&json(up, &trouble), "contoso.azurecr.io");
            assert!(line.starts_with(&expected), "{line}");
        }
        let direct = "works   the gate's route to fabrikam.azurecr.io:443: directly";
        assert_eq!(shown(&json(true, ""), "fabrikam.azurecr.io"), direct);
        assert!(shown(&json(true, ""), "other.example.com").starts_with("FAILS   the gate's"));
    }
}
