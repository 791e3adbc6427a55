//! Who the mirror's clients are: certificates, users, and the limits that hold for them.

use std::fs;

use crate::harness::{Authority, Blobs, Lab, Policy, Way, wait_until};
use crate::mirror::{MIRROR, curl, file};
use crate::reload::reloaded;

#[test]
fn a_client_is_known_by_its_certificate_until_that_is_revoked() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let image = lab.push("contoso.azurecr.io/team/app:v1", 1, &[48 << 20]);
    let authority = Authority::new(&lab.dir().join("authority"), "clients");
    let revocations = lab.dir().join("clients.crl");
    fs::write(&revocations, authority.revocations()).unwrap();
    let agent = "extendedKeyUsage=clientAuth\nsubjectAltName=DNS:agent-1.ci.contoso.com";
    let agent = authority.issue("agent", agent);
    let (certificate, key) = lab.server_certificate();
    let listener = format!(
        "[[listen]]\nmode = \"mirror\"\naddress = \"127.0.0.1:5443\"\n\
         tls = {{ certificate = \"{}\", key = \"{}\", client-ca = \"{}\", client-crls = \"{}\" }}\n\
         [[client]]\nname = \"build-agents\"\ncertificate-names = [\"agent-1.ci.contoso.com\"]\n",
        certificate.display(),
        key.display(),
        authority.pem().display(),
        revocations.display()
    );
    let file = file(&lab, "clients = [\"build-agents\"]", "blobs = \"relay\"");
    let gate = lab.gate(&Policy::of(&[]).with_file("contoso.toml", &file).with_more(&listener));
    let proof = format!("--cert {} --key {}", agent.certificate.display(), agent.key.display());

    let manifest = format!("https://{MIRROR}/v2/contoso.azurecr.io/team/app/manifests/v1");
    curl(&lab, &format!("-f -o /dev/null {proof} {manifest}")).succeeded();
    let line = gate.audited(&[("kind", "request"), ("outcome", "relayed")]);
    assert_eq!(line["client-name"], "build-agents");
    curl(&lab, &manifest).failed();
    gate.audited(&[("reason", "certificate-rejected")]);
    // A client that speaks HTTP is told what this port speaks.
    let clear = curl(&lab, &format!("-i http://{MIRROR}/v2/"));
    assert!(clear.text.contains("this port speaks TLS"), "{}", clear.text);

    let (digest, _) = &image.layers[0];
    let to = lab.dir().join("blob");
    let blob = format!("https://{MIRROR}/v2/contoso.azurecr.io/team/app/blobs/{digest}");
    let line = format!("curl -sS --limit-rate 1M -o {} {proof} {blob}", to.display());
    let line: Vec<&str> = line.split_whitespace().collect();
    let mut pull = lab.command(Way::Direct, &line).spawn().unwrap();
    wait_until("the blob streams", || {
        fs::metadata(&to).is_ok_and(|file| file.len() > 1 << 18).then_some(())
    });
    authority.revoke(&agent);
    reloaded(&gate, || fs::write(&revocations, authority.revocations()).unwrap());
    assert!(!wait_until("the pull ends", || pull.try_wait().unwrap()).success());
    gate.audited(&[("reason", "policy-revoked"), ("client-name", "build-agents")]);
}
