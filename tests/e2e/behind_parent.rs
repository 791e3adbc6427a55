//! Every way to the gate has its parent behind it: transparent listeners and the mirror; what
//! happens when a parent is full, or does not answer.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::thread;

use serde_json::Value;

use crate::doctor::{host_policy, says};
use crate::gateway::{CAPTURES, policy as gateway_policy};
use crate::harness::{
    ADMIN, ATTACKER, Attacker, Blobs, Daemon, Family, GATE_USER, INSIDE, Lab, NO_CAPABILITIES,
    PATIENCE, Place, Policy, Way, connect_through, every_client_pulls, find, relayed_or_aborted,
    resolver, squid, wait_until, with_basic,
};
use crate::mirror::{policy as mirror_policy, pull_with_every_client, requests};
use crate::parent::{HOST, REFERENCE, with_parent};

const GATE: &str = "127.0.0.1:3128";
const CLIENT: Way = Way::In(Place::Client);
const GATEWAY: Way = Way::In(Place::Gateway);

/// The parent of a gateway: on the outside.
const OUTSIDE: &str = "198.51.100.254:8080";

/// Counts what the gateway sends to the outside over TCP, for itself or for others, past the parent.
const COUNT: &str = "\ntable inet count {\n counter past {}\n chain out {\n\
    type filter hook postrouting priority 0; policy accept;\n\
    oifname \"outside\" meta l4proto tcp ip daddr != 198.51.100.254 counter name past\n\
    oifname \"outside\" meta nfproto ipv6 meta l4proto tcp counter name past\n }\n}\n";

/// Whether no packet has gone past the parent.
fn nothing_past() -> bool {
    let mut listing = Place::Gateway.command("0", NO_CAPABILITIES, &find("nft"));
    let listed = listing.args(["list", "counter", "inet", "count", "past"]).output().unwrap();
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(text.contains("packets "), "{text}");
    text.contains("packets 0 ")
}

/// A laboratory whose client has no setting, and the DNS server outside.
fn gateway() -> (Lab, Daemon) {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    lab.route_captured();
    let resolver = resolver(&lab, &[Family::V4]);
    lab.resolve_by(Place::Client, &INSIDE);
    (lab, resolver)
}

#[test]
fn clients_without_a_setting_pull_through_the_parent() {
    let (lab, _resolver) = gateway();
    let image = lab.push(REFERENCE, 1, &[2 << 20, 2000]);
    let _squid = squid(&lab, OUTSIDE, "http_access allow all");
    for (capture, capabilities, rules) in CAPTURES {
        for connect in ["name", "address"] {
            let policy = with_parent(gateway_policy(capture), &[OUTSIDE], connect, "");
            let gate = lab.gate_on_gateway(capabilities, &policy);
            lab.load(&(lab.kit(rules) + COUNT));
            every_client_pulls(&lab, CLIENT, REFERENCE, &image);
            let lines = gate.audit_of_pulls();
            for line in &lines {
                assert_eq!(line["outcome"], "relayed", "{line}");
                assert_eq!(line["parent"], "corp", "{line}");
                assert_eq!(line["client"], "10.7.0.2", "{line}");
            }
            let spliced = ["endpoint=\"data\"", "path=\"splice\""];
            let share = gate.metric("pullgate_relayed_bytes_total", &spliced) / image.size() as f64;
            assert!(share > 2.4, "{capture}: three pulls, of which only {share} were spliced");
            assert!(nothing_past(), "{capture}, by {connect}");
        }
    }
}

/// What the parent of `nothing_leaves_past_the_parent` does, with the code that the client's session
/// gets.
fn faulty_parents(lab: &Lab) -> [(Option<String>, &'static str); 3] {
    [
        (None, "parent-unreachable"),
        (Some("http_access deny all".to_owned()), "parent-refused"),
        (Some(with_basic(lab, "gate", "secret")), "parent-auth"),
    ]
}

#[test]
fn nothing_leaves_past_the_parent_of_a_transparent_listener() {
    let (lab, _resolver) = gateway();
    let attempt = format!("curl -sS -o /dev/null --max-time 15 https://{HOST}/v2/");
    for (capture, capabilities, rules) in CAPTURES {
        for (state, code) in faulty_parents(&lab) {
            let _parent = state.map(|rules| squid(&lab, OUTSIDE, &rules));
            let policy = with_parent(gateway_policy(capture), &[OUTSIDE], "address", "");
            let gate = lab.gate_on_gateway(capabilities, &policy);
            lab.load(&(lab.kit(rules) + COUNT));
            lab.sh(CLIENT, &attempt).failed();
            let line = gate.audited(&[("reason", code)]);
            assert_eq!(line["outcome"], "failed", "{line}");
            assert!(nothing_past(), "{capture}: packets went past the parent: {code}");
        }
    }
    // The counter counts: without a parent the gate dials the registry.
    let (capture, capabilities, rules) = CAPTURES[0];
    let gate = lab.gate_on_gateway(capabilities, &gateway_policy(capture));
    lab.load(&(lab.kit(rules) + COUNT));
    lab.sh(CLIENT, &attempt).succeeded();
    assert!(!nothing_past(), "the counter does not count");
    drop(gate);
}

/// The rules of `pullgate kit` on a host; `doctor` shows the parent's state in the gate's words, and
/// that nobody but the gate reaches the parent.
#[test]
fn the_gates_user_reaches_the_parent_and_nothing_else() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let _resolver = resolver(&lab, &[Family::V4]);
    let _attacker = Attacker::start(&lab);
    lab.resolve_by(Place::Gateway, &["127.0.0.1"]);
    let squid = squid(&lab, OUTSIDE, "http_access allow all");
    let policy = with_parent(host_policy("redirect"), &[OUTSIDE], "address", "");
    let _gate = lab.gate_on_gateway("+net_bind_service", &policy);
    let rules = lab.kit("nftables --user 990");
    lab.load(&rules);
    let reaches = |user: &str, address: &str, port: u16| {
        let mut command = Place::Gateway.command(user, NO_CAPABILITIES, &find("timeout"));
        let script = format!("exec 3<>/dev/tcp/{address}/{port}");
        let ran = command.args(["3", "bash", "-c", &script]).output().unwrap();
        ran.status.success()
    };
    let (parent, _) = OUTSIDE.rsplit_once(':').unwrap();
    assert!(reaches(GATE_USER, parent, 8080), "the gate's user, the parent");
    for address in ATTACKER.into_iter().chain(["198.51.100.11", "2001:db8::11", parent]) {
        assert!(!reaches(GATE_USER, address, 443), "the gate's user, {address}");
    }
    assert!(!reaches("1000", parent, 8080), "another user, the parent");
    let tried = "--allowed contoso.azurecr.io --resolver 127.0.0.53 --closed";
    let tried = format!("{tried} {OUTSIDE} --proxy http://127.0.0.1:3128 --admin {ADMIN}");
    let well = says(&lab, GATEWAY, &tried, 0);
    let route =
        format!("the gate's route to {HOST}:443: through parent corp at {OUTSIDE}, asked by");
    let line = format!("works   {route} address: no failure is known\n");
    assert!(well.contains(&line), "{well}");
    // Without the rule for the parent nothing works.
    let rule = format!("ip daddr {parent} tcp dport 8080 ct mark set $own accept");
    let weaker: String = rules
        .lines()
        .filter(|line| !line.contains(&rule))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_ne!(weaker.trim(), rules.trim());
    lab.load(&weaker);
    says(&lab, GATEWAY, &tried, 1);
    lab.load(&rules);
    drop(squid);
    let words = "no parent proxy; corp refused the connection [parent-unreachable ";
    wait_until("doctor tells the parent's state", || {
        let said = says(&lab, GATEWAY, &tried, 1);
        let line = format!("FAILS   {route} address: corp refused the connection");
        let is_shown = said.contains(&line);
        let fails = |line: &str| line.starts_with("FAILS") && line.contains(words);
        (said.lines().any(fails) && is_shown).then_some(())
    });
}

/// With a proxy the doctor has the gate's words, and from the gate's host its route, too.
#[test]
fn doctor_shows_the_route_and_why_the_parent_opens_no_tunnel() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let at = "127.0.0.1:8080";
    let file = "login-server = \"fabrikam.azurecr.io\"\nparent = \"none\"\n\
                data-endpoints = [\"fabrikam.eastus.data.azurecr.io\"]\n";
    let policy = Policy::of(&["contoso"]).with_file("fabrikam.toml", file);
    let gate = lab.gate(&with_parent(policy, &[at], "name", ""));
    let doctor = |host: &str, admin: &str| {
        let program = env!("CARGO_BIN_EXE_pullgate");
        let line = format!(
            "{program} doctor --allowed {host} --proxy {} --admin {admin} --timeout-ms 3000",
            gate.proxy()
        );
        lab.sh(Way::Direct, &line)
    };
    let refusing = "http_access deny all".to_owned();
    for (rules, words, code, needs) in [
        (refusing, "403 Forbidden", "parent-refused", "a rule of the parent"),
        (
            with_basic(&lab, "gate", "secret"),
            "407 Proxy Authentication Required",
            "parent-auth",
            "credentials that the parent accepts",
        ),
    ] {
        let _squid = squid(&lab, at, &rules);
        let (route, client) = (format!("{words} [{code}]; it needs: {needs}"), format!("[{code} "));
        wait_until(&format!("doctor shows {code}"), || {
            let said = doctor(HOST, ADMIN).failed().text;
            let fails = |what: &str, words: &str| {
                let mut lines = said.lines().filter(|line| line.starts_with("FAILS"));
                lines.any(|line| line.contains(what) && line.contains(words))
            };
            let by_client = fails("through http://127.0.0.1:3128: ", &client)
                && fails(words, "it needs: a parent proxy that lets the gate reach it");
            (by_client && fails("through parent corp at 127.0.0.1:8080, asked by name", &route))
                .then_some(())
        });
    }
    let _squid = squid(&lab, at, "http_access allow all");
    wait_until("doctor shows that it works", || {
        let said = doctor(HOST, ADMIN).text;
        said.contains("works   the gate's route to contoso.azurecr.io:443: through").then_some(())
    });
    let direct = doctor("fabrikam.azurecr.io", ADMIN).text;
    let line = "works   the gate's route to fabrikam.azurecr.io:443: directly";
    assert!(direct.contains(line), "{direct}");
    let absent = doctor(HOST, "127.0.0.1:9").failed().text;
    let line =
        "FAILS   the routes of the gate, from its admin listener 127.0.0.1:9: Connection refused";
    assert!(absent.contains(line), "{absent}");
}

/// Counts connections to the servers that are not Squid's: its user is `proxy`.
const COUNT_OTHERS: &str = "table ip count {\n counter past {}\n chain out {\n\
    type filter hook output priority 0; policy accept;\n\
    ip daddr { 127.0.1.1, 127.0.1.2 } tcp flags & (syn | ack) == syn meta skuid != \"proxy\" \
    counter name past\n }\n}\n";

#[test]
fn the_mirror_pulls_through_the_parent() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let image = lab.push("contoso.azurecr.io/team/app:v1", 1, &[2 << 20, 1 << 20, 2000]);
    let at = "127.0.0.1:8080";
    let _squid = squid(&lab, at, "http_access allow all");
    let rules = lab.dir().join("count.nft");
    fs::write(&rules, COUNT_OTHERS).unwrap();
    lab.sh(Way::Direct, &format!("nft -f {}", rules.display())).succeeded();
    for connect in ["name", "address"] {
        let policy = mirror_policy(&lab, "tunnel = \"none\"", "blobs = \"relay\"");
        let gate = lab.gate(&with_parent(policy, &[at], connect, ""));
        pull_with_every_client(&lab, Way::Direct, &image);
        let lines = requests(&gate);
        assert!(lines.iter().all(relayed_or_aborted), "{lines:?}");
        assert!(lines.len() > 12, "{lines:?}");
        let past = lab.sh(Way::Direct, "nft list counter ip count past").succeeded().text;
        assert!(past.contains("packets 0 "), "{past}");
        drop(gate);
        lab.sh(Way::Direct, "podman rmi --force --all").succeeded();
        for folder in ["pulled", "containerd", "containerd-state", "gate"] {
            fs::remove_dir_all(lab.dir().join(folder)).unwrap();
        }
    }
}

/// The first event of the status page.
fn page_state() -> Value {
    let mut stream = TcpStream::connect(ADMIN).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /events HTTP/1.1\r\nHost: {ADMIN}\r\n\r\n").unwrap();
    let mut text = String::new();
    let mut chunk = [0; 4096];
    loop {
        let count = stream.read(&mut chunk).unwrap();
        assert!(count > 0, "{text}");
        text.push_str(std::str::from_utf8(&chunk[..count]).unwrap());
        let event = text.split_once("data: ").and_then(|(_, rest)| rest.split_once("\n\n"));
        if let Some((json, _)) = event {
            return serde_json::from_str(json).unwrap();
        }
    }
}

#[test]
fn the_route_is_shown_by_explain_check_and_the_status_page() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let squid = squid(&lab, "127.0.0.1:8080", "http_access allow all");
    let gate = lab.gate(&with_parent(Policy::of(&["contoso"]), &["127.0.0.1:8080"], "name", ""));
    let config = lab.dir().join("gate/pullgate.toml");
    let program = env!("CARGO_BIN_EXE_pullgate");
    for (command, words) in [
        ("explain contoso.azurecr.io", "route:     parent corp (by name"),
        ("check", "parent corp: 127.0.0.1:8080 (connects by name)"),
        ("check", ", through parent corp"),
    ] {
        let line = format!("{program} {command} --config {}", config.display());
        let text = lab.sh(Way::Direct, &line).succeeded().text;
        assert!(text.contains(words), "{command}: {text}");
    }
    let shown = |is_up: bool| {
        let policy: Value = serde_json::from_str(&gate.admin("/policy").1).unwrap();
        assert_eq!(policy["registries"][0]["parent"], "corp", "{policy}");
        assert_eq!(policy["parents"][0]["name"], "corp", "{policy}");
        let page = page_state();
        let route = page["registries"][0]["policy"]["route"].as_str().unwrap();
        assert!(route.starts_with("parent corp"), "{page}");
        let ups = [&policy["parents"][0]["up"], &page["parents"][0]["up"]];
        (ups == [is_up, is_up]).then_some(())
    };
    wait_until("the parent is shown to work", || shown(true));
    drop(squid);
    let (_, line) = connect_through(GATE, "contoso.azurecr.io:443", "");
    assert!(line.contains("[parent-unreachable "), "{line}");
    wait_until("the parent is shown not to work", || shown(false));
    assert_eq!(gate.metric("pullgate_parent_up", &["parent=\"corp\""]), 0.0);
}

/// Squid's helper believes every answer, so the protocol is what is tried here. Its challenge lacks
/// what NTLMv2 needs.
#[test]
fn cntlm_speaks_ntlm_for_the_gate() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let image = lab.push(REFERENCE, 1, &[2 << 20, 2000]);
    let rules = "auth_param ntlm program /usr/lib/squid/ntlm_fake_auth\n\
                 auth_param ntlm children 2\nacl known proxy_auth REQUIRED\n\
                 http_access allow known\nhttp_access deny all";
    let _squid = squid(&lab, "127.0.0.1:8080", rules);
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/parent.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, example) = page.split_once("# /etc/cntlm.conf\n").unwrap();
    let example = example.split("```").next().unwrap();
    let file = lab.dir().join("cntlm.conf");
    let example = example.replace("proxy.corp.example:8080", "127.0.0.1:8080");
    fs::write(&file, example.replace("NTLMv2", "NTLM")).unwrap();
    let at = "127.0.0.1:3130";
    let line = ["cntlm", "-f", "-c", file.to_str().unwrap()];
    let _cntlm = lab.daemon("cntlm", &line).accepts(at.parse().unwrap());
    let gate = lab.gate(&with_parent(Policy::of(&["contoso"]), &[at], "name", ""));
    every_client_pulls(&lab, Way::Through(&gate), REFERENCE, &image);
    let lines = gate.audit_of_all();
    assert!(lines.iter().all(relayed_or_aborted), "{lines:?}");
    let log = fs::read_to_string("/run/squid-127.0.0.1-8080/access.log").unwrap();
    // What it takes for the name of the user is in the log.
    let seen = |line: &str| line.contains(" TCP_TUNNEL/200 ") && !line.contains(":443 - ");
    let tunnels = log.lines().filter(|line| seen(line)).count();
    assert_eq!(tunnels, lines.len(), "{log}");
}

/// A check of Squid that never ends, one request at a time, with one more in its queue.
const SLOW: &str = "external_acl_type slow ttl=0 children-max=1 children-startup=1 queue-size=1 %>p \
    /run/slow.sh\n\
    acl checked external slow\nhttp_access allow checked\nhttp_access deny all";

#[test]
fn a_squid_whose_queue_is_full_refuses_and_one_that_hangs_does_not_answer() {
    let lab = Lab::new(Blobs::DataEndpoint);
    fs::write("/run/slow.sh", "#!/bin/sh\nexec sleep 600\n").unwrap();
    fs::set_permissions("/run/slow.sh", fs::Permissions::from_mode(0o755)).unwrap();
    let squid = squid(&lab, "127.0.0.1:8080", SLOW);
    let policy = with_parent(Policy::of(&["contoso"]), &["127.0.0.1:8080"], "address", "");
    let gate = lab.gate(&policy.with_more("[limits]\ndial-timeout-ms = 2000\n"));
    let inspect = || {
        let line = format!("skopeo inspect docker://{REFERENCE}");
        lab.sh(Way::Through(&gate), &line).failed()
    };
    let filling: Vec<_> = (0..4)
        .map(|_| thread::spawn(|| connect_through(GATE, "contoso.azurecr.io:443", "").1))
        .collect();
    let full = wait_until("the queue is full", || {
        let ran = inspect();
        ran.last_line().contains("[parent-refused ").then_some(ran)
    });
    let words = "contoso.azurecr.io refused by parent; 403 Forbidden [parent-refused ";
    assert!(full.last_line().contains(words), "{}", full.text);
    let said = fs::read_to_string("/run/squid-127.0.0.1-8080/cache.log").unwrap();
    assert!(said.contains("queue full"), "{said}");
    squid.signal("STOP");
    let hung = inspect();
    let words = "no parent proxy; corp did not answer in time [parent-unreachable ";
    assert!(hung.last_line().contains(words), "{}", hung.text);
    for line in filling {
        assert!(line.join().unwrap().starts_with("HTTP/1.1 502 "));
    }
    assert_eq!(lab.asked(HOST), "", "nothing reached the registry");
    drop(gate);
}
