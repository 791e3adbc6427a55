//! The settings of `docs/parent.md`, as they are written there: Squid with a password, and a second
//! gate. `kerberos` has the third, `behind_parent` the fourth.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::harness::{
    Authority, Blobs, Certificate, Gate, Lab, Policy, Way, connect_through, every_client_pulls,
    second_gate, squid,
};
use crate::parent::REFERENCE;

const GATE: &str = "127.0.0.1:3128";
const SQUID: &str = "127.0.0.8:3128";

/// The code blocks of a section of the page, in their order.
fn blocks(section: &str) -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/parent.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once(&format!("\n## {section}\n")).unwrap();
    let section = rest.split("\n## ").next().unwrap();
    let blocks = section.split("```").skip(1).step_by(2);
    blocks.map(|block| block.split_once('\n').unwrap().1.to_owned()).collect()
}

/// Starts a gate with the `[policy]` line and the tables behind it of a block.
fn gate(lab: &Lab, names: Policy, block: &str) -> Gate {
    let (_, rest) = block.split_once("[policy]\n").unwrap();
    let (policy, parent) = rest.split_once("\n\n").unwrap();
    lab.gate(&names.with_policy(policy).with_more(parent))
}

fn run(lab: &Lab, script: &str) {
    let file = lab.dir().join("script.sh");
    fs::write(&file, script).unwrap();
    lab.sh(Way::Direct, &format!("sh -eu {}", file.display())).succeeded();
}

#[test]
fn squid_with_a_password_as_in_the_manual() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let image = lab.push(REFERENCE, 1, &[2 << 20, 2000]);
    let blocks = blocks("Squid with a password");
    let [users, rules, secret, settings] = &blocks[..] else { panic!("{blocks:?}") };
    let here = |text: &str| text.replace("/etc/squid/users", "/run/squid.users");
    run(&lab, &here(users));
    let _squid = squid(&lab, SQUID, &here(rules));
    let folder = lab.dir().join("gate");
    fs::create_dir_all(&folder).unwrap();
    let secret = secret.replace("/etc/pullgate", folder.to_str().unwrap());
    run(&lab, &secret.replace("-g pullgate", "-g root"));
    let settings = settings.replace("10.0.0.8:3128", SQUID);
    let gate = gate(&lab, Policy::of(&["contoso"]), &settings);
    every_client_pulls(&lab, Way::Through(&gate), REFERENCE, &image);
    let lines = gate.audit_of_pulls();
    assert!(lines.iter().all(|line| line["parent"] == "corp"), "{lines:?}");
    // Nobody else may use it, and nothing else is allowed.
    for (target, fields, code) in [
        ("contoso.azurecr.io:443", "", "407"),
        (
            "other.example.com:443",
            "Proxy-Authorization: Basic cHVsbGdhdGU6YS1sb25nLXBhc3N3b3Jk\r\n",
            "403",
        ),
    ] {
        let (_, line) = connect_through(SQUID, target, fields);
        assert!(line.contains(&format!(" {code} ")), "{target}: {line}");
    }
}

/// Puts a certificate and its key where the settings name them.
fn place(dir: &Path, name: &str, made: &Certificate) -> (PathBuf, PathBuf) {
    fs::create_dir_all(dir.join("tls")).unwrap();
    let (pem, key) = (dir.join(format!("tls/{name}.pem")), dir.join(format!("tls/{name}.key")));
    fs::copy(&made.certificate, &pem).unwrap();
    fs::copy(&made.key, &key).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    (pem, key)
}

#[test]
fn two_gates_with_client_certificates_as_in_the_manual() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let image = lab.push(REFERENCE, 1, &[2 << 20, 2000]);
    let blocks = blocks("A second gate as the parent");
    let [perimeter, edge] = &blocks[..] else { panic!("{blocks:?}") };
    let servers = Authority::new(&lab.dir().join("servers"), "Perimeter");
    let edges = Authority::new(&lab.dir().join("edges"), "Edges");
    let name = "gate.perimeter.example";
    let server = servers.issue(name, &format!("subjectAltName=DNS:{name}"));
    let own = edges.issue("edge", "extendedKeyUsage=clientAuth\nsubjectAltName=DNS:edge.example");
    let at = "0.0.0.0:3129";
    let (here, there) = (lab.dir().join("gate"), lab.dir().join("gate-127.0.0.1-3129"));
    place(&there, "gate", &server);
    fs::copy(edges.pem(), there.join("tls/edges.pem")).unwrap();
    place(&here, "edge", &own);
    fs::copy(servers.pem(), here.join("perimeter-ca.pem")).unwrap();
    let perimeter = format!(
        "{}\n[addresses]\nallow = [\"127.0.0.0/8\"]\n[dns.hosts]\n\
         \"contoso.azurecr.io\" = \"127.0.1.1\"\n\
         \"contoso.eastus.data.azurecr.io\" = \"127.0.1.2\"\n",
        perimeter.replace(at, "127.0.0.1:3129")
    );
    let _perimeter = second_gate(&lab, "127.0.0.1:3129", &perimeter);
    let names = Policy::of(&["contoso"]);
    let pinned = format!("{}\"{name}\" = \"127.0.0.1\"\n", names.dns);
    let gate = gate(&lab, names.with_dns(&pinned), edge);
    every_client_pulls(&lab, Way::Through(&gate), REFERENCE, &image);
    let lines = gate.audit_of_pulls();
    assert!(lines.iter().all(|line| line["parent"] == "perimeter"), "{lines:?}");
    let (_, line) = connect_through(GATE, "other.example.com:443", "");
    assert!(line.starts_with("HTTP/1.1 403 "), "{line}");
}
