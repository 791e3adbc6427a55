//! Inspect mode: tunnels to the login server are decrypted with an authority that the clients trust for
//! this registry alone, and each request in them is judged; layers are spliced.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::Value;

use crate::harness::{
    Authority, Blobs, Certificate, Docker, Gate, IMPOSTOR, Image, Lab, Policy, Ran, Way,
    containerd, impostor,
};
use crate::reload::reloaded;

pub const SIZES: [usize; 4] = [4 << 20, 3 << 20, 1 << 20, 2000];
pub const LOGIN: &str = "contoso.azurecr.io";
pub const IMAGE: &str = "contoso.azurecr.io/team/app:v1";

/// A laboratory with an image at `contoso.azurecr.io/team/app:v1`.
pub fn lab(blobs: Blobs) -> (Lab, Image) {
    let lab = Lab::new(blobs);
    let image = lab.push(IMAGE, 1, &SIZES);
    (lab, image)
}

pub fn authority(lab: &Lab) -> PathBuf {
    lab.dir().join("inspect/ca.pem")
}

/// A policy that inspects contoso by these lines of `[inspect]`, with its authority.
pub fn policy(lab: &Lab, inspect: &str) -> Policy {
    let registry = format!(
        "login-server = \"{LOGIN}\"\ndata-endpoints = [\"contoso.eastus.data.azurecr.io\"]\n\
         ca = \"{}\"\n[inspect]\n{inspect}\n",
        lab.authority().display()
    );
    let table = format!(
        "[inspect]\nca = {{ certificate = \"{}\", key = \"{}\" }}\n",
        authority(lab).display(),
        authority(lab).with_extension("key").display()
    );
    let folder = lab.dir().join("operator");
    fs::create_dir_all(folder.join("registries.d")).unwrap();
    let main = format!("[[listen]]\nmode = \"connect\"\naddress = \"127.0.0.1:0\"\n{table}");
    fs::write(folder.join("pullgate.toml"), main).unwrap();
    fs::write(folder.join("registries.d/contoso.toml"), &registry).unwrap();
    if !authority(lab).exists() {
        ca(lab, "create").succeeded();
    }
    Policy::of(&[]).with_file("contoso.toml", &registry).with_more(&table)
}

/// Runs `pullgate ca` as the operator.
pub fn ca(lab: &Lab, act: &str) -> Ran {
    let config = lab.dir().join("operator/pullgate.toml");
    let program = env!("CARGO_BIN_EXE_pullgate");
    lab.sh(Way::Direct, &format!("{program} ca {act} --config {}", config.display()))
}

/// Has the clients trust the authority for the login server alone.
pub fn trust(lab: &Lab) -> PathBuf {
    let podman = Path::new("/etc/containers/certs.d").join(LOGIN);
    fs::create_dir_all(&podman).unwrap();
    fs::copy(authority(lab), podman.join("pullgate.crt")).unwrap();
    let hosts = lab.dir().join("certs.d");
    fs::create_dir_all(hosts.join(LOGIN)).unwrap();
    fs::write(
        hosts.join(LOGIN).join("hosts.toml"),
        format!("[host.\"https://{LOGIN}\"]\nca = \"{}\"\n", authority(lab).display()),
    )
    .unwrap();
    hosts
}

/// The audit lines of requests, once every session has ended.
pub fn requests(gate: &Gate) -> Vec<Value> {
    let lines = gate.audit_of_all();
    lines.into_iter().filter(|line| line["kind"] == "request").collect()
}

/// The requests that the login server has had since `before` lines.
pub fn asked_since(lab: &Lab, before: usize) -> Vec<String> {
    lab.asked(LOGIN).lines().skip(before).map(ToOwned::to_owned).collect()
}

pub fn asked(lab: &Lab) -> usize {
    lab.asked(LOGIN).lines().count()
}

/// curl that trusts the authority, for its own request alone.
pub fn curl(lab: &Lab, gate: &Gate, words: &[&str]) -> Ran {
    let authority = authority(lab);
    let start = ["curl", "-sS", "--cacert", authority.to_str().unwrap()];
    lab.run(Way::Through(gate), &[&start[..], words].concat())
}

/// A token for everything that is open to everybody, as a header.
pub fn bearer(lab: &Lab, gate: &Gate, scope: &str) -> String {
    token(lab, gate, &[], scope)
}

/// A token of the one who may push, as a header.
pub fn pusher(lab: &Lab, gate: &Gate, scope: &str) -> String {
    token(lab, gate, &["-u", "pusher:secret"], scope)
}

fn token(lab: &Lab, gate: &Gate, words: &[&str], scope: &str) -> String {
    let url = format!("https://{LOGIN}/oauth2/token?service={LOGIN}&scope={scope}");
    let ran = curl(lab, gate, &[words, &[&url]].concat()).succeeded();
    let token: Value = serde_json::from_str(&ran.stdout()).unwrap();
    format!("Authorization: Bearer {}", token["access_token"].as_str().unwrap())
}

#[test]
fn every_client_pulls_through_an_inspected_tunnel() {
    let (lab, image) = lab(Blobs::DataEndpoint);
    let gate = lab.gate(&policy(&lab, "pull = [\"team/**\"]\ntags = [\"v*\"]"));
    let hosts = trust(&lab);
    let through = |line: &str| lab.sh(Way::Through(&gate), line);
    let to = lab.dir().join("pulled");
    let copy = format!("skopeo copy --preserve-digests docker://{IMAGE} dir:{}", to.display());
    through(&copy).succeeded();
    for (digest, _) in &image.layers {
        let (_, hex) = digest.split_once(':').unwrap();
        assert!(fs::read(to.join(hex)).unwrap() == image.blob(digest), "{digest} differs");
    }
    through(&format!("podman pull --quiet {IMAGE}")).succeeded();
    let mounted = lab.sh(Way::Direct, &format!("podman image mount {IMAGE}")).succeeded();
    for (name, content) in &image.files {
        let pulled = fs::read(Path::new(&mounted.stdout()).join(name)).unwrap();
        assert!(pulled == *content, "{name} differs");
    }
    let (_containerd, ctr) = containerd(&lab);
    let pull = format!("{ctr} images pull --hosts-dir {} --snapshotter native", hosts.display());
    through(&format!("{pull} {IMAGE}")).succeeded();
    for (digest, _) in &image.layers {
        let blob = lab.sh(Way::Direct, &format!("{ctr} content get {digest}")).succeeded();
        assert!(blob.stdout == image.blob(digest), "{digest} differs");
    }
    let lines = gate.audit_of_pulls();
    let (requests, tunnels): (Vec<_>, Vec<_>) =
        lines.iter().partition(|line| line["kind"] == "request");
    assert!(requests.len() > 12, "{lines:?}");
    for line in &requests {
        assert_eq!(line["outcome"], "relayed", "{line}");
        assert_eq!(line["via"], "inspect", "{line}");
        assert_eq!(line["registry"], "contoso", "{line}");
        assert_eq!(line["upstream"], "127.0.1.1:443", "{line}");
    }
    assert!(requests.iter().any(|line| line["operation"] == "token"), "{lines:?}");
    let manifest = requests.iter().find(|line| line["reference"] == "v1").unwrap();
    assert_eq!(manifest["repository"], "team/app");
    for line in &tunnels {
        assert_eq!(line["outcome"], "relayed", "{line}");
        assert_eq!(line["inspected"] == true, line["endpoint"] == "login", "{line}");
    }
    // The layers are spliced, and came by the data endpoint.
    let data = ["endpoint=\"data\"", "path=\"splice\""];
    let spliced = gate.metric("pullgate_relayed_bytes_total", &data);
    assert!(spliced / image.size() as f64 > 2.85, "{spliced} bytes of {}", 3 * image.size());
}

#[test]
fn dockerd_pulls_through_an_inspected_tunnel() {
    let (lab, image) = lab(Blobs::DataEndpoint);
    let gate = lab.gate(&policy(&lab, "pull = [\"team/**\"]"));
    let folder = Path::new("/etc/docker/certs.d").join(LOGIN);
    fs::create_dir_all(&folder).unwrap();
    fs::copy(authority(&lab), folder.join("pullgate.crt")).unwrap();
    let docker = Docker::start(&lab, Way::Through(&gate), "https://gate.example.com:5443", &[]);
    docker.run(&format!("pull --quiet {IMAGE}")).succeeded();
    for (name, content) in &image.files {
        assert!(docker.file(IMAGE, name) == *content, "{name} differs");
    }
    let refused = docker.run("pull contoso.azurecr.io/secret/app:v1").failed();
    assert!(refused.text.contains("repository-not-allowed"), "{}", refused.text);
    let data = ["endpoint=\"data\"", "path=\"splice\""];
    assert!(gate.metric("pullgate_relayed_bytes_total", &data) > 0.95 * image.size() as f64);
}

#[test]
pub fn what_the_rules_do_not_allow_reaches_no_registry() {
    let (lab, image) = lab(Blobs::DataEndpoint);
    let gate = lab.gate(&policy(&lab, "pull = [\"team/**\"]\ntags = [\"v*\"]"));
    trust(&lab);
    let bearer = bearer(&lab, &gate, "repository:team/app:pull,push");
    let (before, other) = (asked(&lab), lab.asked("fabrikam.azurecr.io").lines().count());
    let digest = &image.digest;
    let mount = format!("/v2/team/app/blobs/uploads/?mount={digest}&from=team/app");
    let code = ["-o", "/dev/null", "-w", "%{http_code}"];
    for (words, path, status, reason) in [
        (&["-H", "Host: fabrikam.azurecr.io"][..], "/v2/", "421", "host-mismatch"),
        (&["-H", "Host: fabrikam.azurecr.io"], "/v2/x/manifests/v1", "421", "host-mismatch"),
        (&["-H", "Host: contoso.azurecr.io:80"], "/v2/", "421", "host-mismatch"),
        (&["--request-target", "https://fabrikam.azurecr.io/v2/"], "/", "400", "request-malformed"),
        (&[], "/v2/other/app/manifests/v1", "403", "repository-not-allowed"),
        (&[], "/v2/team/app/manifests/latest", "403", "tag-not-allowed"),
        (&[], "/v2/team/app/tags/list", "403", "listing-not-allowed"),
        (&[], "/v2/_catalog", "403", "listing-not-allowed"),
        (&["-X", "POST"], "/v2/team/app/blobs/uploads/", "405", "operation-not-allowed"),
        (&["-X", "POST"], &mount, "405", "operation-not-allowed"),
        (&["-X", "PUT", "-d", "{}"], "/v2/team/app/manifests/v1", "405", "operation-not-allowed"),
        (
            &["-X", "PATCH", "-d", "x"],
            "/v2/team/app/blobs/uploads/1",
            "405",
            "operation-not-allowed",
        ),
        (&["-X", "DELETE"], "/v2/team/app/manifests/v1", "405", "operation-not-allowed"),
        (&["-X", "OPTIONS"], "/v2/", "405", "operation-not-allowed"),
        (&["-X", "POST", "-d", "x=y"], "/oauth2/token", "400", "request-malformed"),
        (&[], "/oauth2/token?service=fabrikam.azurecr.io", "421", "host-mismatch"),
        (&[], "/oauth2/token?service=FABRIKAM.eastus.geo.azurecr.io", "421", "host-mismatch"),
        (
            &["-X", "POST", "-d", "grant_type=password&service=fabrikam.azurecr.io&username=a"],
            "/oauth2/token",
            "421",
            "host-mismatch",
        ),
        (
            &["-X", "POST", "-d", "grant_type=access_token&service=fabrikam.azurecr.io"],
            "/oauth2/exchange",
            "421",
            "host-mismatch",
        ),
        (&[], "/acr/v1/_catalog", "405", "operation-not-allowed"),
        (&[], "/", "405", "operation-not-allowed"),
        (&[], "/v3/", "405", "operation-not-allowed"),
        (&["--path-as-is"], "/v2/team/../other/app/manifests/v1", "400", "request-malformed"),
        (&[], "/v2/team%2fapp/manifests/v1", "400", "request-malformed"),
        (&[], "/v2/team/app/manifests/v1?x=y", "400", "request-malformed"),
        (&["-X", "GET", "-d", "x"], "/v2/", "400", "request-malformed"),
        (&["-H", "Upgrade: h2c", "-H", "Connection: Upgrade"], "/v2/", "400", "request-malformed"),
    ] {
        let url = format!("https://{LOGIN}{path}");
        let ran = curl(&lab, &gate, &[words, &["-H", &bearer, &url]].concat()).succeeded();
        assert!(ran.text.contains(&format!("[{reason} ")), "{path}: {}", ran.text);
        assert!(ran.text.contains("\"errors\"") && ran.text.contains("pullgate: "), "{}", ran.text);
        let ran = curl(&lab, &gate, &[words, &code, &["-H", &bearer, &url]].concat()).succeeded();
        assert_eq!(ran.stdout(), status, "{path}");
    }
    // The clients print the cause.
    for (line, reason) in [
        ("skopeo inspect docker://contoso.azurecr.io/other/app:v1", "repository-not-allowed"),
        ("podman pull --quiet contoso.azurecr.io/team/app:latest", "tag-not-allowed"),
    ] {
        let ran = lab.sh(Way::Through(&gate), line).failed();
        assert!(ran.text.contains(reason), "{}", ran.text);
    }
    let pushed =
        lab.run(Way::Through(&gate), &lab.pushing(&image, "contoso.azurecr.io/team/app:v2"));
    assert!(pushed.failed().text.contains("operation-not-allowed"));
    let reached: Vec<_> = asked_since(&lab, before)
        .into_iter()
        .filter(|line| !line.contains("GET /v2/ ") && !line.contains("/oauth2/token"))
        .filter(|line| !line.contains("\"HEAD /v2/team/app/blobs/"))
        .collect();
    assert!(reached.is_empty(), "{reached:?}");
    assert_eq!(lab.asked("fabrikam.azurecr.io").lines().count(), other);
    assert!(requests(&gate).iter().any(|line| line["reason"] == "host-mismatch"));
    assert!(gate.metric("pullgate_requests_total", &["outcome=\"denied\""]) > 45.0);
}

#[test]
fn a_look_before_a_push_does_not_lead_to_the_bytes() {
    let (lab, image) = lab(Blobs::DataEndpoint);
    let blob = format!("https://{LOGIN}/v2/team/app/blobs/{}", image.layers[0].0);
    for (pull, status) in [("base/**", "200"), ("team/**", "307")] {
        let rules = format!("pull = [\"{pull}\"]\npush = [\"team/app\"]");
        let gate = lab.gate(&policy(&lab, &rules));
        trust(&lab);
        let bearer = pusher(&lab, &gate, "repository:team/app:pull,push");
        let head = curl(&lab, &gate, &["-I", "-H", &bearer, &blob]).succeeded().stdout();
        assert!(head.contains(&format!("HTTP/1.1 {status}")), "{head}");
        assert_eq!(head.to_ascii_lowercase().contains("\nlocation:"), status == "307", "{head}");
        let length = format!("\r\ncontent-length: {}\r\n", image.layers[0].1);
        assert_eq!(head.to_ascii_lowercase().contains(&length), status == "200", "{head}");
        drop(gate);
    }
}

#[test]
fn pushes_go_where_the_rules_allow_them() {
    let (lab, image) = lab(Blobs::DataEndpoint);
    lab.push("contoso.azurecr.io/base/app:v1", 3, &[1 << 20]);
    let rules = "pull = [\"team/**\"]\npush = [\"team/app\"]\ntags = [\"v*\"]";
    let gate = lab.gate(&policy(&lab, rules));
    trust(&lab);
    // skopeo sends chunks, and looks for what is there.
    let fresh = Image::random(&lab.dir().join("fresh"), 2, &[8 << 20, 3 << 20, 0, 2000]);
    let push = |to: &str| lab.run(Way::Through(&gate), &lab.pushing(&fresh, to));
    push("contoso.azurecr.io/team/app:v2").succeeded();
    let to = lab.dir().join("pulled");
    let copy = "skopeo copy --preserve-digests docker://contoso.azurecr.io/team/app:v2";
    lab.sh(Way::Direct, &format!("{copy} dir:{}", to.display())).succeeded();
    for (digest, _) in &fresh.layers {
        let (_, hex) = digest.split_once(':').unwrap();
        assert!(fs::read(to.join(hex)).unwrap() == fresh.blob(digest), "{digest} differs");
    }
    for (to, reason) in [
        ("contoso.azurecr.io/team/other:v2", "repository-not-allowed"),
        ("contoso.azurecr.io/team/app:latest", "tag-not-allowed"),
    ] {
        let ran = push(to).failed();
        assert!(ran.text.contains(reason), "{}", ran.text);
    }
    let (digest, _) = &image.layers[0];
    let scopes = "repository:team/app:pull,push&scope=repository:base/app:pull";
    let bearer = pusher(&lab, &gate, scopes);
    let status = |words: &[&str], url: &str| {
        let code = ["-o", "/dev/null", "-w", "%{http_code}", "-H", &bearer];
        curl(&lab, &gate, &[&code[..], words, &[url]].concat()).succeeded().stdout()
    };
    let uploads = format!("https://{LOGIN}/v2/team/app/blobs/uploads/");
    let mount = |from: &str| format!("{uploads}?mount={digest}{from}");
    assert_eq!(status(&["-X", "POST"], &mount("&from=team/app")), "201");
    assert_eq!(status(&["-X", "POST"], &mount("&from=base/app")), "403");
    assert_eq!(status(&["-X", "POST"], &mount("")), "403");
    // One body, which waits to be asked for; the location of the upload is of the judged path.
    let blob = lab.dir().join("blob");
    fs::write(&blob, vec![7; 5 << 20]).unwrap();
    let begun = curl(&lab, &gate, &["-i", "-X", "POST", "-H", &bearer, &uploads]).succeeded();
    let location = begun.text.lines().find_map(|line| line.strip_prefix("location: ")).unwrap();
    assert!(location.starts_with("/v2/team/app/blobs/uploads/"), "{location}");
    let digest = format!("sha256%3A{}", crate::harness::sha256(&vec![7; 5 << 20]));
    let url = format!("https://{LOGIN}{location}&digest={digest}");
    let data = format!("@{}", blob.display());
    let words = [
        "-v",
        "-X",
        "PUT",
        "-H",
        "Expect: 100-continue",
        "-H",
        "Content-Type: application/octet-stream",
        "-H",
        &bearer,
        "--data-binary",
        &data,
        &url,
    ];
    let ran = curl(&lab, &gate, &words).succeeded();
    assert!(ran.text.contains("100 Continue") && ran.text.contains("201 Created"), "{}", ran.text);
    let lines = requests(&gate);
    let sent = lines.iter().filter(|line| line["outcome"] == "relayed");
    let sent: u64 = sent.map(|line| line["bytes-up"].as_u64().unwrap()).sum();
    assert!(sent as usize > fresh.size() + (5 << 20), "{sent}");
    let pushed = lines.iter().find(|line| line["operation"] == "put-manifest").unwrap();
    assert_eq!((&pushed["reference"], &pushed["status"]), (&"v2".into(), &201.into()), "{pushed}");
}

/// A storage account is all tenants': the redirect is refused, with the remedy.
#[test]
fn a_redirect_elsewhere_is_refused() {
    let (lab, image) = lab(Blobs::StorageAccount);
    let gate = lab.gate(&policy(&lab, ""));
    trust(&lab);
    let to = lab.dir().join("pulled");
    let ran =
        lab.sh(Way::Through(&gate), &format!("skopeo copy docker://{IMAGE} dir:{}", to.display()));
    assert!(ran.failed().text.contains("403"));
    let (digest, _) = &image.layers[0];
    let bearer = bearer(&lab, &gate, "repository:team/app:pull");
    let url = format!("https://{LOGIN}/v2/team/app/blobs/{digest}");
    let text = curl(&lab, &gate, &["-H", &bearer, &url]).succeeded().text;
    assert!(text.contains("eusmanaged123.blob.core.windows.net"), "{text}");
    assert!(text.contains("enable dedicated data endpoints"), "{text}");
    assert_eq!(lab.reached_storage(), (0, 0));
    gate.audited(&[("reason", "redirect-not-allowed"), ("via", "inspect")]);
}

#[test]
fn the_doctor_tells_missing_trust_from_a_missing_gate() {
    let (lab, _) = lab(Blobs::DataEndpoint);
    let gate = lab.gate(&policy(&lab, ""));
    let ping = format!("https://{LOGIN}/v2/");
    lab.run(Way::Through(&gate), &["curl", "-sS", &ping]).failed();
    gate.audited(&[("reason", "authority-not-trusted"), ("outcome", "failed")]);
    // skopeo has another TLS library.
    lab.sh(Way::Through(&gate), &format!("skopeo inspect docker://{IMAGE}")).failed();
    let line = format!(
        "openssl s_client -proxy 127.0.0.1:3128 -connect {LOGIN}:443 -servername {LOGIN} -alpn h2"
    );
    let ran = lab.sh(Way::Direct, &line).failed();
    assert!(ran.text.contains("no application protocol"), "{}", ran.text);
    let line = gate.audited(&[("reason", "protocol-not-allowed"), ("outcome", "denied")]);
    assert_eq!(line["inspected"], true, "{line}");
    let lines = gate.audit_of_all();
    let untrusted = lines.iter().filter(|line| line["reason"] == "authority-not-trusted").count();
    assert!(untrusted >= 2, "{lines:?}");
    assert!(lines.iter().all(|line| line["kind"] != "request"), "{lines:?}");
}

#[test]
pub fn a_server_with_a_wrong_certificate_gets_no_request() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let corp = Authority::new(&lab.dir().join("corp"), "Corp Inspection CA");
    let pki = Authority::new(&lab.dir().join("pki"), "Known CA");
    let name = "subjectAltName=DNS:contoso.azurecr.io";
    let mut policy = policy(&lab, "");
    let known = pki.pem().display().to_string();
    policy.registries[0].1 =
        policy.registries[0].1.replace(lab.authority().to_str().unwrap(), &known);
    let dns = format!("[dns.hosts]\n\"{LOGIN}\" = [\"{IMPOSTOR}\"]\n");
    let gate = lab.gate(&policy.with_dns(&dns));
    let times = ("20200101000000Z", "20200201000000Z");
    for (number, made, says) in [
        (1, corp.issue("unknown", name), "unknown authority"),
        (2, pki.issue_between("expired", name, times), "has expired"),
        (3, pki.issue("other", "subjectAltName=DNS:fabrikam.azurecr.io"), "another name"),
        (4, self_signed(&lab, name), "unknown authority"),
    ] {
        let server = impostor(&lab, &format!("impostor{number}"), &made, 200);
        let ran = curl(&lab, &gate, &["-i", &format!("https://{LOGIN}/v2/")]).succeeded();
        let issuer = match number {
            1 => "Corp Inspection CA",
            4 => "Own Certificate",
            _ => "Known CA",
        };
        assert!(ran.text.contains("502") && ran.text.contains("[upstream-tls "), "{}", ran.text);
        assert!(ran.text.contains(says) && ran.text.contains(issuer), "{}", ran.text);
        assert!(!server.log().contains("GET"), "{}", server.log());
    }
    gate.audited(&[("reason", "upstream-tls"), ("via", "inspect")]);
}

/// A certificate that nobody but itself has signed.
fn self_signed(lab: &Lab, name: &str) -> Certificate {
    let (key, certificate) = (lab.dir().join("own.key"), lab.dir().join("own.pem"));
    let script = format!(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 9 \
         -subj '/CN=Own Certificate' -addext {name} -addext basicConstraints=critical,CA:false \
         -keyout {} -out {}",
        key.display(),
        certificate.display()
    );
    lab.run(Way::Direct, &["sh", "-c", &script]).succeeded();
    Certificate { certificate, key }
}

#[test]
fn tunnels_of_every_listener_are_inspected() {
    let (lab, _) = lab(Blobs::DataEndpoint);
    let (certificate, key) = lab.server_certificate();
    let more = format!(
        "[[listen]]\nmode = \"transparent\"\naddress = \"127.0.0.1:8443\"\n\
         [[listen]]\nmode = \"connect\"\naddress = \"127.0.0.1:3129\"\n\
         tls = {{ certificate = \"{}\", key = \"{}\" }}\n",
        certificate.display(),
        key.display()
    );
    let gate = lab.gate(&policy(&lab, "").with_more(&more));
    let (authority, ping) = (authority(&lab), format!("https://{LOGIN}/v2/"));
    let start = ["curl", "-sS", "-i", "--cacert", authority.to_str().unwrap(), &ping];
    let to = format!("{LOGIN}:443:127.0.0.1:8443");
    let servers = lab.authority().to_str().unwrap();
    let tls = ["--proxy", "https://gate.example.com:3129", "--proxy-cacert", servers];
    let old = ["--tls-max", "1.2", "--connect-to", &to];
    // The guard reads an honest second ClientHello, too.
    let second = ["--curves", "secp521r1:X25519", "--connect-to", &to];
    for more in [&["--connect-to", &to][..], &tls, &old, &second] {
        let ran = lab.run(Way::Direct, &[&start[..], more].concat()).succeeded();
        assert!(ran.text.contains("401"), "{}", ran.text);
        assert!(ran.text.to_lowercase().contains("www-authenticate: bearer"), "{}", ran.text);
    }
    let lines = gate.audit_of_all();
    let inspected = lines.iter().filter(|line| line["inspected"] == true).count();
    assert_eq!((inspected, lines.len()), (4, 8), "{lines:?}");
}

#[test]
fn a_reload_ends_what_it_takes_away() {
    let (lab, _) = lab(Blobs::DataEndpoint);
    let gate = lab.gate(&policy(&lab, "pull = [\"team/**\"]"));
    // A client that keeps its connection.
    let ca = authority(&lab);
    let open = format!(
        "(printf 'GET /v2/ HTTP/1.1\\r\\nHost: {LOGIN}\\r\\n\\r\\n'; sleep 60) | openssl s_client -quiet \
         -CAfile {} -verify_return_error -proxy 127.0.0.1:3128 -connect {LOGIN}:443 -servername {LOGIN}",
        ca.display()
    );
    let mut client = lab.command(Way::Direct, &["sh", "-c", &open]).spawn().unwrap();
    gate.audited(&[("kind", "request"), ("operation", "ping")]);
    let file = gate.registries().join("contoso.toml");
    let text = fs::read_to_string(&file).unwrap();
    // Inspected no more: what was judged request by request is not to go on otherwise.
    let kept = text.split("[inspect]").next().unwrap().lines();
    let kept: Vec<&str> = kept.filter(|line| !line.starts_with("ca = ")).collect();
    let without = kept.join("\n");
    reloaded(&gate, || fs::write(&file, without).unwrap());
    let line = gate.audited(&[("reason", "policy-revoked")]);
    assert_eq!(line["inspected"], true, "{line}");
    client.kill().unwrap();
    client.wait().unwrap();
    let ping = format!("https://{LOGIN}/v2/");
    lab.run(Way::Through(&gate), &["curl", "-sS", &ping]).succeeded();
    assert!(gate.audit_of_all().last().unwrap()["inspected"].is_null());
}

/// What the authority's key could be used for, if it were stolen.
#[test]
fn no_client_believes_the_authority_about_another_name() {
    let lab = Lab::new(Blobs::DataEndpoint);
    drop(policy(&lab, ""));
    let stolen = lab.dir().join("stolen");
    fs::create_dir_all(&stolen).unwrap();
    let sign = |name: &str, names: &str| {
        let (ca, at) = (authority(&lab), stolen.display());
        fs::write(stolen.join("ext"), format!("subjectAltName={names}\n")).unwrap();
        let script = format!(
            "openssl ecparam -name prime256v1 -genkey -noout -out {at}/{name}.key && \
             openssl req -new -key {at}/{name}.key -subj /CN=x -out {at}/{name}.csr && \
             openssl x509 -req -in {at}/{name}.csr -CA {} -CAkey {} -days 9 -extfile {at}/ext \
             -out {at}/{name}.pem",
            ca.display(),
            ca.with_extension("key").display()
        );
        lab.run(Way::Direct, &["sh", "-c", &script]).succeeded();
        Certificate {
            certificate: stolen.join(format!("{name}.pem")),
            key: stolen.join(format!("{name}.key")),
        }
    };
    let hosts = fs::read_to_string("/etc/hosts").unwrap();
    for (number, host, names, expected) in [
        (1, LOGIN, "DNS:contoso.azurecr.io", true),
        (2, "fabrikam.azurecr.io", "DNS:fabrikam.azurecr.io", false),
        (3, "fabrikam.azurecr.io", "DNS:contoso.azurecr.io,DNS:fabrikam.azurecr.io", false),
        (4, "fabrikam.azurecr.io", "DNS:*.azurecr.io", false),
        (5, IMPOSTOR, "IP:127.0.1.97", false),
    ] {
        let made = sign(&format!("leaf{number}"), names);
        let line = format!("{IMPOSTOR} {host}\n{hosts}");
        fs::write(lab.dir().join("hosts"), line).unwrap();
        let _server = impostor(&lab, &format!("thief{number}"), &made, 200);
        believed(&lab, host, &made, expected);
    }
}

/// Asks OpenSSL, Go, GnuTLS and rustls whether they believe a server at `IMPOSTOR`.
#[track_caller]
fn believed(lab: &Lab, host: &str, made: &Certificate, expected: bool) {
    let ca = authority(lab);
    let path = ca.to_str().unwrap();
    let verify = if host == IMPOSTOR { "-verify_ip" } else { "-verify_hostname" };
    let connect = format!("{IMPOSTOR}:443");
    let openssl = [
        "openssl",
        "s_client",
        "-connect",
        &connect,
        "-CAfile",
        path,
        verify,
        host,
        "-verify_return_error",
    ];
    assert_eq!(lab.run(Way::Direct, &openssl).status.success(), expected, "OpenSSL, {host}");
    let gnutls = ["gnutls-cli", "--x509cafile", path, "--port", "443", host];
    assert_eq!(lab.run(Way::Direct, &gnutls).status.success(), expected, "GnuTLS, {host}");
    // Everything that skopeo then misses is no fault of TLS.
    let folder = Path::new("/etc/containers/certs.d").join(host);
    fs::create_dir_all(&folder).unwrap();
    fs::copy(&ca, folder.join("ca.crt")).unwrap();
    let ran = lab.sh(Way::Direct, &format!("skopeo inspect docker://{host}/x:1")).failed();
    assert_eq!(!ran.text.contains("x509: "), expected, "Go, {host}: {}", ran.text);
    let pem = |path: &Path| CertificateDer::from_pem_file(path).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(pem(&ca)).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let leaf = pem(&made.certificate);
    let verified =
        verifier.build().unwrap().verify_server_cert(&leaf, &[], &name, &[], UnixTime::now());
    assert_eq!(verified.is_ok(), expected, "rustls, {host}: {verified:?}");
}

#[test]
fn the_authority_is_made_renewed_and_shown() {
    let (lab, _) = lab(Blobs::DataEndpoint);
    let policy = policy(&lab, "");
    let key = authority(&lab).with_extension("key");
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let again = ca(&lab, "create").failed();
    assert!(again.text.contains("pullgate ca renew"), "{}", again.text);
    let shown = ca(&lab, "show").succeeded().stdout();
    assert!(shown.contains("permits:     contoso.azurecr.io\n"), "{shown}");
    assert!(shown.contains("in 90 days") || shown.contains("in 89 days"), "{shown}");
    let old = lab.dir().join("old.pem");
    fs::copy(authority(&lab), &old).unwrap();
    ca(&lab, "renew").succeeded();
    assert_eq!(ca(&lab, "show").succeeded().stdout().matches("permits: ").count(), 2);
    // Whether a client has the old certificate or the new one, it believes the gate.
    let gate = lab.gate(&policy);
    let ping = format!("https://{LOGIN}/v2/");
    for trusted in [&old, &authority(&lab)] {
        let line = ["curl", "-sS", "--cacert", trusted.to_str().unwrap(), &ping];
        lab.run(Way::Through(&gate), &line).succeeded();
    }
    assert!(gate.metric("pullgate_certificate_expiry_seconds", &["inspect/ca.pem"]) > 1e9);
    // Its key is secret, and its constraints are those of the policy.
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let config = lab.dir().join("gate/pullgate.toml");
    let program = env!("CARGO_BIN_EXE_pullgate");
    let check = format!("{program} check --config {}", config.display());
    let text = lab.sh(Way::Direct, &check).failed().text;
    assert!(text.contains("every user of this machine can read the key"), "{text}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let file = gate.registries().join("contoso.toml");
    let other = fs::read_to_string(&file).unwrap().replace("contoso", "fabrikam");
    fs::write(&file, other).unwrap();
    let text = lab.sh(Way::Direct, &check).failed().text;
    assert!(
        text.contains("do not permit fabrikam.azurecr.io") && text.contains("ca renew"),
        "{text}"
    );
}

/// `hosts = "all"`: layers are read by the gate, too, and nothing but reading is possible there.
#[test]
fn data_endpoints_are_inspected_where_the_file_says_so() {
    let (lab, image) = lab(Blobs::DataEndpoint);
    let gate = lab.gate(&policy(&lab, "hosts = \"all\""));
    trust(&lab);
    let data = Path::new("/etc/containers/certs.d/contoso.eastus.data.azurecr.io");
    fs::create_dir_all(data).unwrap();
    fs::copy(authority(&lab), data.join("pullgate.crt")).unwrap();
    let bearer = bearer(&lab, &gate, "repository:team/app:pull");
    let (digest, _) = &image.layers[0];
    let url = format!("https://{LOGIN}/v2/team/app/blobs/{digest}");
    let blob = curl(&lab, &gate, &["-L", "-H", &bearer, &url]).succeeded();
    assert!(blob.stdout == image.blob(digest));
    fs::create_dir_all(lab.served("contoso").join("sync")).unwrap();
    let sync = "https://contoso.eastus.data.azurecr.io/sync/secret";
    for words in [&["-X", "PUT", "-d", "secret", sync][..], &["-X", "POST", sync]] {
        let ran = curl(&lab, &gate, words).succeeded();
        assert!(ran.text.contains("[operation-not-allowed "), "{}", ran.text);
    }
    assert!(!lab.served("contoso").join("sync/secret").exists());
    let lines = requests(&gate);
    let stored = lines.iter().find(|line| line["operation"] == "stored").unwrap();
    assert_eq!(stored["bytes-down"], image.blob(digest).len(), "{stored}");
    let spliced = gate.metric("pullgate_relayed_bytes_total", &["path=\"splice\""]);
    assert_eq!(spliced, 0.0);
}

#[test]
fn azures_lists_are_read_where_the_file_says_so() {
    let (lab, _) = lab(Blobs::DataEndpoint);
    let gate = lab.gate(&policy(&lab, "pull = [\"team/**\"]\nacr-api = true"));
    let before = asked(&lab);
    for (path, reason) in [
        ("/acr/v1/team/app", None),
        ("/acr/v1/other/app", Some("repository-not-allowed")),
        ("/acr/v1/team/app/_tags", Some("listing-not-allowed")),
    ] {
        let ran = curl(&lab, &gate, &["-i", &format!("https://{LOGIN}{path}")]).succeeded();
        match reason {
            // docker-registry does not know it.
            None => assert!(ran.text.contains(" 404 "), "{}", ran.text),
            Some(reason) => assert!(ran.text.contains(reason), "{}", ran.text),
        }
    }
    assert_eq!(asked_since(&lab, before).len(), 1);
}

#[test]
fn commands_know_what_is_inspected() {
    let (lab, _) = lab(Blobs::DataEndpoint);
    let gate = lab.gate(&policy(&lab, "pull = [\"team/**\"]\npush = [\"team/app\"]"));
    let config = lab.dir().join("gate/pullgate.toml");
    let run = |words: &str| {
        let program = env!("CARGO_BIN_EXE_pullgate");
        lab.sh(Way::Direct, &format!("{program} {words} --config {}", config.display()))
    };
    let checked = run("check").succeeded().stdout();
    let says = "inspect: contoso.azurecr.io; pull: team/**; push: team/app; tags: all";
    assert!(checked.contains(says), "{checked}");
    let explained = run(&format!("explain {IMAGE}")).succeeded().stdout();
    assert!(explained.contains("in the inspected tunnel: allowed"), "{explained}");
    let explained = run("explain contoso.azurecr.io/other/app:v1").failed().text;
    assert!(explained.contains("repository-not-allowed"), "{explained}");
    assert!(run("explain contoso").succeeded().stdout().contains("inspected: contoso.azurecr.io"));
    // What `kit` prints is all that a client needs.
    for kind in ["docker", "podman", "containerd", "iotedge"] {
        let script = run(&format!("kit {kind}")).succeeded().stdout();
        assert!(script.contains("certs.d/contoso.azurecr.io/pullgate.crt"), "{script}");
        let file = lab.dir().join(format!("{kind}.sh"));
        fs::write(
            &file,
            script
                .replace("/etc/docker", "/etc/containers/docker")
                .replace("/etc/containerd", "/etc/containers/containerd"),
        )
        .unwrap();
        lab.sh(Way::Direct, &format!("sh {}", file.display())).succeeded();
    }
    lab.sh(Way::Through(&gate), &format!("podman pull --quiet {IMAGE}")).succeeded();
    let (_containerd, ctr) = containerd(&lab);
    let pull = format!("{ctr} images pull --hosts-dir /etc/containers/containerd/certs.d");
    lab.sh(Way::Through(&gate), &format!("{pull} --snapshotter native {IMAGE}")).succeeded();
    // A client that lacks the authority is distinguished from one that does not reach the gate.
    let program = env!("CARGO_BIN_EXE_pullgate");
    let doctor = |more: &str| {
        let allowed =
            "--allowed contoso.azurecr.io --outside 127.0.9.9 --ports 22 --timeout-ms 2000";
        lab.sh(Way::Direct, &format!("{program} doctor {allowed} {more}")).text
    };
    let proxy = format!("--proxy {}", gate.proxy());
    let lacks = doctor(&proxy);
    assert!(lacks.contains("the gate inspects it"), "{lacks}");
    assert!(lacks.contains("the gate's authority in certs.d"), "{lacks}");
    let has = doctor(&format!("{proxy} --authority {}", authority(&lab).display()));
    assert!(has.contains("its certificate is by pullgate inspect"), "{has}");
    let away = doctor("--proxy http://127.0.0.1:3999");
    assert!(!away.contains("inspects") && away.contains("FAILS"), "{away}");
}

/// What the rules would deny passes and is recorded; another tenant's request never does.
#[test]
fn report_mode_records_what_the_rules_would_deny() {
    let (lab, _) = lab(Blobs::DataEndpoint);
    lab.push("contoso.azurecr.io/other/app:v1", 2, &[2000]);
    let rules = "pull = [\"team/**\"]";
    let gate = lab.gate(&policy(&lab, rules).with_policy("enforcement = \"report\""));
    trust(&lab);
    let inspect = "skopeo inspect docker://contoso.azurecr.io/other/app:v1 --no-tags";
    lab.sh(Way::Through(&gate), inspect).succeeded();
    let url = format!("https://{LOGIN}/v2/");
    let ran = curl(&lab, &gate, &["-H", "Host: fabrikam.azurecr.io", &url]).succeeded();
    assert!(ran.text.contains("[host-mismatch "), "{}", ran.text);
    let lines = requests(&gate);
    let line = lines.iter().find(|line| line["repository"] == "other/app").unwrap();
    assert_eq!(line["outcome"], "would-deny", "{line}");
    assert_eq!(line["reason"], "repository-not-allowed", "{line}");
    let program = env!("CARGO_BIN_EXE_pullgate");
    let report = format!("{program} report {}", gate.audit_file().display());
    let text = lab.sh(Way::Direct, &report).succeeded().stdout();
    assert!(text.contains("other/app"), "{text}");
}
