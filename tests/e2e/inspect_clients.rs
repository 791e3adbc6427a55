//! Clients that push through an inspected login server: each where the rules allow it, and each prints
//! why it is refused otherwise.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::harness::{Blobs, Docker, Gate, Image, Lab, Ran, Random, Way, containerd, sha256};
use crate::inspect::{LOGIN, authority, curl, lab, policy, pusher, requests, trust};

const RULES: &str = "pull = [\"team/**\"]\npush = [\"team/app\", \"drop/**\"]\ntags = [\"v*\"]";

/// What may be pushed, and what may not, with the reason.
const ALLOWED: [&str; 2] = [
    "contoso.azurecr.io/team/app:v7",
    // It may be pushed, and not pulled: clients look for what is there all the same.
    "contoso.azurecr.io/drop/app:v7",
];
const REFUSED: [(&str, &str); 3] = [
    ("contoso.azurecr.io/team/other:v7", "repository-not-allowed"),
    ("contoso.azurecr.io/secret/app:v7", "repository-not-allowed"),
    ("contoso.azurecr.io/team/app:latest", "tag-not-allowed"),
];

/// An image that no registry has, as an archive that every client reads, with these names.
fn fresh(lab: &Lab, seed: u64, names: &[&str]) -> (Image, Vec<PathBuf>) {
    let image = Image::random(lab.dir(), seed, &[6 << 20, 1 << 20, 0, 2000]);
    let archived = |(number, name): (usize, &&str)| {
        let to = lab.dir().join(format!("{seed}-{number}.tar"));
        let from = format!("oci:{}:latest", image.layout.display());
        let copy = format!("skopeo copy {from} docker-archive:{}:{name}", to.display());
        lab.sh(Way::Direct, &copy).succeeded();
        to
    };
    let archives = names.iter().enumerate().map(archived).collect();
    (image, archives)
}

fn all_names() -> Vec<&'static str> {
    let refused = REFUSED.iter().map(|(name, _)| *name);
    ALLOWED.into_iter().chain(refused).collect()
}

/// Pushes under every name, and shows what came of it. `mute`: the name whose refusal this client does
/// not explain.
#[track_caller]
fn pushes(lab: &Lab, gate: &Gate, image: &Image, mute: &str, push: impl Fn(&str) -> Ran) {
    for (name, reason) in REFUSED {
        let ran = push(name).failed();
        println!("{name}: {}", ran.last_line());
        if name != mute {
            assert!(ran.text.contains(&format!("[{reason} ")), "{name}: {}", ran.text);
            assert!(ran.text.contains("pullgate: "), "{name}: {}", ran.text);
        }
        let repository = name.split(['/', ':']).skip(1).take(2).collect::<Vec<_>>().join("/");
        gate.audited(&[("kind", "request"), ("reason", reason), ("repository", &repository)]);
    }
    for name in ALLOWED {
        push(name).succeeded();
        arrived(lab, image, name);
    }
    let lines = requests(gate);
    let stored = |line: &&Value| line["operation"] == "put-manifest" && line["status"] == 201;
    assert!(lines.iter().filter(stored).count() >= ALLOWED.len(), "{lines:?}");
    // What may be pulled can be looked for.
    let asked = lab.asked(LOGIN);
    for other in ["/v2/team/other/", "/v2/secret/app/", "/manifests/latest"] {
        let wrote = asked.lines().find(|line| line.contains(other) && !line.contains("\"HEAD "));
        assert_eq!(wrote, None);
    }
}

/// Asserts that a registry has an image, by the digests of its layers before compression.
#[track_caller]
fn arrived(lab: &Lab, image: &Image, name: &str) {
    let ran = lab.sh(Way::Direct, &format!("skopeo inspect --config --raw docker://{name}"));
    let config = ran.succeeded().stdout();
    assert_eq!(config.matches("\"sha256:").count(), image.layers.len(), "{config}");
    for (digest, _) in &image.layers {
        assert!(config.contains(digest), "{digest} is missing: {config}");
    }
    // Every blob is whole: the client checks the digests.
    let to = lab.dir().join("arrived");
    lab.sh(Way::Direct, &format!("skopeo copy docker://{name} dir:{}", to.display())).succeeded();
}

#[test]
fn podman_pushes_where_the_rules_allow_it() {
    let (lab, _) = lab(Blobs::DataEndpoint);
    let gate = lab.gate(&policy(&lab, RULES));
    trust(&lab);
    let (image, archives) = fresh(&lab, 21, &all_names());
    for archive in archives {
        let load = format!("podman load --quiet --input {}", archive.display());
        lab.sh(Way::Direct, &load).succeeded();
    }
    // It looks for the layers with HEAD, whose answer has no body.
    let mute = "contoso.azurecr.io/secret/app:v7";
    pushes(&lab, &gate, &image, mute, |name| {
        let push = format!("podman push --quiet --creds pusher:secret {name}");
        lab.sh(Way::Through(&gate), &push)
    });
}

#[test]
fn containerd_pushes_where_the_rules_allow_it() {
    let (lab, _) = lab(Blobs::DataEndpoint);
    let gate = lab.gate(&policy(&lab, RULES));
    let hosts = trust(&lab);
    let (image, archives) = fresh(&lab, 22, &all_names());
    let (_containerd, ctr) = containerd(&lab);
    for archive in archives {
        let load = format!("{ctr} images import {}", archive.display());
        lab.sh(Way::Direct, &load).succeeded();
    }
    pushes(&lab, &gate, &image, "", |name| {
        let push = format!("{ctr} images push --hosts-dir {}", hosts.display());
        lab.sh(Way::Through(&gate), &format!("{push} --user pusher:secret {name}"))
    });
}

#[test]
fn docker_pushes_where_the_rules_allow_it() {
    let (lab, _) = lab(Blobs::DataEndpoint);
    let gate = lab.gate(&policy(&lab, RULES));
    let folder = Path::new("/etc/docker/certs.d").join(LOGIN);
    fs::create_dir_all(&folder).unwrap();
    fs::copy(authority(&lab), folder.join("pullgate.crt")).unwrap();
    let (image, archives) = fresh(&lab, 23, &all_names());
    let docker = Docker::start(&lab, Way::Through(&gate), "https://gate.example.com:5443", &[]);
    // What `docker login` writes.
    let login = lab.dir().join("home/.docker");
    fs::create_dir_all(&login).unwrap();
    let user = STANDARD.encode("pusher:secret");
    let auth = serde_json::json!({ "auths": { LOGIN: { "auth": user } } });
    fs::write(login.join("config.json"), auth.to_string()).unwrap();
    for archive in archives {
        docker.run(&format!("load --quiet --input {}", archive.display())).succeeded();
    }
    pushes(&lab, &gate, &image, "", |name| docker.run(&format!("push --quiet {name}")));
}

/// Several PATCH requests, as the OCI distribution spec describes them, and what they leave.
#[test]
fn a_blob_in_several_chunks_arrives_whole() {
    let (lab, _) = lab(Blobs::DataEndpoint);
    let gate = lab.gate(&policy(&lab, RULES));
    let bearer = pusher(&lab, &gate, "repository:team/app:pull,push");
    let send = |words: &[&str], target: &str| {
        let url = format!("https://{LOGIN}{target}");
        let start = ["-i", "--suppress-connect-headers", "-H", &bearer];
        let ran = curl(&lab, &gate, &[&start[..], words, &[&url]].concat()).succeeded();
        let location = ran.text.lines().find_map(|line| line.strip_prefix("location: "));
        (ran.text.clone(), location.unwrap_or_default().to_owned())
    };
    let blob = Random::new(41).bytes(3 << 20);
    let (_, mut location) = send(&["-X", "POST"], "/v2/team/app/blobs/uploads/");
    for (number, chunk) in blob.chunks(1 << 20).enumerate() {
        assert!(location.starts_with("/v2/team/app/blobs/uploads/"), "{location}");
        let file = lab.dir().join("chunk");
        fs::write(&file, chunk).unwrap();
        let first = number << 20;
        let range = format!("Content-Range: {first}-{}", first + chunk.len() - 1);
        let (kind, data) =
            ("Content-Type: application/octet-stream", format!("@{}", file.display()));
        let words = ["-X", "PATCH", "-H", kind, "-H", &range, "--data-binary", &data];
        let (answer, next) = send(&words, &location);
        assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
        let range = format!("range: 0-{}", first + chunk.len() - 1);
        assert!(answer.contains(&range), "{answer}");
        location = next;
    }
    // Where the upload stands, and its end.
    let (status, _) = send(&[], &location);
    assert!(status.starts_with("HTTP/1.1 204 "), "{status}");
    let hex = sha256(&blob);
    let (answer, _) = send(&["-X", "PUT"], &format!("{location}&digest=sha256%3A{hex}"));
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    let stored = lab.served("contoso").join("docker/registry/v2/blobs/sha256");
    assert!(fs::read(stored.join(&hex[..2]).join(&hex).join("data")).unwrap() == blob);
    // Another repository's upload is not to be had by its location. A client that waits to be asked
    // for its body is not.
    let other = location.replace("/v2/team/app/", "/v2/secret/app/");
    let waits = ["-X", "PATCH", "-H", "Expect: 100-continue", "--data-binary", "x"];
    let (answer, _) = send(&waits, &other);
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(answer.contains("[repository-not-allowed "), "{answer}");
}
