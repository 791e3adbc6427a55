//! Limits, drain, reload and parents hold for inspected tunnels and for the requests in them.

use std::fs;
use std::path::Path;
use std::time::Instant;

use crate::harness::{
    Blobs, Gate, HttpsTunnel, Image, Lab, PROXY, Policy, Tap, Way, client_config_by, tinyproxy,
    wait_until,
};
use crate::inspect::{IMAGE, LOGIN, authority, bearer, curl, lab, policy, pusher, requests, trust};
use crate::reload::reloaded;

const GROUP: &str = "[[client]]\nname = \"local\"\nnetworks = [\"127.0.0.0/8\"]\n";
const DATA: &str = "contoso.eastus.data.azurecr.io";

/// A policy that inspects contoso, with further lines of the registry's file and further tables.
fn with(lab: &Lab, inspect: &str, registry: &str, more: &str) -> Policy {
    let mut policy = policy(lab, inspect).with_more(more);
    let file = &mut policy.registries[0].1;
    *file = file.replace("[inspect]\n", &format!("{registry}\n[inspect]\n"));
    policy
}

/// A connection to the login server, inspected.
fn inside(lab: &Lab) -> Result<HttpsTunnel, String> {
    HttpsTunnel::open(&client_config_by(&authority(lab)), PROXY, LOGIN)
}

fn get(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {LOGIN}\r\n{more}\r\n")
}

#[test]
fn the_upload_budget_holds_for_requests_and_not_for_pulls() {
    let (lab, _) = lab(Blobs::DataEndpoint);
    let gate = lab.gate(&with(&lab, "", "pull-only = true", ""));
    trust(&lab);
    // 4 KiB each: the manual's 64 KiB are soon used up.
    let request = get("/v2/", &format!("User-Agent: {}\r\n", "x".repeat(4 << 10)));
    let mut client = inside(&lab).unwrap();
    let mut sent = 0;
    let refused = loop {
        client.send(request.as_bytes()).unwrap();
        let answer = client.answer().unwrap();
        if !answer.starts_with("HTTP/1.1 401 ") {
            break answer;
        }
        sent += request.len();
        assert!(sent < 80 << 10, "{sent} bytes passed");
    };
    assert!(refused.starts_with("HTTP/1.1 429 "), "{refused}");
    assert!(refused.contains("[upload-budget "), "{refused}");
    assert!(sent > 48 << 10, "{sent} bytes passed");
    drop(client);
    gate.audited(&[("kind", "request"), ("reason", "upload-budget"), ("outcome", "denied")]);
    let to = lab.dir().join("pulled");
    let copy = format!("skopeo copy docker://{IMAGE} dir:{}", to.display());
    lab.sh(Way::Through(&gate), &copy).succeeded();
}

#[test]
fn a_push_counts_towards_the_hour_of_its_client() {
    const HOUR: usize = 4 << 20;
    let lab = Lab::new(Blobs::DataEndpoint);
    let tap = Tap::start("127.0.2.7:443".parse().unwrap(), "127.0.1.1:443".parse().unwrap());
    let dns = format!("[dns.hosts]\n\"{LOGIN}\" = [\"127.0.2.7\"]\n");
    let group = format!("{GROUP}upload-bytes-per-hour = {HOUR}\n");
    let rules = "push = [\"team/app\"]";
    let policy = with(&lab, rules, "clients = [\"local\"]", &group).with_dns(&dns);
    let gate = lab.gate(&policy);
    trust(&lab);
    let small = Image::random(lab.dir(), 31, &[1 << 20]);
    let push = |image: &Image, tag: &str| {
        let to = format!("{LOGIN}/team/app:{tag}");
        lab.run(Way::Through(&gate), &lab.pushing(image, &to))
    };
    push(&small, "v1").succeeded();
    let large = Image::random(lab.dir(), 32, &[8 << 20]);
    let refused = push(&large, "v2").failed();
    println!("{}", refused.last_line());
    let line = gate.audited(&[("kind", "request"), ("reason", "upload-budget")]);
    assert_eq!((&line["outcome"], &line["repository"]), (&"denied".into(), &"team/app".into()));
    assert_eq!(line["client-name"], "local", "{line}");
    // What the server got beside it is TLS and heads.
    let (_, bytes) = tap.counted();
    assert!(bytes < (HOUR + (256 << 10)) as u64, "{bytes} bytes reached the server");
    assert!(!lab.asked(LOGIN).contains("PUT /v2/team/app/manifests/v2"), "nothing was pushed");
}

#[test]
fn report_mode_records_what_the_hour_of_a_client_would_cut() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let group = format!("{GROUP}upload-bytes-per-hour = 1048576\n");
    let policy = with(&lab, "push = [\"team/app\"]", "clients = [\"local\"]", &group);
    let gate = lab.gate(&policy.with_policy("enforcement = \"report\""));
    trust(&lab);
    let image = Image::random(lab.dir(), 31, &[4 << 20]);
    let push = lab.pushing(&image, "contoso.azurecr.io/team/app:v1");
    lab.run(Way::Through(&gate), &push).succeeded();
    let line = gate.audited(&[("outcome", "would-deny"), ("reason", "upload-budget")]);
    assert_eq!(line["inspected"], true, "{line}");
}

#[test]
fn downloads_in_inspected_tunnels_keep_the_rates() {
    const SIZE: u64 = 12 << 20;
    let lab = Lab::new(Blobs::DataEndpoint);
    let layer = lab.served("contoso").join("layer");
    fs::File::create(layer).unwrap().set_len(SIZE).unwrap();
    let group = format!("{GROUP}download-bytes-per-second = 4_194_304\n");
    let gate = lab.gate(&with(&lab, "hosts = \"all\"", "clients = [\"local\"]", &group));
    let url = format!("https://{DATA}/layer");
    let pull = || {
        let began = Instant::now();
        curl(&lab, &gate, &["-f", "-o", "/dev/null", &url]).succeeded();
        began.elapsed().as_secs_f64()
    };
    // A lower bound holds on every machine; the burst before the rate limit is less than 1 MB.
    let took = pull();
    assert!(took > 2.7, "12 MiB at 4 MiB/s took {took} s");
    let file = gate.registries().join("contoso.toml");
    let text = fs::read_to_string(&file).unwrap();
    let slower = text.replace("[inspect]", "download-bytes-per-second = 2_097_152\n[inspect]");
    reloaded(&gate, || fs::write(&file, slower).unwrap());
    let took = pull();
    assert!(took > 5.4, "12 MiB at 2 MiB/s took {took} s");
    let line = gate.audited(&[("kind", "request"), ("operation", "stored")]);
    assert_eq!((&line["bytes-down"], &line["client-name"]), (&SIZE.into(), &"local".into()));
}

#[test]
fn an_inspected_tunnel_takes_the_place_of_a_session_until_it_ends() {
    let (lab, _) = lab(Blobs::DataEndpoint);
    let group = format!("{GROUP}open-sessions = 2\n");
    let gate = lab.gate(&with(&lab, "", "clients = [\"local\"]", &group));
    let mut held = [inside(&lab).unwrap(), inside(&lab).unwrap()];
    for client in &mut held {
        client.send(get("/v2/", "").as_bytes()).unwrap();
        assert!(client.answer().unwrap().starts_with("HTTP/1.1 401 "));
    }
    let refused = inside(&lab).err().unwrap();
    assert!(refused.contains("503") && refused.contains("[session-limit "), "{refused}");
    drop(held);
    wait_until("they have ended", || {
        (gate.metric("pullgate_open_sessions", &[]) == 0.0).then_some(())
    });
    inside(&lab).unwrap();
}

#[test]
fn an_inspected_tunnel_ends_with_its_lifetime_and_an_idle_one_before() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let layer = lab.served("contoso").join("layer");
    fs::File::create(layer).unwrap().set_len(1 << 30).unwrap();
    let limits = "[limits]\nsession-lifetime-ms = 3000\nhead-timeout-ms = 1000\n";
    let gate = lab.gate(&with(&lab, "hosts = \"all\"", "", limits));
    let url = format!("https://{DATA}/layer");
    curl(&lab, &gate, &["--limit-rate", "8M", "-o", "/dev/null", &url]).failed();
    let line = gate.audited(&[("reason", "lifetime"), ("outcome", "denied")]);
    assert_eq!(line["inspected"], true, "{line}");
    assert!(line["ms"]["relay"].as_f64().unwrap() >= 2_900.0, "{line}");
    let asked = gate.audited(&[("kind", "request"), ("operation", "stored")]);
    assert!(asked["bytes-down"].as_u64().unwrap() > 0, "{asked}");
    assert_ne!(asked["outcome"], "relayed", "{asked}");
    // A client that asks for nothing, and one that asks for nothing more.
    let mut idle = [inside(&lab).unwrap(), inside(&lab).unwrap()];
    idle[1].send(get("/v2/", "").as_bytes()).unwrap();
    assert!(idle[1].answer().unwrap().starts_with("HTTP/1.1 401 "));
    assert_eq!(idle[0].rest(), "");
    assert_eq!(idle[1].rest(), "");
}

/// Starts a pull of 24 MiB through an inspected data endpoint, and waits until it streams.
fn slow_pull(lab: &Lab, gate: &Gate) -> std::process::Child {
    fs::File::create(lab.served("contoso").join("layer")).unwrap().set_len(24 << 20).unwrap();
    let (to, ca) = (lab.dir().join("pulled"), authority(lab));
    let url = format!("https://{DATA}/layer");
    let (to_text, ca) = (to.to_str().unwrap(), ca.to_str().unwrap());
    let line = ["curl", "-sS", "--cacert", ca, "--limit-rate", "8M", "-o", to_text, &url];
    let pull = lab.command(Way::Through(gate), &line).spawn().unwrap();
    wait_until("the layer streams", || {
        fs::metadata(&to).is_ok_and(|file| file.len() > 1 << 20).then_some(())
    });
    pull
}

#[test]
fn a_drain_ends_idle_connections_and_waits_for_requests() {
    let (lab, _) = lab(Blobs::DataEndpoint);
    let mut gate = lab.gate(&with(&lab, "hosts = \"all\"", "", ""));
    let mut idle = inside(&lab).unwrap();
    idle.send(get("/v2/", "").as_bytes()).unwrap();
    assert!(idle.answer().unwrap().starts_with("HTTP/1.1 401 "));
    let mut pull = slow_pull(&lab, &gate);
    gate.signal("TERM");
    // The idle one ends while the pull goes on.
    assert_eq!(idle.rest(), "");
    assert!(pull.try_wait().unwrap().is_none(), "the pull goes on");
    assert!(wait_until("the pull ends", || pull.try_wait().unwrap()).success());
    assert_eq!(fs::metadata(lab.dir().join("pulled")).unwrap().len(), 24 << 20);
    assert!(gate.ended().success());
    let audit = gate.audit();
    let stored = audit.iter().find(|line| line["operation"] == "stored").unwrap();
    assert_eq!(
        (&stored["outcome"], &stored["bytes-down"]),
        (&"relayed".into(), &(24 << 20).into())
    );
    let tunnels = audit.iter().filter(|line| line["inspected"] == true);
    assert_eq!(tunnels.filter(|line| line["outcome"] == "relayed").count(), 2, "{audit:?}");
}

#[test]
fn requests_that_outlast_a_drain_are_ended_and_recorded() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let limits = "[limits]\ndrain-timeout-ms = 500\n";
    let mut gate = lab.gate(&with(&lab, "hosts = \"all\"", "", limits));
    let mut pull = slow_pull(&lab, &gate);
    gate.signal("TERM");
    assert!(gate.ended().success());
    assert!(!wait_until("the pull ends", || pull.try_wait().unwrap()).success());
    let line = gate.audited(&[("kind", "request"), ("operation", "stored")]);
    assert_ne!(line["outcome"], "relayed", "{line}");
    let tunnel = gate.audited(&[("reason", "draining"), ("endpoint", "data")]);
    assert_eq!(tunnel["inspected"], true, "{tunnel}");
}

#[test]
fn a_reload_ends_the_requests_that_it_no_longer_allows() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let gate = lab.gate(&policy(&lab, "hosts = \"all\"\npush = [\"team/app\"]"));
    let bearer = pusher(&lab, &gate, "repository:team/app:pull,push");
    let uploads = format!("https://{LOGIN}/v2/team/app/blobs/uploads/");
    let begun = curl(&lab, &gate, &["-i", "-X", "POST", "-H", &bearer, &uploads]).succeeded();
    let location = begun.text.lines().find_map(|line| line.strip_prefix("location: ")).unwrap();
    let blob = lab.dir().join("blob");
    fs::File::create(&blob).unwrap().set_len(64 << 20).unwrap();
    let (ca, data) = (authority(&lab), format!("@{}", blob.display()));
    let url = format!("https://{LOGIN}{location}");
    let binary = "Content-Type: application/octet-stream";
    let line = ["curl", "-sS", "--cacert", ca.to_str().unwrap(), "--limit-rate", "1M"];
    let more = ["-X", "PATCH", "-H", binary, "-H", &bearer, "--data-binary", &data, &url];
    let mut push = lab.command(Way::Through(&gate), &[&line[..], &more].concat()).spawn().unwrap();
    wait_until("the upload streams", || {
        let up = ["direction=\"up\"", "endpoint=\"login\""];
        (gate.metric("pullgate_relayed_bytes_total", &up) > 256e3).then_some(())
    });
    let file = gate.registries().join("contoso.toml");
    let text = fs::read_to_string(&file).unwrap();
    reloaded(&gate, || fs::write(&file, text.replace("team/app", "other/app")).unwrap());
    wait_until("the upload ends", || push.try_wait().unwrap());
    let line = gate.audited(&[("kind", "request"), ("operation", "upload-chunk")]);
    assert_eq!((&line["outcome"], &line["reason"]), (&"denied".into(), &"policy-revoked".into()));
    assert!(line["bytes-up"].as_u64().unwrap() < 64 << 20, "{line}");

    // Without its registry, the tunnel ends, and the download in it.
    let mut pull = slow_pull(&lab, &gate);
    let other = "login-server = \"fabrikam.azurecr.io\"\n";
    reloaded(&gate, || fs::write(&file, other).unwrap());
    assert!(!wait_until("the pull ends", || pull.try_wait().unwrap()).success());
    let line = gate.audited(&[("kind", "request"), ("operation", "stored")]);
    assert_eq!(line["reason"], "policy-revoked", "{line}");
}

#[test]
fn inspected_tunnels_go_through_a_parent() {
    let (lab, image) = lab(Blobs::DataEndpoint);
    let _parent = tinyproxy(&lab, "127.0.0.1:8079");
    let parent =
        "[[parent]]\nname = \"corp\"\naddresses = [\"127.0.0.1:8079\"]\nconnect = \"name\"\n";
    let rules = "pull = [\"team/**\"]\npush = [\"team/app\"]";
    let gate = lab.gate(&with(&lab, rules, "parent = \"corp\"", parent));
    trust(&lab);
    let to = lab.dir().join("pulled");
    let copy = format!("skopeo copy --preserve-digests docker://{IMAGE} dir:{}", to.display());
    lab.sh(Way::Through(&gate), &copy).succeeded();
    for (digest, _) in &image.layers {
        assert!(fs::read(to.join(&digest[7..])).unwrap() == image.blob(digest), "{digest} differs");
    }
    let fresh = Image::random(lab.dir(), 9, &[2 << 20, 2000]);
    let push = lab.pushing(&fresh, "contoso.azurecr.io/team/app:v2");
    lab.run(Way::Through(&gate), &push).succeeded();
    let bearer = bearer(&lab, &gate, "repository:other/app:pull");
    let other = format!("https://{LOGIN}/v2/other/app/manifests/v1");
    let refused = curl(&lab, &gate, &["-H", &bearer, &other]).succeeded();
    assert!(refused.text.contains("[repository-not-allowed "), "{}", refused.text);
    let lines = gate.audit_of_pulls();
    for line in lines.iter().filter(|line| line["kind"].is_null()) {
        assert_eq!((&line["parent"], &line["outcome"]), (&"corp".into(), &"relayed".into()));
        assert_eq!(line["inspected"] == true, line["endpoint"] == "login", "{line}");
    }
    assert!(requests(&gate).iter().any(|line| line["operation"] == "put-manifest"));
    assert!(Path::new(&to).exists());
}
