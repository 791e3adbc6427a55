//! Inspected tunnels among hostile clients and hostile registries: what is not judged is not sent, and
//! what is sent is what was judged.

use crate::cases::registry_requests::{DIGEST, HOSTILE, with_digests};
use crate::harness::{Blobs, Gate, HttpsTunnel, LIES, Lab, Liar, PROXY, client_config_by, sha256};
use crate::inspect::{LOGIN, asked, asked_since, authority, bearer, curl, lab, policy, requests};
use crate::mirror::ACCEPT;

/// Sends requests on a connection of their own, inside an inspected tunnel, and one behind them that
/// ends the connection; all answers.
fn raw(lab: &Lab, requests: &str) -> String {
    let config = client_config_by(&authority(lab));
    let mut client = HttpsTunnel::open(&config, PROXY, LOGIN).unwrap();
    let last = format!("GET /v2/ HTTP/1.1\r\nHost: {LOGIN}\r\nConnection: close\r\n\r\n");
    // A gate that has refused may close before all is sent.
    let _ = client.send(format!("{requests}{last}").as_bytes());
    client.rest()
}

/// Whether an answer refuses the first request. The last of all would be answered with 401.
fn is_refused(answer: &str) -> bool {
    let status = answer.strip_prefix("HTTP/1.1 ").or_else(|| answer.strip_prefix("HTTP/1.0 "));
    answer.is_empty() || status.is_some_and(|one| one.starts_with('4') && !one.starts_with("401 "))
}

/// The requests that the login server has had since, beside the last of each connection.
fn smuggled_since(lab: &Lab, before: usize) -> Vec<String> {
    let mut lines = asked_since(lab, before);
    lines.retain(|line| !line.contains("\"GET /v2/ HTTP/1.1\" 401 "));
    lines
}

#[test]
pub fn smuggled_requests_in_a_tunnel_reach_no_registry() {
    let (lab, _) = lab(Blobs::DataEndpoint);
    let rules = "pull = [\"team/**\"]\npush = [\"team/app\"]\ntags = [\"v*\"]";
    let gate = lab.gate(&policy(&lab, rules));
    let bearer = bearer(&lab, &gate, "repository:team/app:pull");
    let (before, other) = (asked(&lab), lab.asked("fabrikam.azurecr.io"));
    for (method, target, _) in HOSTILE {
        let target = with_digests(target);
        // The HTTP library cuts a fragment off before anybody can see it; the mirror names itself.
        if target.contains('#') || target.contains("ns=a.b") || target.starts_with("/v2/a.b") {
            continue;
        }
        let request = format!("{method} {target} HTTP/1.1\r\nHost: {LOGIN}\r\n{bearer}\r\n\r\n");
        let answer = raw(&lab, &request);
        assert!(is_refused(&answer), "{target}: {answer}");
    }
    let hidden = format!("GET /v2/secret/app/manifests/v1 HTTP/1.1\r\nHost: {LOGIN}\r\n\r\n");
    let line = "GET /v2/team/app/manifests/v1 HTTP/1.1\r\n";
    let fine = format!("{line}Host: {LOGIN}\r\n{bearer}\r\n{ACCEPT}\r\n");
    let large = "a".repeat(1 << 20);
    for (case, request) in [
        ("another tenant", format!("{line}Host: fabrikam.azurecr.io\r\n\r\n")),
        ("a host below", format!("{line}Host: x.{LOGIN}\r\n\r\n")),
        ("a trailing dot", format!("{line}Host: {LOGIN}.\r\n\r\n")),
        ("another port", format!("{line}Host: {LOGIN}:8443\r\n\r\n")),
        ("a user", format!("{line}Host: x@{LOGIN}\r\n\r\n")),
        ("a list of hosts", format!("{line}Host: {LOGIN}, fabrikam.azurecr.io\r\n\r\n")),
        ("two hosts", format!("{fine}Host: fabrikam.azurecr.io\r\n\r\n")),
        ("the host twice", format!("{fine}Host: {LOGIN}\r\n\r\n")),
        ("no host", format!("{line}\r\n")),
        ("an empty host", format!("{line}Host:\r\n\r\n")),
        ("no host in 1.0", "GET /v2/team/app/manifests/v1 HTTP/1.0\r\n\r\n".to_owned()),
        (
            "another in 1.0",
            "GET /v2/team/app/manifests/v1 HTTP/1.0\r\nHost: fabrikam.azurecr.io\r\n\r\n"
                .to_owned(),
        ),
        ("a folded host", format!("{line}Host:\r\n fabrikam.azurecr.io\r\n\r\n")),
        ("a space in a name", format!("{line}Host : {LOGIN}\r\n\r\n")),
        ("absolute", format!("GET https://{LOGIN}/v2/ HTTP/1.1\r\nHost: {LOGIN}\r\n\r\n")),
        ("absolute elsewhere", {
            format!("GET https://fabrikam.azurecr.io/v2/ HTTP/1.1\r\nHost: {LOGIN}\r\n\r\n")
        }),
        ("absolute, in clear", {
            format!("GET http://fabrikam.azurecr.io/v2/ HTTP/1.1\r\nHost: {LOGIN}\r\n\r\n")
        }),
        ("two slashes", {
            format!("GET //fabrikam.azurecr.io/v2/ HTTP/1.1\r\nHost: {LOGIN}\r\n\r\n")
        }),
        ("CONNECT elsewhere", {
            format!("CONNECT fabrikam.azurecr.io:443 HTTP/1.1\r\nHost: {LOGIN}\r\n\r\n{hidden}")
        }),
        ("CONNECT here", {
            format!("CONNECT {LOGIN}:443 HTTP/1.1\r\nHost: {LOGIN}\r\n\r\n{hidden}")
        }),
        ("OPTIONS *", format!("OPTIONS * HTTP/1.1\r\nHost: {LOGIN}\r\n\r\n")),
        ("TRACE", format!("TRACE /v2/ HTTP/1.1\r\nHost: {LOGIN}\r\n\r\n")),
        (
            "the preface of HTTP/2",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_owned(),
        ),
        ("h2c", {
            let settings = "Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n";
            format!("{fine}Upgrade: h2c\r\n{settings}\r\n")
        }),
        ("a WebSocket", {
            let key =
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
            format!("{fine}Connection: Upgrade\r\nUpgrade: websocket\r\n{key}\r\n")
        }),
        ("a body", format!("{fine}Content-Length: {}\r\n\r\n{hidden}", hidden.len())),
        ("a chunked body", format!("{fine}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}")),
        ("both lengths", {
            format!(
                "{fine}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"
            )
        }),
        ("two lengths", format!("{fine}Content-Length: 0\r\nContent-Length: 5\r\n\r\n{hidden}")),
        ("a signed length", format!("{fine}Content-Length: +5\r\n\r\n{hidden}")),
        ("another coding", format!("{fine}Transfer-Encoding: chunked, identity\r\n\r\n{hidden}")),
        ("an odd coding", format!("{fine}Transfer-Encoding: xchunked\r\n\r\n{hidden}")),
        (
            "a hidden coding",
            format!("{fine}Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n{hidden}"),
        ),
        ("a folded line", format!("{fine}X: a\r\n {hidden}\r\n\r\n")),
        ("a zero in a header", format!("{fine}X: a\0b\r\n\r\n")),
        ("a large header", format!("{fine}X: {large}\r\n\r\n")),
        ("many headers", format!("{fine}{}\r\n", "X: a\r\n".repeat(200))),
        ("two credentials", format!("{fine}Authorization: Basic YTpi\r\n\r\n")),
        (
            "HTTP/9.9",
            format!("GET /v2/team/app/manifests/v1 HTTP/9.9\r\nHost: {LOGIN}\r\n\r\n{hidden}"),
        ),
        ("HTTP/0.9", "GET /v2/team/app/manifests/v1\r\n".to_owned()),
        (
            "two spaces",
            format!("GET  /v2/team/app/manifests/v1 HTTP/1.1\r\nHost: {LOGIN}\r\n\r\n{hidden}"),
        ),
        (
            "a tab",
            format!("GET /v2/team/app/manifests/v1\tHTTP/1.1\r\nHost: {LOGIN}\r\n\r\n{hidden}"),
        ),
        ("not HTTP", "\0\x01\x02\r\n\r\n".to_owned()),
        ("TLS in TLS", "\x16\x03\x01\x02\0\x01\0\x01\u{7f}\x03\x03".to_owned()),
    ] {
        let answer = raw(&lab, &request);
        assert!(is_refused(&answer), "{case}: {answer}");
        assert!(!answer.contains(" 200 "), "{case}: {answer}");
    }
    assert_eq!(smuggled_since(&lab, before), Vec::<String>::new());
    // Pipelined requests are answered in order, and each is judged.
    let tenant = format!("{line}Host: fabrikam.azurecr.io\r\n{bearer}\r\n\r\n");
    let pipelined = format!("{fine}\r\n{hidden}{tenant}{fine}\r\n");
    let answer = raw(&lab, &pipelined);
    let of = |text: &str| answer.matches(text).count();
    assert_eq!(
        (of("HTTP/1.1 200 "), of("HTTP/1.1 403 "), of("HTTP/1.1 421 ")),
        (2, 1, 1),
        "{answer}"
    );
    let came = smuggled_since(&lab, before);
    assert!(came.iter().all(|line| line.contains("/v2/team/app/manifests/v1 ")), "{came:#?}");
    assert_eq!(lab.asked("fabrikam.azurecr.io"), other);
    gate.audited(&[("kind", "request"), ("reason", "host-mismatch")]);
}

/// A registry that lies, in the place of contoso's.
fn lying(rules: &str) -> (Lab, Liar, Gate) {
    let lab = Lab::new(Blobs::DataEndpoint);
    let liar = Liar::start("127.0.1.9:443".parse().unwrap(), lab.server_certificate());
    let dns = format!(
        "[dns.hosts]\n\"{LOGIN}\" = [\"127.0.1.9\"]\n\
         \"contoso.eastus.data.azurecr.io\" = [\"127.0.1.2\"]\n"
    );
    let limits = "[limits]\nidle-timeout-ms = 1500\ndial-timeout-ms = 2000\n";
    let gate = lab.gate(&policy(&lab, rules).with_dns(&dns).with_more(limits));
    (lab, liar, gate)
}

#[test]
fn answers_that_lead_elsewhere_are_refused() {
    let (lab, _liar, gate) = lying("push = [\"**\"]");
    let head = |words: &[&str], path: &str| {
        let url = format!("https://{LOGIN}{path}");
        let words =
            [&["-i", "--suppress-connect-headers", "--max-time", "20"], words, &[&url]].concat();
        curl(&lab, &gate, &words).text
    };
    let more = [
        ("switch", "manifests", "502", "upstream-malformed"),
        ("inside", "blobs", "403", "redirect-not-allowed"),
    ];
    for (how, kind, status, reason) in LIES.iter().chain(&more) {
        let answer = head(&[], &format!("/v2/{how}/{kind}/{DIGEST}"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{how}: {answer}");
        assert!(answer.contains(&format!("[{reason}")), "{how}: {answer}");
        assert!(!answer.to_lowercase().contains("location:"), "{how}: {answer}");
    }
    // A blob with no bytes, in an answer of HTTP/1.0; answers before the answer, and behind it.
    for how in ["old", "two", "informs"] {
        let answer = head(&[], &format!("/v2/{how}/blobs/{DIGEST}"));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{how}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{how}: {answer}");
        assert!(!answer.contains("x-second") && !answer.contains("Hints"), "{how}: {answer}");
    }
    let post = |how: &str| head(&["-X", "POST"], &format!("/v2/{how}/app/blobs/uploads/"));
    for how in [
        "up-host",
        "up-tenant",
        "up-clear",
        "up-port",
        "up-user",
        "up-slashes",
        "up-other",
        "up-dots",
        "up-path",
    ] {
        let answer = post(how);
        assert!(answer.starts_with("HTTP/1.1 403 "), "{how}: {answer}");
        assert!(answer.contains("[redirect-not-allowed "), "{how}: {answer}");
        assert!(!answer.to_lowercase().contains("location:"), "{how}: {answer}");
    }
    let answer = post("up");
    let to = "location: /v2/up/app/blobs/uploads/1?_state=x";
    assert!(answer.starts_with("HTTP/1.1 202 ") && answer.contains(to), "{answer}");
    let answer = post("done");
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    assert!(!answer.to_lowercase().contains("location:"), "{answer}");
    assert_eq!(gate.metric("pullgate_session_panics_total", &[]), 0.0);
}

#[test]
fn a_body_goes_on_as_it_was_read_and_nothing_beside_it() {
    let (lab, liar, gate) = lying("push = [\"**\"]");
    let blob = "GET /v2/secret/app/manifests/v1 HTTP/1.1\r\nHost: fabrikam.azurecr.io\r\n\r\n";
    let digest = format!("sha256:{}", sha256(blob.as_bytes()));
    let post = format!("POST /v2/whole/app/blobs/uploads/?digest={digest} HTTP/1.1\r\n");
    let sent = post.replace("sha256:", "sha256%3A");
    let (length, size) = (blob.len(), format!("{:x}", blob.len()));
    let head = format!("{post}Host: {LOGIN}\r\nContent-Type: application/octet-stream\r\n");
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n");
    let trailer = "Host: fabrikam.azurecr.io\r\nAuthorization: Basic YTpi\r\n";
    for (case, request) in [
        ("a length", format!("{head}Content-Length: {length}\r\n\r\n{blob}")),
        ("chunks", format!("{chunked}\r\n{size}\r\n{blob}\r\n0\r\n\r\n")),
        ("extensions", format!("{chunked}\r\n{size};a=b\r\n{blob}\r\n0\r\n\r\n")),
        (
            "a trailer",
            format!("{chunked}Trailer: Host\r\n\r\n{size}\r\n{blob}\r\n0\r\n{trailer}\r\n"),
        ),
        ("Expect", format!("{head}Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n{blob}")),
        ("more headers", {
            let more = "Cookie: a\r\nX-Forwarded-Host: fabrikam.azurecr.io\r\nTE: trailers\r\n\
                        Forwarded: host=fabrikam.azurecr.io\r\nX-HTTP-Method-Override: DELETE\r\n\
                        X-Original-URL: /v2/secret/app/manifests/v1\r\n";
            format!("{head}{more}Content-Length: {length}\r\n\r\n{blob}")
        }),
    ] {
        let before = liar.seen().len();
        let answer = raw(&lab, &request);
        let made = answer.trim_start_matches("HTTP/1.1 100 Continue\r\n\r\n");
        assert!(made.starts_with("HTTP/1.1 201 "), "{case}: {answer}");
        let seen = liar.seen();
        // This one and the last.
        assert_eq!(seen.len(), before + 2, "{case}: {seen:#?}");
        let (head, body) = seen[before].split_once("\r\n\r\n").unwrap();
        assert!(seen[before].starts_with(&sent), "{case}: {head}");
        let lower = head.to_lowercase();
        assert_eq!(lower.matches("\nhost: contoso.azurecr.io").count(), 1, "{case}: {head}");
        assert!(!lower.contains("fabrikam") && !lower.contains("cookie"), "{case}: {head}");
        assert!(!lower.contains("x-") && !lower.contains("authorization"), "{case}: {head}");
        let framed = [lower.contains("\ncontent-length:"), lower.contains("\ntransfer-encoding:")];
        assert_eq!(framed.iter().filter(|one| **one).count(), 1, "{case}: {head}");
        assert!(body.contains(blob), "{case}: {body}");
        assert!(!body.contains("YTpi") && !body.contains("a=b"), "{case}: {body}");
    }
    let lines = requests(&gate);
    let uploads = lines.iter().filter(|line| line["operation"] == "upload-start");
    for line in uploads {
        assert_eq!((&line["bytes-up"], &line["status"]), (&length.into(), &201.into()), "{line}");
    }
    // Two framings of one body are two meanings: it is refused, or framed anew by the one that RFC 9112
    // §6.3 lets prevail.
    let body = format!("{size}\r\n{blob}\r\n0\r\n\r\n");
    for (status, request) in [
        ("201", format!("{chunked}Content-Length: {length}\r\n\r\n{body}")),
        ("400", format!("{head}Content-Length: 4\r\nContent-Length: {length}\r\n\r\n{blob}")),
        ("201", format!("{head}Transfer-Encoding: gzip, chunked\r\n\r\n{body}")),
        ("400", format!("{chunked}Transfer-Encoding: x\r\n\r\n0\r\n\r\n")),
    ] {
        let before = liar.seen().len();
        let answer = raw(&lab, &request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}\n->\n{answer}");
        let seen = liar.seen().split_off(before);
        let posted = |one: &&String| !one.starts_with("GET /v2/ ");
        let seen: Vec<&String> = seen.iter().filter(posted).collect();
        assert_eq!(seen.len(), usize::from(status == "201"), "{request}\n->\n{seen:#?}");
        for seen in seen {
            assert!(seen.starts_with(&sent) && seen.contains(blob), "{request}\n->\n{seen}");
            let lower = seen.to_lowercase();
            assert!(!lower.contains("gzip") && !lower.contains("content-length"), "{seen}");
        }
    }
}
