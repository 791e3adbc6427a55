//! The mirror: clients pull from the gate as from a registry, without a proxy setting and without
//! any secret; what the rules do not allow never reaches a registry.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::Value;

use crate::harness::{
    Blobs, Gate, Image, Lab, PATIENCE, Policy, Ran, Way, containerd, relayed_or_aborted, wait_until,
};
use crate::reload::reloaded;

const SIZES: [usize; 4] = [4 << 20, 3 << 20, 1 << 20, 2000];

/// The mirror in TLS, and one in clear text on loopback.
pub(crate) const MIRROR: &str = "gate.example.com:5443";
pub(crate) const CLEAR: &str = "127.0.0.1:5080";

/// A registry's file with a `[mirror]` table of these lines.
pub(crate) fn file(lab: &Lab, top: &str, mirror: &str) -> String {
    format!(
        "login-server = \"contoso.azurecr.io\"\n\
         data-endpoints = [\"contoso.eastus.data.azurecr.io\"]\nca = \"{}\"\n{top}\n[mirror]\n{mirror}\n",
        lab.authority().display()
    )
}

pub(crate) fn policy(lab: &Lab, top: &str, mirror: &str) -> Policy {
    let (certificate, key) = lab.server_certificate();
    let listeners = format!(
        "[[listen]]\nmode = \"mirror\"\naddress = \"127.0.0.1:5443\"\n\
         tls = {{ certificate = \"{}\", key = \"{}\" }}\n\
         [[listen]]\nmode = \"mirror\"\naddress = \"{CLEAR}\"\n",
        certificate.display(),
        key.display()
    );
    Policy::of(&[]).with_file("contoso.toml", &file(lab, top, mirror)).with_more(&listeners)
}

/// A laboratory with an image at `contoso.azurecr.io/team/app:v1`.
pub(crate) fn lab(blobs: Blobs) -> (Lab, Image) {
    let lab = Lab::new(blobs);
    let image = lab.push("contoso.azurecr.io/team/app:v1", 1, &SIZES);
    (lab, image)
}

/// The requests that contoso's login server has had since `before` lines.
pub(crate) fn asked_since(lab: &Lab, before: usize) -> Vec<String> {
    let log = lab.asked("contoso.azurecr.io");
    log.lines().skip(before).map(ToOwned::to_owned).collect()
}

pub(crate) fn asked(lab: &Lab) -> usize {
    lab.asked("contoso.azurecr.io").lines().count()
}

/// The audit lines of requests, once every session has ended.
pub(crate) fn requests(gate: &Gate) -> Vec<Value> {
    let lines = gate.audit_of_all();
    lines.into_iter().filter(|line| line["kind"] == "request").collect()
}

/// docker-registry wants it for manifests of the OCI form.
pub(crate) const ACCEPT: &str = "Accept:application/vnd.oci.image.manifest.v1+json";

pub(crate) fn curl(lab: &Lab, arguments: &str) -> Ran {
    lab.sh(Way::Direct, &format!("curl -sS --noproxy * -H {ACCEPT} {arguments}"))
}

/// Pulls with skopeo, podman and ctr, and compares every byte.
pub fn pull_with_every_client(lab: &Lab, way: Way, image: &Image) {
    let env = ["env", "NO_PROXY=gate.example.com", "no_proxy=gate.example.com"];
    let run = |line: &str| {
        lab.run(way, &env.into_iter().chain(line.split_whitespace()).collect::<Vec<_>>())
    };
    let to = lab.dir().join("pulled");
    let from = format!("docker://{MIRROR}/contoso.azurecr.io/team/app:v1");
    run(&format!("skopeo copy --preserve-digests {from} dir:{}", to.display())).succeeded();
    for (digest, _) in &image.layers {
        let (_, hex) = digest.split_once(':').unwrap();
        assert!(fs::read(to.join(hex)).unwrap() == image.blob(digest), "{digest} differs");
    }
    fs::write(
        "/etc/containers/registries.conf",
        format!(
            "[[registry]]\nprefix = \"contoso.azurecr.io\"\n\
             location = \"{MIRROR}/contoso.azurecr.io\"\n"
        ),
    )
    .unwrap();
    let reference = "contoso.azurecr.io/team/app:v1";
    run(&format!("podman pull --quiet {reference}")).succeeded();
    let saved = lab.dir().join("saved");
    let save = format!("podman save --quiet --format docker-dir --output {}", saved.display());
    lab.sh(Way::Direct, &format!("{save} {reference}")).succeeded();
    for (digest, _) in &image.layers {
        let (_, hex) = digest.split_once(':').unwrap();
        let layer = fs::read(saved.join(hex)).unwrap();
        assert!(layer == image.blob(digest), "{digest} differs");
    }
    let (_containerd, ctr) = containerd(lab);
    run(&format!("{} {reference}", ctr_pull(lab, &ctr))).succeeded();
    for (digest, _) in &image.layers {
        let blob = lab.sh(Way::Direct, &format!("{ctr} content get {digest}")).succeeded();
        assert!(blob.stdout == image.blob(digest), "{digest} differs");
    }
}

/// The start of a command line by which containerd pulls from the mirror only.
fn ctr_pull(lab: &Lab, ctr: &str) -> String {
    let hosts = lab.dir().join("certs.d");
    fs::create_dir_all(hosts.join("contoso.azurecr.io")).unwrap();
    fs::write(
        hosts.join("contoso.azurecr.io/hosts.toml"),
        format!(
            "server = \"https://{MIRROR}\"\n[host.\"https://{MIRROR}\"]\n\
             capabilities = [\"pull\", \"resolve\"]\n"
        ),
    )
    .unwrap();
    format!("{ctr} images pull --hosts-dir {} --snapshotter native", hosts.display())
}

#[test]
fn every_client_pulls_by_relay() {
    let (lab, image) = lab(Blobs::DataEndpoint);
    let gate = lab.gate(&policy(&lab, "tunnel = \"none\"", "blobs = \"relay\""));
    pull_with_every_client(&lab, Way::Direct, &image);
    let lines = requests(&gate);
    assert!(lines.len() > 12, "{lines:?}");
    assert!(lines.iter().all(relayed_or_aborted), "{lines:?}");
    let blobs = lines.iter().filter(|line| line["operation"] == "blob" && line["method"] == "GET");
    let down: u64 = blobs.map(|line| line["bytes-down"].as_u64().unwrap()).sum();
    assert!(down as usize >= 3 * image.size(), "{down}");
    let manifest = lines.iter().find(|line| line["reference"] == "v1").unwrap();
    assert_eq!(manifest["registry"], "contoso");
    assert_eq!(manifest["repository"], "team/app");
    assert_eq!(manifest["digest"], image.digest.as_str());
    assert_eq!(manifest["via"], "mirror");
    assert_eq!(manifest["upstream"], "127.0.1.1:443");
    // The status page has the latest ones.
    let rows: Value = serde_json::from_str(&gate.admin("/requests").1).unwrap();
    let row = rows.as_array().unwrap().iter().find(|row| row["reference"] == "v1").unwrap();
    assert_eq!(row["repository"], "team/app");
    assert_eq!(row["outcome"], "relayed");
    assert!(lines.iter().any(|line| line["id"] == row["id"]), "{row}");
    // A tunnel is no way past the mirror.
    let tunnel =
        lab.sh(Way::Through(&gate), "curl -sv -o /dev/null https://contoso.azurecr.io/v2/");
    assert!(tunnel.failed().text.contains("host-not-allowed"));
    let total =
        gate.metric("pullgate_requests_total", &["registry=\"contoso\"", "operation=\"blob\""]);
    assert!(total >= 15.0, "{total}");
}

#[test]
fn every_client_pulls_by_redirect_and_the_layers_are_spliced() {
    let (lab, image) = lab(Blobs::DataEndpoint);
    let gate = lab.gate(&policy(&lab, "tunnel = \"data\"", ""));
    pull_with_every_client(&lab, Way::Through(&gate), &image);
    let lines = requests(&gate);
    let is_blob = |line: &&Value| line["operation"] == "blob" && line["method"] == "GET";
    assert!(lines.iter().filter(is_blob).all(|line| line["status"] == 307), "{lines:?}");
    let data = ["endpoint=\"data\"", "path=\"splice\""];
    let spliced = gate.metric("pullgate_relayed_bytes_total", &data);
    assert!(spliced > 2.8 * image.size() as f64, "{spliced} of {}", image.size());
}

/// ACR Basic and Standard: blobs lie on an account of a storage that all tenants share.
#[test]
fn blobs_come_from_the_storage_that_the_registry_announces() {
    let (lab, image) = lab(Blobs::StorageAccount);
    let announced = "blobs = \"relay\"\nblob-hosts = \"announced\"";
    let gate = lab.gate(&policy(&lab, "", announced));
    let before = lab.reached_storage().0;
    let to = lab.dir().join("pulled");
    let from = format!("docker://{MIRROR}/contoso.azurecr.io/team/app:v1");
    lab.sh(Way::Direct, &format!("skopeo copy {from} dir:{}", to.display())).succeeded();
    for (digest, _) in &image.layers {
        let (_, hex) = digest.split_once(':').unwrap();
        assert!(fs::read(to.join(hex)).unwrap() == image.blob(digest), "{digest} differs");
    }
    let after = lab.reached_storage().0;
    assert!(after > before);
    // The same account stays closed to clients that name it.
    let storage = "eusmanaged123.blob.core.windows.net";
    let tunnel = lab.sh(Way::Through(&gate), &format!("curl -sv https://{storage}/"));
    assert!(tunnel.failed().text.contains("storage-account"));
    let named = curl(&lab, &format!("https://{MIRROR}/v2/{storage}/a/manifests/1"));
    assert!(named.text.contains("registry-unknown"), "{}", named.text);
    assert_eq!(lab.reached_storage().0, after);
    // Without the word the redirect is refused, and says why.
    let config = gate.registries().join("contoso.toml");
    reloaded(&gate, || fs::write(&config, file(&lab, "", "blobs = \"relay\"")).unwrap());
    let blob =
        format!("https://{MIRROR}/v2/contoso.azurecr.io/team/app/blobs/{}", image.layers[0].0);
    let refused = curl(&lab, &blob);
    for words in ["redirect-not-allowed", storage, "announced"] {
        assert!(refused.text.contains(words), "{}", refused.text);
    }
    assert_eq!(lab.reached_storage().0, after);
}

#[test]
fn what_the_rules_do_not_allow_reaches_no_registry() {
    let (lab, image) = lab(Blobs::DataEndpoint);
    lab.push("contoso.azurecr.io/secret/app:v1", 2, &[2000]);
    let rules = "repositories = [\"team/**\"]\ntags = [\"v*\"]\nblobs = \"relay\"";
    let gate = lab.gate(&policy(&lab, "", rules));
    let digest = &image.layers[0].0;
    let before = asked(&lab);
    for (method, path, status, reason) in [
        ("GET", "secret/app/manifests/v1".to_owned(), "403", "repository-not-allowed"),
        ("GET", format!("secret/app/blobs/{digest}"), "403", "repository-not-allowed"),
        ("GET", "team/app/manifests/latest".to_owned(), "403", "tag-not-allowed"),
        ("GET", "team/app/tags/list".to_owned(), "403", "listing-not-allowed"),
        ("GET", "_catalog".to_owned(), "403", "listing-not-allowed"),
        ("PUT", "team/app/manifests/v1".to_owned(), "405", "operation-not-allowed"),
        ("POST", "team/app/blobs/uploads/".to_owned(), "405", "operation-not-allowed"),
        ("DELETE", "team/app/manifests/v1".to_owned(), "405", "operation-not-allowed"),
        ("DELETE", format!("team/app/blobs/{digest}"), "405", "operation-not-allowed"),
    ] {
        let url = format!("https://{MIRROR}/v2/contoso.azurecr.io/{path}");
        let answer = curl(&lab, &format!("-X {method} -w %{{http_code}} {url}"));
        let body: Value = serde_json::from_str(&answer.stdout()[..answer.stdout().len() - 3])
            .unwrap_or_else(|error| panic!("{error}: {}", answer.text));
        assert!(answer.stdout().ends_with(status), "{method} {path}: {}", answer.text);
        let message = body["errors"][0]["message"].as_str().unwrap();
        assert!(message.contains(&format!("[{reason} ")), "{method} {path}: {message}");
        assert!(message.starts_with("pullgate: "), "{message}");
    }
    let from = |path: &str| format!("docker://{MIRROR}/contoso.azurecr.io/{path}");
    let (_containerd, ctr) = containerd(&lab);
    for (line, words) in [
        (format!("skopeo inspect {}", from("secret/app:v1")), "repository-not-allowed"),
        (format!("skopeo inspect {}", from("team/app:latest")), "tag-not-allowed"),
        (format!("skopeo list-tags {}", from("team/app")), "listing-not-allowed"),
        (format!("skopeo delete {}", from("team/app:v1")), "operation-not-allowed"),
        (
            format!("podman pull {MIRROR}/contoso.azurecr.io/secret/app:v1"),
            "repository-not-allowed",
        ),
        (
            format!("{} contoso.azurecr.io/secret/app:v1", ctr_pull(&lab, &ctr)),
            "repository-not-allowed",
        ),
    ] {
        let ran = lab.sh(Way::Direct, &line).failed();
        // Old versions of skopeo print the status alone for a list.
        let is_old = line.contains("list-tags") && ran.text.contains("403 (Forbidden)");
        assert!(ran.text.contains(words) || is_old, "{line}: {}", ran.text);
    }
    let push = lab.run(
        Way::Direct,
        &lab.pushing(&image, &format!("{MIRROR}/contoso.azurecr.io/team/app:v2")),
    );
    assert!(push.failed().text.contains("pullgate: "), "a push says why");
    // `skopeo delete` and a push ask for what may be read before; nothing else came.
    let came = asked_since(&lab, before);
    let fine = |line: &String| {
        let reads = line.contains("\"GET /v2/team/app/") || line.contains("\"HEAD /v2/team/app/");
        reads || line.contains("\"GET /oauth2/token?")
    };
    assert!(came.iter().all(fine), "{came:#?}");
    assert!(!came.iter().any(|line| line.contains("latest") || line.contains("tags")), "{came:#?}");
    let lines = requests(&gate);
    let denied = lines.iter().filter(|line| line["outcome"] == "denied").count();
    // Those that repeat within ten seconds are counted under the first.
    assert!(denied >= 8, "{denied}");
}

#[test]
fn parts_conditions_and_heads_are_answered_as_by_a_registry() {
    let (lab, image) = lab(Blobs::DataEndpoint);
    let gate = lab.gate(&policy(
        &lab,
        "",
        "names = [\"contoso.example\"]\ndefault = true\nblobs = \"relay\"",
    ));
    let (digest, size) = &image.layers[0];
    let blob = format!("https://{MIRROR}/v2/contoso.azurecr.io/team/app/blobs/{digest}");
    let part = curl(&lab, &format!("-f -r 100-199 {blob}")).succeeded();
    assert!(part.stdout == image.blob(digest)[100..200]);
    let head = curl(&lab, &format!("-f -I {blob}")).succeeded().text.to_lowercase();
    assert!(head.contains(&format!("content-length: {size}")), "{head}");
    let manifest =
        format!("https://{MIRROR}/v2/team/app/manifests/{}?ns=contoso.example", image.digest);
    let whole = curl(&lab, &format!("-f -D - {manifest}")).succeeded();
    let etag = whole.text.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap_or_default();
    assert!(
        whole.text.contains(&format!("docker-content-digest: {}", image.digest)),
        "{}",
        whole.text
    );
    let line = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-H", ACCEPT];
    let condition = format!("If-None-Match: {etag}");
    let line: Vec<&str> = line.into_iter().chain(["-H", &condition, &manifest]).collect();
    assert_eq!(lab.run(Way::Direct, &line).stdout(), "304");
    // By the default, and a ping.
    curl(&lab, &format!("-f -I https://{MIRROR}/v2/team/app/manifests/v1")).succeeded();
    assert_eq!(curl(&lab, &format!("-f https://{MIRROR}/v2/")).stdout(), "{}");
    // Clear-text HTTP on the TLS port gets an error that says so.
    let clear = curl(&lab, "http://gate.example.com:5443/v2/");
    assert!(clear.text.contains("https://"), "{}", clear.text);
    drop(gate);
}

#[test]
fn users_are_asked_for_as_a_registry_does() {
    let (lab, _image) = lab(Blobs::DataEndpoint);
    fs::create_dir_all(lab.dir().join("gate")).unwrap();
    crate::users::add_user(&lab.dir().join("gate/users"), "ci", "hunter-2-hunter-2");
    let policy = policy(&lab, "clients = [\"build-agents\"]", "blobs = \"relay\"");
    let gate =
        lab.gate(&policy.with_more("[[client]]\nname = \"build-agents\"\nusers = [\"ci\"]\n"));
    let before = asked(&lab);
    let manifest = format!("https://{MIRROR}/v2/contoso.azurecr.io/team/app/manifests/v1");
    for url in [&manifest, &format!("https://{MIRROR}/v2/")] {
        let asked_for = curl(&lab, &format!("-i {url}")).text.to_lowercase();
        assert!(asked_for.starts_with("http/1.1 401"), "{asked_for}");
        assert!(asked_for.contains("www-authenticate: basic realm=\"pullgate\""), "{asked_for}");
    }
    let wrong = curl(&lab, &format!("-u ci:wrong {manifest}"));
    assert!(wrong.text.contains("credentials-required"), "{}", wrong.text);
    assert_eq!(asked(&lab), before);
    curl(&lab, &format!("-f -o /dev/null -u ci:hunter-2-hunter-2 {manifest}")).succeeded();
    let from = format!("docker://{MIRROR}/contoso.azurecr.io/team/app:v1");
    lab.sh(Way::Direct, &format!("skopeo inspect --creds ci:hunter-2-hunter-2 {from}")).succeeded();
    let line = gate.audited(&[
        ("kind", "request"),
        ("outcome", "relayed"),
        ("client-name", "build-agents"),
    ]);
    assert_eq!(line["registry"], "contoso");
    let all = fs::read_to_string(gate.audit_file()).unwrap();
    assert!(!all.contains("hunter") && !gate.log().contains("hunter"));
}

#[test]
fn a_reload_ends_what_it_takes_away() {
    let lab = Lab::new(Blobs::DataEndpoint);
    // More than the buffers of two sockets hold.
    let image = lab.push("contoso.azurecr.io/team/app:v1", 1, &[48 << 20]);
    let gate = lab.gate(&policy(&lab, "", "blobs = \"relay\""));
    let (digest, _) = &image.layers[0];
    let blob = format!("https://{MIRROR}/v2/contoso.azurecr.io/team/app/blobs/{digest}");
    let mut slow = lab
        .command(Way::Direct, &["curl", "-sS", "--limit-rate", "100k", "-o", "/dev/null", &blob]);
    let mut slow = slow.spawn().unwrap();
    wait_until("the blob is under way", || {
        (gate.metric("pullgate_open_sessions", &[]) > 0.0 && asked(&lab) > 0).then_some(())
    });
    wait_until("the data endpoint was asked", || {
        (!lab.asked("contoso.eastus.data.azurecr.io").is_empty()
            || gate.metric("pullgate_relayed_bytes_total", &[]) > 0.0)
            .then_some(())
    });
    let config = gate.registries().join("contoso.toml");
    let rules = "repositories = [\"other/**\"]\nblobs = \"relay\"";
    reloaded(&gate, || fs::write(&config, file(&lab, "", rules)).unwrap());
    gate.audited(&[("kind", "request"), ("outcome", "denied"), ("reason", "policy-revoked")]);
    assert!(!slow.wait().unwrap().success());
    let refused = curl(&lab, &blob);
    assert!(refused.text.contains("repository-not-allowed"), "{}", refused.text);
}

#[test]
fn report_mode_lets_pass_and_records() {
    let (lab, _image) = lab(Blobs::DataEndpoint);
    let rules = "repositories = [\"other/**\"]\nblobs = \"relay\"";
    let gate = lab.gate(&policy(&lab, "", rules).with_policy("enforcement = \"report\""));
    let manifest = format!("https://{MIRROR}/v2/contoso.azurecr.io/team/app/manifests/v1");
    curl(&lab, &format!("-f -o /dev/null {manifest}")).succeeded();
    gate.audited(&[
        ("kind", "request"),
        ("outcome", "would-deny"),
        ("reason", "repository-not-allowed"),
    ]);
    let push = curl(&lab, &format!("-X PUT {manifest}"));
    assert!(push.text.contains("operation-not-allowed"), "{}", push.text);
}

/// Writes a secret beside the registry's file, with this mode.
fn secret(lab: &Lab, text: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = lab.dir().join("gate/registries.d");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("contoso.secret"), text).unwrap();
    fs::set_permissions(folder.join("contoso.secret"), fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn the_gate_pulls_with_its_own_credentials() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let image = lab.push("contoso.azurecr.io/private/app:v1", 1, &SIZES);
    let manifest = format!("https://{MIRROR}/v2/contoso.azurecr.io/private/app/manifests/v1");
    let mirror = "blobs = \"relay\"\ncredentials-file = \"contoso.secret\"";
    secret(&lab, "pusher:secret\n", 0o600);
    let gate = lab.gate(&policy(&lab, "clients = \"everyone\"", mirror));
    let to = lab.dir().join("pulled");
    let from = format!("docker://{MIRROR}/contoso.azurecr.io/private/app:v1");
    lab.sh(Way::Direct, &format!("skopeo copy {from} dir:{}", to.display())).succeeded();
    for (digest, _) in &image.layers {
        let (_, hex) = digest.split_once(':').unwrap();
        assert!(fs::read(to.join(hex)).unwrap() == image.blob(digest), "{digest} differs");
    }
    // One exchange for all requests of the repository.
    let tokens = lab.asked("contoso.azurecr.io");
    let tokens = tokens.lines().filter(|line| line.contains("%3Apull&service="));
    assert_eq!(tokens.count(), 1);
    // A refresh token takes the place of user and password, without a restart.
    reloaded(&gate, || secret(&lab, "a-refresh-token", 0o640));
    curl(&lab, &format!("-f -o /dev/null {manifest}")).succeeded();
    // What the token server does not accept is the gate's trouble, and says so.
    reloaded(&gate, || secret(&lab, "another-token", 0o600));
    let refused = curl(&lab, &format!("-i {manifest}"));
    assert!(refused.text.starts_with("HTTP/1.1 502"), "{}", refused.text);
    assert!(refused.text.contains("upstream-auth"), "{}", refused.text);
    let all = fs::read_to_string(gate.audit_file()).unwrap() + &gate.log();
    assert!(!all.contains("secret\n") && !all.contains("pusher") && !all.contains("-token\""));
    // A file that everyone can read is refused, and the last good one stays.
    crate::reload::kept(&gate, || secret(&lab, "a-refresh-token", 0o644));
    assert!(gate.log().contains("can be read by every user"), "{}", gate.log());
}

#[test]
fn many_requests_share_one_token_and_few_connections() {
    let (lab, image) = lab(Blobs::DataEndpoint);
    let gate = lab.gate(&policy(&lab, "", "blobs = \"relay\""));
    let before = asked(&lab);
    let manifest = format!("https://{MIRROR}/v2/contoso.azurecr.io/team/app/manifests/v1");
    let urls: Vec<String> = (0..64).map(|_| format!("-o /dev/null {manifest}")).collect();
    curl(&lab, &format!("-f -Z --parallel-immediate --parallel-max 64 {}", urls.join(" ")))
        .succeeded();
    let came = asked_since(&lab, before);
    let tokens = came.iter().filter(|line| line.contains("/oauth2/token")).count();
    assert_eq!(tokens, 1, "{came:#?}");
    let (digest, size) = &image.layers[0];
    let blob = format!("https://{MIRROR}/v2/contoso.azurecr.io/team/app/blobs/{digest}");
    let line = format!("-f -Z --parallel-max 16 {}", format!("-o /dev/null {blob} ").repeat(48));
    curl(&lab, &line).succeeded();
    let lines = requests(&gate);
    let blobs = lines.iter().filter(|line| line["operation"] == "blob");
    let blobs: Vec<&Value> = blobs.collect();
    assert_eq!(blobs.len(), 48);
    assert!(
        blobs.iter().all(|line| line["bytes-down"] == *size as u64 && line["outcome"] == "relayed")
    );
}

#[test]
fn a_drain_ends_keep_alive_and_no_request() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let image = lab.push("contoso.azurecr.io/team/app:v1", 1, &[24 << 20]);
    let mut gate = lab.gate(&policy(&lab, "", "blobs = \"relay\""));
    let (digest, size) = &image.layers[0];
    let blob = format!("https://{MIRROR}/v2/contoso.azurecr.io/team/app/blobs/{digest}");
    // A connection that idles between two requests.
    let mut idle = TcpStream::connect(CLEAR).unwrap();
    idle.set_read_timeout(Some(PATIENCE)).unwrap();
    idle.write_all(b"GET /v2/ HTTP/1.1\r\nHost: g\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    idle.read_exact(&mut answer).unwrap();
    let to = lab.dir().join("blob");
    let line = ["curl", "-sS", "--limit-rate", "8M", "-o", to.to_str().unwrap(), &blob];
    let mut pull = lab.command(Way::Direct, &line).spawn().unwrap();
    wait_until("the blob streams", || {
        fs::metadata(&to).is_ok_and(|file| file.len() > 1 << 20).then_some(())
    });
    gate.signal("TERM");
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).unwrap();
    assert!(wait_until("the pull ends", || pull.try_wait().unwrap()).success());
    assert_eq!(fs::metadata(&to).unwrap().len(), *size as u64);
    assert!(gate.ended().success());
}

#[test]
fn the_commands_know_the_mirror() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let rules =
        "names = [\"docker.io\"]\nrepositories = [\"team/**\"]\ntags = [\"v*\"]\nblobs = \"relay\"";
    let config = crate::harness::write_config(&lab.dir().join("gate"), &policy(&lab, "", rules));
    let run = |line: &str| {
        let program = env!("CARGO_BIN_EXE_pullgate");
        lab.sh(Way::Direct, &format!("{program} {line} --config {}", config.display()))
    };
    let check = run("check").succeeded().text;
    assert!(
        check.contains("repositories: team/**; tags: v*; listing: refused; blobs relayed"),
        "{check}"
    );
    let allowed = run("explain contoso.azurecr.io/team/app:v1").succeeded().text;
    assert!(allowed.contains("team/app:v1 from the mirror: allowed"), "{allowed}");
    let denied = run("explain docker.io/secret/app:v1").failed().text;
    assert!(denied.contains("denied [repository-not-allowed]"), "{denied}");
    for (kind, words) in [
        ("containerd", "/etc/containerd/certs.d/docker.io/hosts.toml"),
        ("podman", "location = \"gate.example.com:5443/contoso.azurecr.io\""),
        ("docker", "docker pull gate.example.com:5443/contoso.azurecr.io/"),
        ("k3s", "- \"https://gate.example.com:5443\""),
        ("buildkit", "mirrors = [\"gate.example.com:5443/docker.io\"]"),
    ] {
        let text =
            run(&format!("kit {kind} --gate gate.example.com --registry contoso")).succeeded().text;
        assert!(text.contains(words), "{text}");
    }
    assert!(run("kit podman --registry fabrikam").failed().text.contains("has no [mirror]"));
    // What `kit` prints is what podman needs.
    let image = lab.push("contoso.azurecr.io/team/app:v1", 1, &[2000]);
    let gate = lab.gate(&policy(&lab, "", rules));
    let conf = run("kit podman --gate gate.example.com").succeeded().stdout();
    fs::write("/etc/containers/registries.conf", conf).unwrap();
    lab.sh(Way::Direct, "podman pull --quiet contoso.azurecr.io/team/app:v1").succeeded();
    let lines = requests(&gate);
    assert!(lines.iter().any(|line| line["digest"] == *image.layers[0].0), "{lines:?}");
    let program = env!("CARGO_BIN_EXE_pullgate");
    let report = lab.sh(Way::Direct, &format!("{program} report {}", gate.audit_file().display()));
    let report = report.succeeded().text;
    assert!(report.contains("Pulled through the mirror"), "{report}");
    assert!(report.contains("contoso/team/app"), "{report}");
}

#[test]
fn no_request_is_lost_over_two_reloads() {
    const REQUESTS: usize = 600;
    let (lab, image) = lab(Blobs::DataEndpoint);
    let gate = lab.gate(&policy(&lab, "", "blobs = \"relay\""));
    let (digest, size) = &image.layers[3];
    let blob = format!("https://{MIRROR}/v2/contoso.azurecr.io/team/app/blobs/{digest}");
    let urls = format!("-o /dev/null {blob} ").repeat(REQUESTS);
    let line = format!("curl -sS -f -Z --parallel-max 24 --limit-rate 200k {urls}");
    let line: Vec<&str> = line.split_whitespace().collect();
    let mut pulls = lab.command(Way::Direct, &line).spawn().unwrap();
    let config = gate.registries().join("contoso.toml");
    let done = || gate.metric("pullgate_requests_total", &["operation=\"blob\""]);
    for (number, rules) in
        ["repositories = [\"team/**\"]", "repositories = [\"**\"]"].iter().enumerate()
    {
        wait_until("some have been answered", || {
            (done() > 100.0 * (1 + number) as f64).then_some(())
        });
        let mirror = format!("{rules}\nblobs = \"relay\"");
        reloaded(&gate, || fs::write(&config, file(&lab, "", &mirror)).unwrap());
    }
    assert!(wait_until("all have been answered", || pulls.try_wait().unwrap()).success());
    let lines = requests(&gate);
    assert_eq!(lines.len(), REQUESTS);
    let whole = |line: &&Value| line["outcome"] == "relayed" && line["bytes-down"] == *size as u64;
    assert_eq!(
        lines.iter().filter(whole).count(),
        REQUESTS,
        "{:?}",
        lines.iter().find(|line| !whole(line))
    );
}
