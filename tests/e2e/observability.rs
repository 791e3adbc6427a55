//! The metrics that the Grafana dashboard and the Prometheus alerts use exist after some traffic.

use std::collections::BTreeSet;

use crate::harness::{Blobs, Lab, Policy, Way};

const LOOKED_AT: [&str; 2] = [
    include_str!("../../deploy/observability/alerts.yaml"),
    include_str!("../../deploy/observability/dashboard.json"),
];

#[test]
fn every_metric_that_is_looked_at_is_exported_by_a_gate_that_runs() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let mirror = "[[listen]]\nmode = \"mirror\"\naddress = \"127.0.0.1:5000\"\n";
    let gate = lab.gate(&Policy::of(&["contoso"]).with_more(mirror));
    let ask = |url: &str| lab.sh(Way::Through(&gate), &format!("curl -sS -o /dev/null {url}"));
    ask("https://contoso.azurecr.io/v2/").succeeded();
    ask("https://eusmanaged123.blob.core.windows.net/").failed();
    let unknown = "http://127.0.0.1:5000/v2/nobody.example.com/app/manifests/v1";
    lab.sh(Way::Direct, &format!("curl -sS -o /dev/null {unknown}")).succeeded();
    gate.audit_of_all();
    let (_, text) = gate.admin("/metrics");
    let exported: BTreeSet<&str> =
        text.lines().filter_map(|line| line.split([' ', '{']).next()).collect();
    let named = LOOKED_AT.iter().flat_map(|text| {
        text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
            .filter(|word| word.starts_with("pullgate_") || word.starts_with("process_"))
    });
    // `pullgate probe` writes those of the probe: tests/e2e/probe.rs.
    let named = named.filter(|name| !name.starts_with("pullgate_probe_"));
    let absent: BTreeSet<&str> = named.filter(|name| !exported.contains(name)).collect();
    assert!(absent.is_empty(), "{absent:?} of {exported:?}");
    assert_eq!(gate.metric("pullgate_storage_account_asks_by_one_client", &[]), 1.0);
    assert!(gate.metric("pullgate_open_sessions_limit", &[]) > 100.0);
}
