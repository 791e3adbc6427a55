//! `pullgate probe` names what is wrong on the way to a registry.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::Value;

use crate::harness::{
    Authority, Blobs, Certificate, IMPOSTOR, Lab, Policy, Way, impostor, squid, write_config,
};

fn metrics_file(lab: &Lab) -> PathBuf {
    lab.dir().join("probe.prom")
}

/// Probes contoso. Returns the report.
fn probe(lab: &Lab, policy: &Policy, image: &str) -> (bool, Value) {
    let config = write_config(&lab.dir().join("probed"), policy);
    let program = env!("CARGO_BIN_EXE_pullgate");
    let line = format!(
        "{program} probe contoso {image} --client docker --timeout-ms 5000 --json --metrics {} \
         --config {}",
        metrics_file(lab).display(),
        config.display()
    );
    let ran = lab.sh(Way::Direct, &line);
    let report = serde_json::from_slice(&ran.stdout);
    (ran.status.success(), report.unwrap_or_else(|error| panic!("{error}: {}", ran.text)))
}

/// Fails unless the probe finds this fault and its remedy has this word.
#[track_caller]
fn finds(lab: &Lab, policy: &Policy, image: &str, (step, cause, word): (&str, &str, &str)) {
    let (well, report) = probe(lab, policy, image);
    assert!(!well, "{report:#}");
    let steps = report["steps"].as_array().unwrap();
    let fault = steps.iter().find(|one| one["step"] == step && one["cause"] == cause);
    let fault = fault.unwrap_or_else(|| panic!("no {step} {cause} in {report:#}"));
    assert!(fault.to_string().contains(word), "{fault:#}");
}

/// The registry's names, contoso's login server at other addresses.
fn with_login_at(addresses: &str) -> Policy {
    Policy::of(&["contoso"]).with_dns(&format!(
        "[dns.hosts]\n\"contoso.azurecr.io\" = [{addresses}]\n\
         \"contoso.eastus.data.azurecr.io\" = [\"127.0.1.2\"]\n"
    ))
}

fn elsewhere() -> Policy {
    with_login_at(&format!("\"{IMPOSTOR}\""))
}

/// Issue 18: the probe takes the route of the policy, and finds the twelfth fault of issue 21.
#[test]
fn the_probe_goes_through_the_parent_and_names_its_refusal() {
    let lab = Lab::new(Blobs::DataEndpoint);
    lab.push("contoso.azurecr.io/team/app:v1", 1, &[2000]);
    for connect in ["name", "address"] {
        let parent = format!(
            "[[parent]]\nname = \"corp\"\naddresses = [\"127.0.0.1:8080\"]\nconnect = \"{connect}\"\n"
        );
        let policy = Policy::of(&["contoso"]).with_policy("parent = \"corp\"").with_more(&parent);
        let finds = |fault| {
            finds(&lab, &policy, "team/app:v1", fault);
            fs::remove_dir_all(lab.dir().join("probed")).unwrap();
        };
        finds(("parent", "parent-unreachable", "[[parent]]"));
        let denying = squid(&lab, "127.0.0.1:8080", "http_access deny all");
        finds(("parent", "parent-refused", "ask its operator"));
        drop(denying);
        let allowing = squid(&lab, "127.0.0.1:8080", "http_access allow all");
        let (well, report) = probe(&lab, &policy, "team/app:v1");
        assert!(well, "{connect}: {report:#}");
        assert!(report.to_string().contains("through parent corp"), "{report:#}");
        fs::remove_dir_all(lab.dir().join("probed")).unwrap();
        drop(allowing);
    }
}

#[test]
fn a_registry_that_works_has_no_fault() {
    let lab = Lab::new(Blobs::DataEndpoint);
    lab.push("contoso.azurecr.io/team/app:v1", 1, &[2000]);
    let (well, report) = probe(&lab, &Policy::of(&["contoso"]), "team/app:v1");
    assert!(well, "{report:#}");
    let steps = report["steps"].as_array().unwrap();
    for step in ["dns", "tcp", "tls", "api", "token", "manifest", "blob"] {
        assert!(steps.iter().any(|one| one["step"] == step), "{step} in {report:#}");
    }
    let blob = steps.last().unwrap();
    assert_eq!(blob["seen"], "redirects to contoso.eastus.data.azurecr.io", "{blob:#}");
    let metrics = fs::read_to_string(metrics_file(&lab)).unwrap();
    assert!(metrics.contains("pullgate_probe_success{registry=\"contoso\"} 1"), "{metrics}");
}

#[test]
fn faults_of_the_way() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let wrong_zone = ("addresses", "address-not-allowed", "private DNS zone");
    finds(&lab, &with_login_at("\"10.1.0.4\""), "", wrong_zone);
    finds(&lab, &elsewhere(), "", ("tcp", "connect-refused", "firewall"));
    let both = with_login_at("\"2001:db8::97\", \"127.0.1.1\"");
    finds(&lab, &both, "", ("tcp", "ipv6-black-hole", "IPv6"));
}

#[test]
fn faults_of_certificates() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let authority = Authority::new(&lab.dir().join("corp"), "Corp Inspection CA");
    let name = "subjectAltName=DNS:contoso.azurecr.io";
    let between = |label, times| authority.issue_between(label, name, times);
    let cases = [
        (
            "old",
            between("old", ("20200101000000Z", "20210101000000Z")),
            "certificate-expired",
            "clock",
        ),
        (
            "early",
            between("early", ("20990101000000Z", "20991231000000Z")),
            "clock-behind",
            "clock",
        ),
        ("other", authority.issue("contoso", name), "upstream-certificate", "Corp Inspection CA"),
    ];
    for (label, made, cause, word) in cases {
        let server = impostor(&lab, label, &made, 200);
        finds(&lab, &elsewhere(), "", ("tls", cause, word));
        drop(server);
    }
}

#[test]
fn faults_of_the_registry() {
    let lab = Lab::new(Blobs::DataEndpoint);
    lab.push("contoso.azurecr.io/team/app:v1", 1, &[2000]);
    lab.push("contoso.azurecr.io/private/app:v1", 2, &[2000]);
    let policy = Policy::of(&["contoso"]);
    let anonymous = ("manifest", "anonymous-pull-off", "credentials-file");
    finds(&lab, &policy, "private/app:v1", anonymous);
    finds(&lab, &policy, "team/none:v1", ("manifest", "no-such-image", "tag"));
    // The registry has a replica that the policy lacks.
    let file = "login-server = \"contoso.azurecr.io\"\n\
                data-endpoints = [\"contoso.westus.data.azurecr.io\"]\n";
    let replica = Policy::of(&[]).with_file("contoso.toml", file).with_dns(
        "[dns.hosts]\n\"contoso.azurecr.io\" = [\"127.0.1.1\"]\n\
         \"contoso.westus.data.azurecr.io\" = [\"127.0.1.2\"]\n",
    );
    fs::remove_dir_all(lab.dir().join("probed")).unwrap();
    finds(&lab, &replica, "team/app:v1", ("blob", "host-not-allowed", "replica"));
    let metrics = fs::read_to_string(metrics_file(&lab)).unwrap();
    let fault =
        "pullgate_probe_faults{cause=\"host-not-allowed\",registry=\"contoso\",step=\"blob\"} 1";
    assert!(metrics.contains(fault), "{metrics}");
    fs::remove_dir_all(lab.dir().join("probed")).unwrap();
    let (certificate, key) = lab.server_certificate();
    let made = Certificate { certificate: certificate.to_owned(), key: key.to_owned() };
    let _limited = impostor(&lab, "limited", &made, 429);
    finds(&lab, &elsewhere(), "", ("api", "rate-limited", "limits"));
}

#[test]
fn credentials_that_the_registry_rejects() {
    let lab = Lab::new(Blobs::DataEndpoint);
    lab.push("contoso.azurecr.io/private/app:v1", 1, &[2000]);
    let file = "login-server = \"contoso.azurecr.io\"\n\
                data-endpoints = [\"contoso.eastus.data.azurecr.io\"]\nclients = \"everyone\"\n\
                [mirror]\ncredentials-file = \"contoso.secret\"\n";
    let policy = Policy::of(&[]).with_file("contoso.toml", file).with_dns(
        "[dns.hosts]\n\"contoso.azurecr.io\" = [\"127.0.1.1\"]\n\
         \"contoso.eastus.data.azurecr.io\" = [\"127.0.1.2\"]\n",
    );
    let secret = lab.dir().join("probed/registries.d/contoso.secret");
    fs::create_dir_all(secret.parent().unwrap()).unwrap();
    fs::write(&secret, "pusher:guess\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let rejected = ("manifest", "wrong-credentials", "renew");
    finds(&lab, &policy, "private/app:v1", rejected);
    fs::write(&secret, "pusher:secret\n").unwrap();
    let (well, report) = probe(&lab, &policy, "private/app:v1");
    assert!(well, "{report:#}");
}

#[test]
fn data_endpoints_that_are_off_are_printed_as_docker_would() {
    let lab = Lab::new(Blobs::StorageAccount);
    lab.push("contoso.azurecr.io/team/app:v1", 1, &[2000]);
    let policy = Policy::of(&["contoso"]);
    finds(&lab, &policy, "team/app:v1", ("blob", "storage-account", "data-endpoint-enabled"));
    let (_, report) = probe(&lab, &policy, "team/app:v1");
    let docker = report["docker-prints"].as_str().unwrap();
    assert!(
        docker.contains("eusmanaged123.blob.core.windows.net is a storage account"),
        "{docker}"
    );
}
