//! Pulls through the gate: the same bytes as without it, one audit line per tunnel, spliced.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::{
    Blobs, Gate, Image, Lab, Policy, Way, ctr_pull, podman_pull, sha256, skopeo_pull,
};

const REFERENCE: &str = "contoso.azurecr.io/app:1";
const SIZES: [usize; 4] = [4 << 20, 3 << 20, 1 << 20, 2000];

fn lab_with_image() -> (Lab, Image) {
    let lab = Lab::new(Blobs::DataEndpoint);
    let image = lab.push(REFERENCE, 1, &SIZES);
    (lab, image)
}

#[test]
fn skopeo_gets_the_same_bytes_as_without_the_gate() {
    let (lab, image) = lab_with_image();
    let gate = lab.gate(&Policy::of(&["contoso"]));
    let direct = skopeo_pull(&lab, Way::Direct, REFERENCE, "direct");
    assert_eq!(direct, skopeo_pull(&lab, Way::Through(&gate), REFERENCE, "gated"));
    assert!(direct.len() >= SIZES.len() + 2, "layers, config and manifest");
    assert_eq!(format!("sha256:{}", sha256(&direct["manifest.json"])), image.digest);
    assert_relayed(&gate, &image);
}

#[test]
fn podman_gets_the_layers_that_were_pushed() {
    let (lab, image) = lab_with_image();
    let gate = lab.gate(&Policy::of(&["contoso"]));
    podman_pull(&lab, Way::Through(&gate), REFERENCE, &image);
    assert_relayed(&gate, &image);
}

#[test]
fn containerd_gets_the_image() {
    let (lab, image) = lab_with_image();
    let gate = lab.gate(&Policy::of(&["contoso"]));
    ctr_pull(&lab, Way::Through(&gate), REFERENCE, &image);
    assert_relayed(&gate, &image);
}

#[test]
pub fn curl_follows_the_redirect_through_the_gate() {
    let (lab, image) = lab_with_image();
    let gate = lab.gate(&Policy::of(&["contoso"]));
    curl(&lab, Way::Through(&gate), &image);
    assert_relayed(&gate, &image);
}

#[test]
fn every_client_pulls_without_the_gate() {
    let (lab, image) = lab_with_image();
    podman_pull(&lab, Way::Direct, REFERENCE, &image);
    ctr_pull(&lab, Way::Direct, REFERENCE, &image);
    curl(&lab, Way::Direct, &image);
    let data = lab.asked("contoso.eastus.data.azurecr.io");
    assert!(image.layers.iter().all(|(digest, _)| data.contains(&digest[7..])), "{data}");
    assert_eq!(lab.reached_storage(), (0, 0));
}

/// Fetches a token, then each layer through its redirect.
fn curl(lab: &Lab, way: Way, image: &Image) {
    let scope = "service=contoso.azurecr.io&scope=repository:app:pull";
    let token = lab.sh(way, &format!("curl -sSf https://contoso.azurecr.io/oauth2/token?{scope}"));
    let token: Value = serde_json::from_str(&token.succeeded().stdout()).unwrap();
    let bearer = format!("Authorization: Bearer {}", token["access_token"].as_str().unwrap());
    for (digest, _) in &image.layers {
        let url = format!("https://contoso.azurecr.io/v2/app/blobs/{digest}");
        let line = ["curl", "-sSfL", "-H", &bearer, "-w", "%{stderr}%{num_redirects}", &url];
        let blob = lab.run(way, &line).succeeded();
        assert!(blob.stdout == image.blob(digest), "{digest} differs");
        assert!(blob.text.ends_with('1'), "the blob came by a redirect");
    }
}

/// Asserts that every tunnel has one line and succeeded, and that layers from the data endpoint
/// were spliced.
fn assert_relayed(gate: &Gate, image: &Image) {
    let lines = gate.audit_of_pulls();
    let ids: BTreeSet<&str> = lines.iter().map(|line| line["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), lines.len(), "one line for each session");
    for line in &lines {
        assert_eq!(line["outcome"], "relayed", "{line}");
        assert_eq!(line["registry"], "contoso", "{line}");
        let host = match line["endpoint"].as_str().unwrap() {
            "login" => "contoso.azurecr.io",
            "data" => "contoso.eastus.data.azurecr.io",
            other => panic!("{other}: {line}"),
        };
        assert_eq!(line["sni"], host, "{line}");
        assert!(line["target"].as_str().unwrap().starts_with(host), "{line}");
    }
    let all = gate.audit_of_all();
    let data = all.iter().filter(|line| line["endpoint"] == "data");
    let down: u64 = data.map(|line| line["bytes-down"].as_u64().unwrap()).sum();
    assert!(down as usize > image.size(), "{down} bytes of {}", image.size());
    let data = ["endpoint=\"data\"", "path=\"splice\""];
    let spliced = gate.metric("pullgate_relayed_bytes_total", &data);
    let share = spliced / image.size() as f64;
    assert!(share > 0.95, "only {share} of the layers were spliced");
}
