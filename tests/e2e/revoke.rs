//! Removing a registry from the policy closes its live tunnels, and no others.

use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

use crate::harness::{Blobs, Lab, Policy, Way, wait_until};

#[test]
pub fn a_streaming_pull_ends_when_its_registry_is_removed() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let gate = lab.gate(&Policy::of(&["contoso", "fabrikam"]));
    for (label, size) in [("contoso", 1 << 30), ("fabrikam", 96 << 20)] {
        File::create(lab.served(label).join("layer")).unwrap().set_len(size).unwrap();
    }
    let start = |label: &str| {
        let file = lab.dir().join(format!("{label}.out"));
        let url = format!("https://{label}.eastus.data.azurecr.io/layer");
        let line =
            ["curl", "-sS", "--limit-rate", "24M", "-o", file.to_str().unwrap(), url.as_str()];
        (lab.command(Way::Through(&gate), &line).spawn().unwrap(), file)
    };
    let size = |file: &Path| fs::metadata(file).map_or(0, |metadata| metadata.len());
    let (mut revoked, revoked_file) = start("contoso");
    let (mut spared, spared_file) = start("fabrikam");
    wait_until("both layers stream", || {
        (size(&revoked_file) > 1 << 20 && size(&spared_file) > 1 << 20).then_some(())
    });

    fs::remove_file(gate.registries().join("contoso.json")).unwrap();
    let removed = Instant::now();
    let status = wait_until("the revoked pull ends", || revoked.try_wait().unwrap());
    let took = removed.elapsed();
    println!("the tunnel ended {took:?} after its registry was removed");
    assert!(!status.success());
    let line = gate.audited(&[("reason", "policy-revoked")]);
    assert_eq!(line["registry"], "contoso", "{line}");
    assert!(size(&revoked_file) < 1 << 30);

    assert!(spared.try_wait().unwrap().is_none(), "the other registry's pull goes on");
    assert!(wait_until("the other pull ends", || spared.try_wait().unwrap()).success());
    assert_eq!(size(&spared_file), 96 << 20);
    let line = gate.audited(&[("registry", "fabrikam")]);
    assert_eq!(line["outcome"], "relayed", "{line}");
    let refused = lab.sh(Way::Through(&gate), "curl -sv https://contoso.azurecr.io/v2/").failed();
    assert!(refused.text.contains("other-registry"), "{}", refused.text);
}
