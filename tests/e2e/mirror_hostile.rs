//! The mirror among hostile clients and hostile registries.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::harness::{Blobs, LIES, Lab, Liar, PATIENCE, Policy, Way, wait_until};
use crate::mirror::{ACCEPT, CLEAR, MIRROR, asked, asked_since, curl, file, lab, policy, requests};

/// What is sent on a connection of its own, byte for byte; the whole answer.
fn raw(bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(CLEAR).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // A gate that has refused may close before all is sent.
    let _ = stream.write_all(bytes);
    if !bytes.windows(17).any(|one| one == b"Connection: close") {
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn smuggled_requests_reach_no_registry() {
    use crate::cases::registry_requests::{HOSTILE, with_digests};
    let (lab, _image) = lab(Blobs::DataEndpoint);
    let rules = "repositories = [\"team/**\"]\ndefault = true\nblobs = \"relay\"";
    let gate = lab.gate(&policy(&lab, "", rules));
    let before = asked(&lab);
    for (method, target, _) in HOSTILE {
        let target = with_digests(target);
        if target.contains('#') {
            continue; // See the next test.
        }
        let answer = raw(format!("{method} {target} HTTP/1.1\r\nHost: g\r\n\r\n").as_bytes());
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{target}: {answer}");
    }
    let get = "GET /v2/secret/app/manifests/v1 HTTP/1.1\r\n";
    let fine = &format!("GET /v2/team/app/manifests/v1 HTTP/1.1\r\nHost: g\r\n{ACCEPT}\r\n");
    let hidden = format!("{get}Host: g\r\n\r\n");
    let large = "a".repeat(1 << 20);
    for request in [
        format!("{fine}Host: contoso.azurecr.io\r\n\r\n"),
        "GET /v2/team/app/manifests/v1 HTTP/1.1\r\n\r\n".to_owned(),
        format!("{fine}Content-Length: {}\r\n\r\n{hidden}", hidden.len()),
        format!("{fine}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{fine}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{fine}Content-Length: 0\r\nContent-Length: 5\r\n\r\n{hidden}"),
        format!("{fine}Transfer-Encoding: chunked, identity\r\n\r\n{hidden}"),
        format!("{fine}X: a\r\n {hidden}\r\n\r\n"),
        format!("{fine}X: {large}\r\n\r\n"),
        format!("{fine}{}\r\n", "X: a\r\n".repeat(200)),
        format!("{fine}Authorization: Basic YTpi\r\nAuthorization: Basic YTpi\r\n\r\n"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        format!("GET /v2/team/app/manifests/v1 HTTP/9.9\r\nHost: g\r\n\r\n{hidden}"),
        format!("GET  /v2/team/app/manifests/v1 HTTP/1.1\r\nHost: g\r\n\r\n{hidden}"),
        format!("GET /v2/team/app/manifests/v1\tHTTP/1.1\r\nHost: g\r\n\r\n{hidden}"),
        "GET http://contoso.azurecr.io/v2/team/app/manifests/v1 HTTP/1.1\r\nHost: g\r\n\r\n"
            .to_owned(),
        "\u{0}\u{1}\u{2}\r\n\r\n".to_owned(),
    ] {
        let answer = raw(request.as_bytes());
        let start: String = request.chars().take(90).collect();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{start}: {answer}");
    }
    assert_eq!(asked_since(&lab, before), Vec::<String>::new());
    // Pipelined requests are answered in order, and each is judged.
    let pipelined = format!("{fine}\r\n{hidden}{fine}Connection: close\r\n\r\n");
    let answer = raw(pipelined.as_bytes());
    let statuses: Vec<&str> = answer.matches("HTTP/1.1 200").collect();
    assert_eq!(statuses.len(), 2, "{answer}");
    assert!(answer.contains("repository-not-allowed"), "{answer}");
    let came = asked_since(&lab, before);
    assert!(came.iter().all(|line| !line.contains("secret")), "{came:#?}");
    // Headers of the client's choice go no further.
    let odd = format!(
        "{fine}X-Forwarded-Host: evil\r\nCookie: a\r\nUpgrade: h2c\r\nConnection: close, upgrade\r\n\r\n"
    );
    assert!(raw(odd.as_bytes()).starts_with("HTTP/1.1 200"));
    drop(gate);
}

/// The HTTP library cuts a fragment off before anybody can see it. What is left is judged, and is all
/// that a registry gets.
#[test]
fn a_fragment_is_neither_judged_nor_sent() {
    let (lab, _image) = lab(Blobs::DataEndpoint);
    let rules = "repositories = [\"team/**\"]\ntags = [\"v*\"]\ndefault = true\nblobs = \"relay\"";
    let gate = lab.gate(&policy(&lab, "", rules));
    let before = asked(&lab);
    for (target, allowed) in [
        ("/v2/team/app/manifests/v1#", true),
        ("/v2/team/app/manifests/v1#/../../../secret/app/manifests/v1", true),
        ("/v2/team/app/manifests/v1#?ns=fabrikam.azurecr.io", true),
        ("/v2/team/app/manifests/v1?ns=contoso.azurecr.io#&ns=fabrikam.azurecr.io", true),
        ("/v2/secret/app/manifests/v1#/v2/team/app/manifests/v1", false),
        ("/v2/team/app/manifests/latest#v1", false),
        ("/v2/team/app/manifests/#v1", false),
        ("#/v2/team/app/manifests/v1", false),
        ("/#/v2/team/app/manifests/v1", false),
        ("/v2/team/app%23/manifests/v1", false),
    ] {
        let answer = raw(format!(
            "GET {target} HTTP/1.1\r\nHost: g\r\n{ACCEPT}\r\nConnection: close\r\n\r\n"
        )
        .as_bytes());
        let expected = if allowed { "HTTP/1.1 200" } else { "HTTP/1.1 4" };
        assert!(answer.starts_with(expected), "{target}: {answer}");
    }
    let came = asked_since(&lab, before);
    let is_judged = |line: &&String| line.contains("GET /v2/team/app/manifests/v1 HTTP/1.1\" 200");
    assert_eq!(came.iter().filter(is_judged).count(), 4, "{came:#?}");
    let is_other = |line: &&String| {
        !["GET /v2/team/app/manifests/v1 HTTP", "GET /oauth2/token?"]
            .iter()
            .any(|part| line.contains(part))
    };
    assert_eq!(came.iter().filter(is_other).count(), 0, "{came:#?}");
    assert!(came.iter().all(|line| !line.contains('#')), "{came:#?}");
    drop(gate);
}

#[test]
fn a_blob_whose_bytes_are_changed_is_broken_off() {
    let (lab, image) = lab(Blobs::DataEndpoint);
    let gate = lab.gate(&policy(&lab, "", "blobs = \"relay\""));
    let (digest, _) = &image.layers[1];
    let (_, hex) = digest.split_once(':').unwrap();
    let stored = lab
        .served("contoso")
        .join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]));
    let mut bytes = fs::read(&stored).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&stored, &bytes).unwrap();
    let blob = format!("https://{MIRROR}/v2/contoso.azurecr.io/team/app/blobs/{digest}");
    let ran = curl(&lab, &format!("-f -o /dev/null {blob}")).failed();
    assert!(ran.text.contains("transfer closed") || ran.text.contains("eof"), "{}", ran.text);
    gate.audited(&[("kind", "request"), ("outcome", "failed"), ("reason", "digest-mismatch")]);
    // Nothing is kept of it by a client.
    let from = format!("docker://{MIRROR}/contoso.azurecr.io/team/app:v1");
    let to = lab.dir().join("pulled");
    lab.sh(Way::Direct, &format!("skopeo copy {from} dir:{}", to.display())).failed();
}

#[test]
fn a_registry_with_an_unknown_certificate_is_rejected() {
    let (lab, _image) = lab(Blobs::DataEndpoint);
    // Without `ca` the laboratory's authority is nobody's.
    let without = file(&lab, "", "blobs = \"relay\"");
    let without: Vec<&str> = without.lines().filter(|line| !line.starts_with("ca = ")).collect();
    let mut policy = policy(&lab, "", "");
    policy.registries[0].1 = without.join("\n");
    let gate = lab.gate(&policy);
    let manifest = format!("https://{MIRROR}/v2/contoso.azurecr.io/team/app/manifests/v1");
    let refused = curl(&lab, &format!("-i {manifest}"));
    assert!(refused.text.starts_with("HTTP/1.1 502"), "{}", refused.text);
    assert!(refused.text.contains("unknown authority"), "{}", refused.text);
    gate.audited(&[("kind", "request"), ("outcome", "failed"), ("reason", "upstream-tls")]);
}

#[test]
fn a_registry_that_lies_or_hangs_is_a_clear_failure() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let _liar = Liar::start("127.0.1.9:443".parse().unwrap(), lab.server_certificate());
    let liar = format!(
        "login-server = \"gate.example.com\"\nca = \"{}\"\n[mirror]\nblobs = \"relay\"\n\
         blob-hosts = \"announced\"\ndefault = true\n",
        lab.authority().display()
    );
    let limits = "[limits]\nidle-timeout-ms = 1500\ndial-timeout-ms = 2000\n";
    let policy = Policy::of(&[])
        .with_file("liar.toml", &liar)
        .with_dns(
            "[dns.hosts]\n\"gate.example.com\" = [\"127.0.1.9\"]\n\
             \"inside.example.com\" = [\"169.254.169.254\"]\n",
        )
        .with_more(&format!("[[listen]]\nmode = \"mirror\"\naddress = \"{CLEAR}\"\n{limits}"));
    let gate = lab.gate(&policy);
    let digest = crate::cases::registry_requests::DIGEST;
    let more = [
        ("drip", "manifests", "504", "idle-timeout"),
        ("short", "manifests", "502", "upstream-"),
        ("negative", "manifests", "502", "upstream-malformed"),
        ("fields", "manifests", "502", "upstream-malformed"),
        ("many", "manifests", "502", "upstream-malformed"),
        ("inside", "blobs", "403", "address-not-allowed"),
        ("realm", "blobs", "502", "upstream-auth"),
        ("realm-clear", "blobs", "502", "upstream-auth"),
        ("realm-broken", "blobs", "502", "upstream-malformed"),
        ("realm-hang", "blobs", "504", "idle-timeout"),
        ("realm-bytes", "blobs", "502", "upstream-auth"),
    ];
    for (how, kind, status, reason) in LIES.iter().chain(&more) {
        let url = format!("http://{CLEAR}/v2/{how}/{kind}/{digest}");
        let answer = curl(&lab, &format!("-i --max-time 20 {url}")).text;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{how}: {answer}");
        assert!(answer.contains(&format!("[{reason}")), "{how}: {answer}");
    }
    // A blob that breaks off, or is another, is never whole.
    for (how, reason) in [("short", "upstream-aborted"), ("bytes", "digest-mismatch"), ("drip", "")]
    {
        let url = format!("http://{CLEAR}/v2/{how}/blobs/{digest}");
        curl(&lab, &format!("-o /dev/null --max-time 5 {url}")).failed();
        if !reason.is_empty() {
            gate.audited(&[
                ("kind", "request"),
                ("repository", how),
                ("operation", "blob"),
                ("reason", reason),
            ]);
        }
    }
    let open = gate.metric("process_open_fds", &[]);
    assert!(open < 100.0, "{open} descriptors");
    assert_eq!(gate.metric("pullgate_session_panics_total", &[]), 0.0);
}

/// Clients that take nothing hold the registry back: what the gate keeps for each is bounded.
#[test]
fn clients_that_do_not_read_take_bounded_memory() {
    const CLIENTS: usize = 100;
    let lab = Lab::new(Blobs::DataEndpoint);
    let image = lab.push("contoso.azurecr.io/team/app:v1", 1, &[48 << 20]);
    let gate = lab.gate(&policy(&lab, "", "blobs = \"relay\"\ndefault = true"));
    let (digest, _) = &image.layers[0];
    let resident = || gate.metric("process_resident_memory_bytes", &[]);
    let moved = || gate.metric("pullgate_relayed_bytes_total", &["direction=\"down\""]);
    let request = format!("GET /v2/team/app/blobs/{digest} HTTP/1.1\r\nHost: g\r\n\r\n");
    let open = || {
        let mut stream = TcpStream::connect(CLEAR).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        stream
    };
    // One of them, so that what is made once is there.
    let first = open();
    let before = resident();
    let streams: Vec<TcpStream> = (0..CLIENTS).map(|_| open()).collect();
    let mut seen = -1.0;
    wait_until("nothing moves any more", || {
        let now = moved();
        std::mem::replace(&mut seen, now).eq(&now).then_some(())
    });
    let each = (resident() - before) / CLIENTS as f64;
    println!("{each} bytes for each");
    assert!(each < 1024.0 * 1024.0, "{each} bytes for each client");
    drop((first, streams));
}

#[test]
fn denied_requests_that_repeat_are_folded() {
    let (lab, _image) = lab(Blobs::DataEndpoint);
    let gate = lab.gate(&policy(&lab, "", "repositories = [\"other/**\"]"));
    let manifest = format!("https://{MIRROR}/v2/contoso.azurecr.io/team/app/manifests/v1");
    let answers = curl(&lab, &format!("-Z {}", format!("{manifest} ").repeat(40)));
    let first = gate.audited(&[("kind", "request"), ("reason", "repository-not-allowed")]);
    let id = first["id"].as_str().unwrap();
    assert_eq!(answers.text.matches(id).count(), 40, "{}", answers.text);
    let denied = requests(&gate).into_iter().filter(|line| line["outcome"] == "denied");
    assert_eq!(denied.count(), 1);
    let total = gate.metric("pullgate_requests_total", &["reason=\"repository-not-allowed\""]);
    assert_eq!(total, 40.0);
}
