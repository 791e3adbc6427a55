//! Parent proxies: pulls through them, what the user reads when one refuses, and nothing past them.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use crate::harness::{
    Blobs, Daemon, Gate, HttpsTunnel, Image, Lab, NO_CAPABILITIES, Place, Policy, ScriptedParent,
    Way, client_config, connect_through, every_client_pulls, relayed_or_aborted, second_gate,
    squid, tinyproxy, wait_until, with_basic,
};

pub const HOST: &str = "contoso.azurecr.io";
pub const REFERENCE: &str = "contoso.azurecr.io/app:1";
const SQUID: &str = "127.0.0.1:8080";
const GATE: &str = "127.0.0.1:3128";

/// The policy with one parent; `more`: further keys of it.
pub fn policy(addresses: &[&str], connect: &str, more: &str) -> Policy {
    with_parent(Policy::of(&["contoso"]), addresses, connect, more)
}

/// A policy whose registries are reached through a parent; `more`: further keys of it.
pub fn with_parent(policy: Policy, addresses: &[&str], connect: &str, more: &str) -> Policy {
    let addresses: Vec<String> = addresses.iter().map(|one| format!("\"{one}\"")).collect();
    policy.with_policy("parent = \"corp\"").with_more(&format!(
        "[[parent]]\nname = \"corp\"\naddresses = [{}]\nconnect = \"{connect}\"\n{more}\n",
        addresses.join(", ")
    ))
}

/// Writes a secret file and returns the key that names it.
pub fn credentials(lab: &Lab, content: &str) -> String {
    let file = lab.dir().join("corp.secret");
    fs::write(&file, content).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    format!("credentials-file = \"{}\"", file.display())
}

/// Asserts that every session was relayed through the parent, and by which path the layers went.
pub fn assert_relayed(gate: &Gate, image: &Image, connect: &str, path: &str) {
    let lines = gate.audit_of_pulls();
    assert!(lines.len() > 1);
    for line in &lines {
        assert_eq!(line["outcome"], "relayed", "{line}");
        assert_eq!(line["parent"], "corp", "{line}");
        assert_eq!(line["resolved-by"] == "parent", connect == "name", "{line}");
        assert_eq!(line["upstream"].is_null(), connect == "name", "{line}");
    }
    let data = "endpoint=\"data\"";
    let all = gate.metric("pullgate_relayed_bytes_total", &[data]);
    let by_path = gate.metric("pullgate_relayed_bytes_total", &[data, &format!("path=\"{path}\"")]);
    assert!(all > image.size() as f64, "only {all} bytes");
    assert!(by_path > 0.8 * all, "only {by_path} of {all} bytes by {path}");
    assert_eq!(gate.metric("pullgate_parent_up", &["parent=\"corp\""]), 1.0);
    assert!(gate.metric("pullgate_parent_seconds_count", &[]) >= lines.len() as f64);
}

#[test]
fn images_come_through_squid_with_basic_byte_for_byte_and_spliced() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let image = lab.push(REFERENCE, 1, &[4 << 20, 1 << 20, 2000]);
    let _squid = squid(&lab, SQUID, &with_basic(&lab, "gate", "secret"));
    for connect in ["name", "address"] {
        let secret = credentials(&lab, "gate:secret\n");
        let _ = fs::remove_dir_all(lab.dir().join("gate"));
        let gate = lab.gate(&policy(&[SQUID], connect, &secret));
        every_client_pulls(&lab, Way::Through(&gate), REFERENCE, &image);
        assert_relayed(&gate, &image, connect, "splice");
    }
    let log = fs::read_to_string("/run/squid-127.0.0.1-8080/access.log").unwrap();
    assert!(log.contains("CONNECT contoso.azurecr.io:443"), "{log}");
    assert!(log.contains("CONNECT 127.0.1.2:443"), "{log}");
    assert!(!log.contains("TCP_DENIED"), "no request came without credentials:\n{log}");
}

#[test]
fn a_changed_credentials_file_is_read_again() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let _squid = squid(&lab, SQUID, &with_basic(&lab, "gate", "secret"));
    let gate = lab.gate(&policy(&[SQUID], "name", &credentials(&lab, "gate:wrong")));
    let (_, line) = connect_through(GATE, "contoso.azurecr.io:443", "");
    assert!(line.starts_with("HTTP/1.1 502 ") && line.contains("[parent-auth "), "{line}");
    credentials(&lab, "gate:secret");
    wait_until("the new password is used", || {
        let (_, line) = connect_through(GATE, "contoso.azurecr.io:443", "");
        line.starts_with("HTTP/1.1 200").then_some(())
    });
    drop(gate);
}

#[test]
fn the_last_line_of_skopeo_has_the_host_the_code_and_the_parents_words() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let denied = "acl contoso dstdomain .azurecr.io\nhttp_access deny contoso\n\
                  http_access allow all";
    let inspect = format!("skopeo inspect docker://{REFERENCE}");
    let denying = squid(&lab, SQUID, denied);
    let gate = lab.gate(&policy(&[SQUID], "name", ""));
    let says = |words: &[&str]| {
        let ran = lab.sh(Way::Through(&gate), &inspect).failed();
        for word in words {
            assert!(ran.last_line().contains(word), "{word}:\n{}", ran.text);
        }
    };
    says(&[HOST, "refused by parent; 403 Forbidden", "[parent-refused "]);
    drop(denying);
    says(&[HOST, "no parent proxy; corp refused the connection", "[parent-unreachable "]);
    let _squid = squid(&lab, SQUID, &with_basic(&lab, "gate", "secret"));
    wait_until("the parent is tried again", || {
        let ran = lab.sh(Way::Through(&gate), &inspect).failed();
        ran.last_line().contains("407 Proxy Authentication Required [parent-auth ").then_some(())
    });
    gate.audited_fact("parent-answer", "407 Proxy Authentication Required");
    assert_eq!(lab.asked(HOST), "", "nothing reached the registry");
}

#[test]
fn two_gates_in_a_row_carry_an_image_and_find_a_loop() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let image = lab.push(REFERENCE, 1, &[2 << 20, 2000]);
    let second = "127.0.0.1:3138";
    let listen = format!("[[listen]]\nmode = \"connect\"\naddress = \"{second}\"\n");
    let open = "[addresses]\nallow = [\"127.0.0.0/8\"]\n";
    let pins = "[dns.hosts]\n\"contoso.azurecr.io\" = \"127.0.1.1\"\n\
                \"contoso.eastus.data.azurecr.io\" = \"127.0.1.2\"\n";
    let gate = lab.gate(&policy(&[second], "name", ""));
    {
        let _second = second_gate(&lab, second, &format!("{listen}{open}{pins}"));
        every_client_pulls(&lab, Way::Through(&gate), REFERENCE, &image);
        assert_relayed(&gate, &image, "name", "splice");
    }
    // The second gate now leads back to the first.
    let back = "[policy]\nparent = \"first\"\n[[parent]]\nname = \"first\"\n\
                addresses = [\"127.0.0.1:3128\"]\nconnect = \"name\"\n";
    let _second = second_gate(&lab, second, &format!("{listen}{back}"));
    let (_, line) = wait_until("the second gate is tried again", || {
        let answered = connect_through(GATE, "contoso.azurecr.io:443", "");
        (!answered.1.contains("[parent-unreachable ")).then_some(answered)
    });
    assert!(line.contains("[parent-refused "), "{line}");
    let looped = gate.audited(&[("reason", "proxy-loop")]);
    assert_eq!(looped["outcome"], "denied", "{looped}");
    assert_eq!(looped["upstream"], serde_json::Value::Null, "{looped}");
}

#[test]
fn hostile_parents_have_a_code_each() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let fields = "X-Filler: y\r\n".repeat(2000);
    let cases: Vec<(Vec<u8>, bool, &str)> = vec![
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".to_vec(), false, "200 "),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 299 x\r\n\r\n".to_vec(), false, "200 "),
        (b"HTTP/1.1 302 Found\r\nLocation: http://x/\r\n\r\n".to_vec(), true, "[parent-refused "),
        (b"HTTP/1.1 403 \xe4No\xff\r\n\r\n".to_vec(), true, "403 ?No? [parent-refused "),
        (b"HTTP/1.1 403 \x1b[31mNo\r\n\r\n".to_vec(), true, "[parent-malformed "),
        (b"HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic\r\n\r\n".to_vec(), true, "[parent-auth "),
        (b"HTTP/1.1 101 Switching\r\n\r\n".to_vec(), true, "[parent-malformed "),
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), false, "[parent-malformed "),
        (b"HTTP/1.1 200 O".to_vec(), true, "[parent-malformed "),
        (format!("HTTP/1.1 200 OK\r\n{fields}\r\n").into_bytes(), true, "[parent-malformed "),
        (b"".to_vec(), true, "[parent-unreachable "),
        (b"".to_vec(), false, "corp did not answer in time [parent-unreachable "),
        (b"HTTP/1.1 200 O".to_vec(), false, "[parent-unreachable "),
    ];
    for (bytes, closes, expected) in cases {
        let parent = ScriptedParent::start(bytes.clone(), closes);
        let _ = fs::remove_dir_all(lab.dir().join("gate"));
        let at = parent.address.to_string();
        let limits = "[limits]\ndial-timeout-ms = 1000\n";
        let gate = lab.gate(&policy(&[&at], "address", "").with_more(limits));
        let (_tunnel, line) = connect_through(GATE, "contoso.azurecr.io:443", "");
        assert!(line.contains(expected), "{:?}: {line}", String::from_utf8_lossy(&bytes));
        assert_eq!(parent.asked(), 1, "{line}");
        drop(gate);
    }
    assert_eq!(lab.asked(HOST), "", "nothing reached the registry");
}

/// A TLS alert, as the first bytes of a server: `handshake_failure`.
pub const ALERT: &[u8] = &[21, 3, 3, 0, 2, 2, 40];

/// What a client in a tunnel sees instead of an answer to its ClientHello.
pub fn seen_in_tunnel(lab: &Lab) -> String {
    let mut tunnel = HttpsTunnel::open(&client_config(lab), GATE, HOST).unwrap();
    tunnel.fetches("/", "").unwrap_err().to_string()
}

#[test]
fn bytes_behind_the_parents_head_belong_to_the_tunnel() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let head: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
    for size in [1, 7, 1000] {
        let parent = ScriptedParent::start_in_pieces([head, ALERT].concat(), false, size);
        let _ = fs::remove_dir_all(lab.dir().join("gate"));
        let gate = lab.gate(&policy(&[&parent.address.to_string()], "address", ""));
        let seen = seen_in_tunnel(&lab);
        assert!(seen.contains("HandshakeFailure"), "in pieces of {size}: {seen}");
        drop(gate);
    }
}

/// Some proxies answer 200 before they connect, and close if they cannot.
#[test]
fn a_parent_that_closes_the_tunnel_at_once_has_a_code() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let parent = ScriptedParent::start(b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), true);
    let gate = lab.gate(&policy(&[&parent.address.to_string()], "address", ""));
    // Its close can be slower than the client's hello.
    wait_until("the client reads an alert", || {
        seen_in_tunnel(&lab).contains("alert: InternalError").then_some(())
    });
    let line = gate.audited(&[("reason", "parent-refused")]);
    assert_eq!((&line["outcome"], &line["bytes-up"]), (&"failed".into(), &0.into()), "{line}");
    let words = "it opened the tunnel and closed it at once";
    assert_eq!(line["facts"]["parent-answer"], words, "{line}");
}

#[test]
fn an_outage_leads_to_the_next_address_and_a_refusal_does_not() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let answers: &[(&[u8], &str, usize)] = &[
        (b"HTTP/1.1 503 Busy\r\n\r\n", "200 ", 1),
        (b"HTTP/1.1 502 Bad\r\n\r\n", "200 ", 1),
        (b"HTTP/1.1 504 Late\r\n\r\n", "200 ", 1),
        (b"", "200 ", 1),
        (b"HTTP/1.1 403 No\r\n\r\n", "[parent-refused ", 0),
        (b"HTTP/1.1 407 Who\r\n\r\n", "[parent-auth ", 0),
        (b"nonsense", "[parent-malformed ", 0),
    ];
    for (bytes, expected, asked) in answers {
        let first = ScriptedParent::start(bytes.to_vec(), true);
        let second = ScriptedParent::start(b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), false);
        let _ = fs::remove_dir_all(lab.dir().join("gate"));
        let addresses = [first.address.to_string(), second.address.to_string()];
        let addresses = [addresses[0].as_str(), &addresses[1]];
        let gate = lab.gate(&policy(&addresses, "name", ""));
        let (_tunnel, line) = connect_through(GATE, "contoso.azurecr.io:443", "");
        assert!(line.contains(expected), "{:?}: {line}", String::from_utf8_lossy(bytes));
        assert_eq!((first.asked(), second.asked()), (1, *asked), "{line}");
        drop(gate);
    }
}

#[test]
fn when_one_of_two_parents_dies_the_others_tunnels_and_new_sessions_go_on() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let mut first = Some(tinyproxy(&lab, "127.0.0.1:8081"));
    let _second = tinyproxy(&lab, "127.0.0.1:8082");
    let gate = lab.gate(&policy(&["127.0.0.1:8081", "127.0.0.1:8082"], "name", ""));
    let fetch = "curl -sSf -o /dev/null https://contoso.azurecr.io/oauth2/token";
    let scope = "?service=contoso.azurecr.io&scope=repository:app:pull";
    let fetch = || lab.sh(Way::Through(&gate), &format!("{fetch}{scope}")).succeeded();
    for number in 0..20 {
        if number == 10 {
            first = None::<Daemon>;
        }
        fetch();
    }
    assert!(first.is_none());
    let lines = gate.audit_of_all();
    let of = |address: &str| {
        lines.iter().filter(|line| line["facts"]["parent-address"] == address).count()
    };
    assert_eq!((of("127.0.0.1:8081"), of("127.0.0.1:8082")), (10, 10), "{lines:?}");
    assert!(lines.iter().all(relayed_or_aborted), "{lines:?}");
    assert_eq!(gate.metric("pullgate_parent_up", &[]), 1.0, "one of its addresses works");
}

#[test]
fn a_program_prints_the_credentials_under_landlock() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let _squid = squid(&lab, SQUID, &with_basic(&lab, "gate", "secret"));
    let helper = lab.dir().join("helper.sh");
    let script = "#!/bin/sh\necho from the helper: $PULLGATE_PARENT >&2\n\
                  printf 'Basic %s\\n' \"$(printf gate:secret | base64 2>/dev/null)\"\n";
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let command = format!("credentials-command = [\"{}\", \"an argument\"]", helper.display());
    let gate = lab.gate(&policy(&[SQUID], "name", &command));
    for _ in 0..3 {
        let (_tunnel, line) = connect_through(GATE, "contoso.azurecr.io:443", "");
        assert!(line.starts_with("HTTP/1.1 200"), "{line}\n{}", gate.log());
    }
    let log = gate.log();
    let runs = log.matches("from the helper: 127.0.0.1:8080").count();
    assert_eq!(runs, 1, "one value serves several tunnels:\n{log}");
}

#[test]
fn nothing_leaves_past_the_parent() {
    let lab = Lab::with_gateway(Blobs::DataEndpoint);
    let image = lab.push(REFERENCE, 1, &[1 << 20, 2000]);
    let at = "198.51.100.254:8080";
    let count = "table inet count {\n counter past {}\n chain out {\n\
                 type filter hook output priority 0; policy accept;\n\
                 oifname != \"lo\" ip daddr != 198.51.100.254 counter name past\n\
                 oifname != \"lo\" meta nfproto ipv6 meta l4proto tcp counter name past\n }\n}\n";
    lab.load(count);
    let past = || {
        let listed = Place::Gateway
            .command("0", NO_CAPABILITIES, &crate::harness::find("nft"))
            .args(["list", "counter", "inet", "count", "past"])
            .output()
            .unwrap();
        String::from_utf8_lossy(&listed.stdout).contains("packets 0 ")
    };
    let to = lab.dir().join("pulled");
    let copy = format!("skopeo copy docker://{REFERENCE} dir:{}", to.display());
    let pull = || {
        let line = format!("env HTTPS_PROXY=http://{GATE} {copy}");
        lab.sh(Way::In(Place::Gateway), &line)
    };
    let open = squid(&lab, at, "http_access allow all");
    let gate = lab.gate_on_gateway(NO_CAPABILITIES, &policy(&[at], "name", ""));
    pull().succeeded();
    for (digest, _) in &image.layers {
        assert!(to.join(&digest[7..]).exists(), "{digest} was not pulled");
    }
    assert!(past(), "packets went past the parent that works");
    drop(open);
    for (state, code) in [
        (None, "parent-unreachable"),
        (Some("http_access deny all".to_owned()), "parent-refused"),
        (Some(with_basic(&lab, "gate", "secret")), "parent-auth"),
    ] {
        let _parent = state.map(|rules| squid(&lab, at, &rules));
        wait_until(&format!("the pull fails with {code}"), || {
            pull().failed().last_line().contains(&format!("[{code} ")).then_some(())
        });
        assert!(past(), "packets went past the parent: {code}");
    }
    drop(gate);
    // The counter counts: without a parent the gate dials the registry.
    let hosts = "[dns.hosts]\n\"contoso.azurecr.io\" = \"198.51.100.11\"\n\
                 \"contoso.eastus.data.azurecr.io\" = \"198.51.100.12\"\n";
    let gate = lab.gate_on_gateway(NO_CAPABILITIES, &Policy::of(&["contoso"]).with_dns(hosts));
    pull().succeeded();
    assert!(!past(), "the counter does not count");
    drop(gate);
}

#[test]
fn the_gates_own_listener_and_link_local_addresses_are_no_parents() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let gate = lab.gate(&policy(&[GATE], "name", ""));
    let (_, line) = connect_through(GATE, "contoso.azurecr.io:443", "");
    assert!(line.contains("the gate's own or a forbidden address"), "{line}");
    drop(gate);
    let _ = fs::remove_dir_all(lab.dir().join("gate"));
    let pinned = "[dns.hosts]\n\"proxy.corp.example\" = \"169.254.169.254\"\n";
    let metadata = policy(&["proxy.corp.example:80"], "name", "").with_dns(pinned);
    let gate = lab.gate(&metadata);
    let (_, line) = connect_through(GATE, "contoso.azurecr.io:443", "");
    assert!(line.contains("[parent-unreachable "), "{line}");
    drop(gate);
}

#[test]
fn a_parent_by_name_with_a_proxy_header_learns_the_clients_address() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let listener = TcpListener::bind("127.0.0.1:8083").unwrap();
    let pinned = "[dns.hosts]\n\"proxy.corp.example\" = \"127.0.0.1\"\n";
    let with_header = policy(&["proxy.corp.example:8083"], "name", "proxy-protocol = true");
    let gate = lab.gate(&with_header.with_dns(pinned));
    let client = std::thread::spawn(|| connect_through(GATE, "contoso.azurecr.io:443", "").1);
    let (mut socket, _) = listener.accept().unwrap();
    let mut first = [0; 4096];
    let count = std::io::Read::read(&mut socket, &mut first).unwrap();
    let (header, request) = first[..count].split_at(28);
    assert_eq!(&header[..16], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
    assert_eq!(&header[16..24], [127, 0, 0, 1, 127, 0, 0, 1]);
    assert!(request.starts_with(b"CONNECT contoso.azurecr.io:443 HTTP/1.1\r\n"), "in one write");
    assert!(request.ends_with(b"\r\n\r\n"));
    std::io::Write::write_all(&mut socket, b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    assert!(client.join().unwrap().starts_with("HTTP/1.1 200"));
    drop(gate);
}
