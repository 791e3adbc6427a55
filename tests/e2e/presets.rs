//! A registry moves its blob host: what the gate says, and what a newer date of a preset admits.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Authority, Blobs, Daemon, Gate, Lab, Policy, Ran, Way, address};
use crate::reload::reloaded;

const OLD: &str = "preset = \"docker-hub\"\npreset-date = \"2026-01-01\"\n";
const NEW: &str = "preset = \"docker-hub\"\npreset-date = \"2026-06-08\"\n";
const MOVED: &str = "production.cloudfront.docker.com";
const LEFT: &str = "production.cloudflare.docker.com";

fn pullgate(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_pullgate")).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), text + &String::from_utf8_lossy(&output.stderr))
}

/// A registry whose blobs lie on another host. A file says where it redirects to.
const HUB: &str = r#"
import http.server, json, pathlib, ssl, sys
digest = "sha256:" + "0" * 64
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, status, fields, body):
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        if self.path == "/v2/":
            self.answer(200, {}, b"{}")
        elif self.path.startswith("/v2/library/app/manifests/"):
            layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": 5}
            self.answer(200, {}, json.dumps({"schemaVersion": 2, "layers": [layer]}).encode())
        elif self.path.startswith("/v2/library/app/blobs/"):
            host = pathlib.Path(sys.argv[4]).read_text()
            self.answer(307, {"Location": "https://" + host + "/layer?sig=secret"}, b"")
        else:
            self.answer(200, {}, b"layer")
server = http.server.ThreadingHTTPServer((sys.argv[1], 443), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2], sys.argv[3])
server.socket = context.wrap_socket(
    server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
"#;

/// The addresses of the registry with its old blob host, and of the new one.
const HUB_ADDRESS: &str = "127.0.1.60";
const MOVED_ADDRESS: &str = "127.0.1.61";

/// Every host of the preset at either date.
const HOSTS: [(&str, &str); 5] = [
    ("registry-1.docker.io", HUB_ADDRESS),
    ("auth.docker.io", HUB_ADDRESS),
    (LEFT, HUB_ADDRESS),
    ("docker-images-prod.6aa30f8b08e16409b46e0173d6de2f56.r2.cloudflarestorage.com", HUB_ADDRESS),
    (MOVED, MOVED_ADDRESS),
];

struct Hub<'a> {
    lab: &'a Lab,
    /// Where the registry redirects to.
    place: PathBuf,
    authority: Authority,
    /// The registry, and its new blob host.
    servers: [Daemon; 2],
}

impl<'a> Hub<'a> {
    fn new(lab: &'a Lab) -> Self {
        let place = lab.dir().join("blob-host");
        fs::write(&place, LEFT).unwrap();
        let authority = Authority::new(&lab.dir().join("hub"), "Hub CA");
        let names = HOSTS.map(|(host, _)| format!("DNS:{host}")).join(",");
        let made = authority.issue("hub", &format!("subjectAltName={names}"));
        let (certificate, key) = (made.certificate.to_str().unwrap(), made.key.to_str().unwrap());
        let servers = [("hub", HUB_ADDRESS), ("moved", MOVED_ADDRESS)].map(|(name, at)| {
            let line = ["python3", "-c", HUB, at, certificate, key, place.to_str().unwrap()];
            lab.daemon(name, &line).accepts(address(&format!("{at}:443")))
        });
        Self { lab, place, authority, servers }
    }

    fn policy(&self) -> Policy {
        let entries = HOSTS.map(|(host, at)| format!("\"{host}\" = [\"{at}\"]\n")).concat();
        Policy::of(&[])
            .with_file("hub.toml", &self.file(OLD))
            .with_policy("verify-upstream = true")
            .with_dns(&format!("[dns.hosts]\n{entries}"))
    }

    fn file(&self, preset: &str) -> String {
        format!("{preset}ca = \"{}\"\n", self.authority.pem().display())
    }

    /// Pulls a layer as a client does, by the registry's redirect.
    fn pull(&self, gate: &Gate) -> Ran {
        let url = "https://registry-1.docker.io/v2/library/app/blobs/sha256:00";
        let ca = self.authority.pem();
        self.lab.sh(Way::Through(gate), &format!("curl -sSLv --cacert {} {url}", ca.display()))
    }

    fn probe(&self, config: &str) -> (bool, Value) {
        let program = env!("CARGO_BIN_EXE_pullgate");
        let line = format!("{program} probe hub library/app:v1 --json --config {config}");
        let ran = self.lab.sh(Way::Direct, &line);
        let report = serde_json::from_slice(&ran.stdout);
        (ran.status.success(), report.unwrap_or_else(|error| panic!("{error}: {}", ran.text)))
    }
}

#[test]
fn a_blob_host_that_moves_is_admitted_by_a_newer_date_and_not_before() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let hub = Hub::new(&lab);
    let gate = lab.gate(&hub.policy());
    let config = lab.dir().join("gate/pullgate.toml");
    let config = config.to_str().unwrap();
    let pulled = hub.pull(&gate).succeeded();
    assert_eq!(pulled.stdout, b"layer");
    let (well, report) = hub.probe(config);
    assert!(well, "{report:#}");

    // The registry moves.
    fs::write(&hub.place, MOVED).unwrap();
    let denied = hub.pull(&gate).failed();
    let phrase = format!("{MOVED} is not in the policy; in preset docker-hub since 2026-05-20");
    assert!(denied.text.contains(&phrase), "{}", denied.text);
    let line = gate.audited(&[("target", &format!("{MOVED}:443"))]);
    assert_eq!(line["reason"], "host-not-allowed");
    let (well, report) = hub.probe(config);
    assert!(!well, "{report:#}");
    let blob = report["steps"].as_array().unwrap().last().unwrap();
    assert_eq!(blob["cause"], "host-not-allowed", "{report:#}");
    assert_eq!(blob["seen"], format!("redirects to {MOVED}"), "{report:#}");
    let remedy = blob["remedy"].as_str().unwrap();
    assert!(remedy.starts_with("in preset docker-hub since 2026-05-20"), "{remedy}");
    assert!(remedy.contains("set preset-date to 2026-05-20 or later"), "{remedy}");
    assert!(!report.to_string().contains("sig="), "{report:#}");
    let (code, checked) = pullgate(&["check", "--config", config]);
    assert_eq!(code, Some(0), "{checked}");
    assert!(checked.contains(MOVED) && checked.contains("pullgate preset diff"), "{checked}");
    let (_, changed) = pullgate(&["preset", "diff", "docker-hub", "2026-01-01", "2026-06-08"]);
    assert!(changed.contains(&format!("+ {MOVED}")) && changed.contains(&format!("- {LEFT}")));
    let [_, moved] = &hub.servers;
    assert!(!moved.log().contains("GET"), "{}", moved.log());

    // The operator accepts the newer date.
    let new = hub.file(NEW);
    reloaded(&gate, || fs::write(gate.registries().join("hub.toml"), new).unwrap());
    let pulled = hub.pull(&gate).succeeded();
    assert_eq!(pulled.stdout, b"layer");
    assert!(moved.log().contains("GET /layer"), "{}", moved.log());
    let (well, report) = hub.probe(config);
    assert!(well, "{report:#}");
    let left = lab.sh(Way::Through(&gate), &format!("curl -sv https://{LEFT}/")).failed();
    assert!(left.text.contains("left preset docker-hub on 2026-06-08"), "{}", left.text);
    let (_, explained) = pullgate(&["explain", MOVED, "--config", config]);
    assert!(explained.contains("docker-hub of 2026-06-08"), "{explained}");
}

#[test]
fn preset_lists_shows_and_rejects() {
    let (code, listed) = pullgate(&["preset", "list", "--json"]);
    assert_eq!(code, Some(0));
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let names = listed.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap());
    for name in names {
        let (code, shown) = pullgate(&["preset", "show", name]);
        assert!(code == Some(0) && shown.contains(&format!("preset = {name:?}")), "{shown}");
    }
    for wrong in [
        &["preset", "show", "dockerhub"][..],
        &["preset", "show", "quay", "--date", "2099-01-01"],
        &["preset", "diff", "quay", "yesterday"],
    ] {
        assert_eq!(pullgate(wrong).0, Some(1), "{wrong:?}");
    }
}

#[test]
fn import_compares_a_file_with_what_az_printed() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let printed = r#"{"loginServer": "contoso.azurecr.io", "dataEndpoints": [
        {"region": "eastus", "endpoint": "contoso.eastus.data.azurecr.io"},
        {"region": "westus", "endpoint": "contoso.westus.data.azurecr.io"}]}"#;
    let utf_16 = std::iter::once(0xfeff).chain(printed.encode_utf16());
    let printed = write("printed.json", &utf_16.flat_map(u16::to_le_bytes).collect::<Vec<_>>());
    let login = "login-server = \"contoso.azurecr.io\"\n";
    for (data, code, words) in [
        (
            "[\"contoso.eastus.data.azurecr.io\", \"contoso.westus.data.azurecr.io\"]",
            0,
            ["every endpoint", ""],
        ),
        ("\"every-region\"", 0, ["every endpoint", ""]),
        (
            "[\"contoso.eastus.data.azurecr.io\", \"contoso.eastus2.data.azurecr.io\"]",
            1,
            [
                "lacking: contoso.westus.data.azurecr.io:443",
                "surplus: contoso.eastus2.data.azurecr.io:443",
            ],
        ),
        ("[\"fabrikam.eastus.data.azurecr.io\"]", 1, ["another label", ""]),
    ] {
        let file = write("contoso.toml", format!("{login}data-endpoints = {data}\n").as_bytes());
        let (status, said) = pullgate(&["import", &printed, "--compare", &file]);
        assert_eq!(status, Some(code), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
}
