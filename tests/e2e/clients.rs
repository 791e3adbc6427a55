//! Client groups identified by network, and the registries that they can use.

use serde_json::Value;

use crate::harness::{Blobs, Image, Lab, Policy, Way, wait_until};
use crate::reload::reloaded;

/// Two groups: the laboratory's address, and another loopback address.
const CLIENTS: &str = "
[[client]]
name = \"build-agents\"
networks = [\"127.0.0.1\"]

[[client]]
name = \"iot-fleet\"
networks = [\"127.0.9.0/24\"]
";

fn file(label: &str, clients: &str) -> String {
    format!(
        "login-server = \"{label}.azurecr.io\"\n\
         data-endpoints = [\"{label}.eastus.data.azurecr.io\"]\nclients = {clients}\n"
    )
}

fn policy() -> Policy {
    Policy::of(&[])
        .with_file("contoso.toml", &file("contoso", "[\"build-agents\"]"))
        .with_file("fabrikam.toml", &file("fabrikam", "[\"iot-fleet\"]"))
        .with_more(CLIENTS)
}

#[test]
fn a_group_is_refused_the_others_registry() {
    let lab = Lab::new(Blobs::DataEndpoint);
    for label in ["contoso", "fabrikam"] {
        lab.push(&format!("{label}.azurecr.io/app:1"), 1, &[1 << 20]);
    }
    let gate = lab.gate(&policy());
    let way = Way::Through(&gate);
    let to = lab.dir().join("pulled");
    let pull =
        |label: &str| format!("skopeo copy docker://{label}.azurecr.io/app:1 dir:{}", to.display());
    lab.sh(way, &pull("contoso")).succeeded();
    let before = lab.asked("fabrikam.azurecr.io");
    let ran = lab.sh(way, &pull("fabrikam")).failed();
    let says = "is not allowed for this client; build-agents may not use it [client-not-allowed";
    assert!(ran.last_line().contains(says), "{}", ran.text);
    assert_eq!(lab.asked("fabrikam.azurecr.io"), before, "nothing reached the other registry");
    let line = gate.audited(&[("reason", "client-not-allowed")]);
    assert_eq!(line["client-name"], "build-agents", "{line}");

    let fleet = "curl -sSv -o /dev/null --interface 127.0.9.7";
    lab.sh(way, &format!("{fleet} https://fabrikam.azurecr.io/v2/")).succeeded();
    let ran = lab.sh(way, &format!("{fleet} https://contoso.azurecr.io/v2/")).failed();
    assert!(ran.text.contains("403 pullgate: contoso.azurecr.io is not allowed"), "{}", ran.text);
    let nobody = "curl -sSv -o /dev/null --interface 127.0.8.8 https://contoso.azurecr.io/v2/";
    let ran = lab.sh(way, nobody).failed();
    assert!(ran.text.contains("it is in no [[client]] [client-not-allowed"), "{}", ran.text);

    let lines = gate.audit_of_all();
    let of = |client: &str| -> Vec<&Value> {
        lines.iter().filter(|line| line["client"] == client).collect()
    };
    assert!(of("127.0.0.1").iter().all(|line| line["client-name"] == "build-agents"));
    assert!(of("127.0.9.7").iter().all(|line| line["client-name"] == "iot-fleet"));
    assert!(of("127.0.8.8").iter().all(|line| line.get("client-name").is_none()));
    for (client, outcome) in
        [("build-agents", "relayed"), ("build-agents", "denied"), ("iot-fleet", "denied")]
    {
        let labels = [format!("client=\"{client}\""), format!("outcome=\"{outcome}\"")];
        let counted =
            gate.metric("pullgate_client_sessions_total", &labels.each_ref().map(String::as_str));
        let recorded = lines.iter().filter(|line| line["client-name"] == client);
        let recorded = recorded.filter(|line| line["outcome"] == outcome).count();
        assert_eq!(counted, recorded as f64, "{client} {outcome}");
    }
    let down = ["client=\"build-agents\"", "direction=\"down\""];
    assert!(gate.metric("pullgate_client_relayed_bytes_total", &down) > (1 << 20) as f64);
    let audit = gate.audit_file();
    let report = format!("{} report {}", env!("CARGO_BIN_EXE_pullgate"), audit.display());
    let report = lab.sh(Way::Direct, &report).succeeded().text;
    assert!(report.contains("127.0.0.1 (build-agents)"), "{report}");
}

#[test]
fn a_reload_that_takes_a_group_away_ends_its_tunnels() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let large = lab.served("contoso").join("layer");
    std::fs::File::create(large).unwrap().set_len(1 << 30).unwrap();
    let gate = lab.gate(&policy());
    let url = "https://contoso.eastus.data.azurecr.io/layer";
    let line = ["curl", "-sS", "--limit-rate", "24M", "-o", "/dev/null", url];
    let mut pull = lab.command(Way::Through(&gate), &line).spawn().unwrap();
    wait_until("the layer streams", || {
        let (_, sessions) = gate.admin("/sessions");
        let sessions: Value = serde_json::from_str(&sessions).unwrap();
        let streams = sessions.as_array().unwrap().iter().any(|session| {
            session["client-name"] == "build-agents"
                && session["bytes-down"].as_u64().unwrap() > 1 << 20
        });
        streams.then_some(())
    });
    reloaded(&gate, || {
        let other = file("contoso", "[\"iot-fleet\"]");
        std::fs::write(gate.registries().join("contoso.toml"), other).unwrap();
    });
    assert!(!pull.wait().unwrap().success());
    gate.audited(&[("reason", "policy-revoked"), ("client-name", "build-agents")]);
}

#[test]
fn explain_says_who_may_pull() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let gate = lab.gate(&policy());
    let config = gate.registries().with_file_name("pullgate.toml");
    let explain = |rest: &str| {
        let program = env!("CARGO_BIN_EXE_pullgate");
        lab.sh(Way::Direct, &format!("{program} explain --config {} {rest}", config.display()))
    };
    let text = explain("contoso").succeeded().text;
    assert!(text.contains("allowed:   build-agents"), "{text}");
    let text = explain("contoso.azurecr.io").succeeded().text;
    assert!(text.contains("allowed:   build-agents") && text.contains("127.0.0.1 (build-agents)"));
    for client in ["iot-fleet", "127.0.9.1"] {
        let text = explain(&format!("contoso.azurecr.io --client {client}")).failed().text;
        assert!(text.contains("denied [client-not-allowed]"), "{text}");
        assert!(text.contains("iot-fleet may not use it"), "{text}");
        explain(&format!("fabrikam.azurecr.io --client {client}")).succeeded();
    }
    assert_eq!(explain("contoso.azurecr.io --client nobody").status.code(), Some(2));
}

#[test]
fn an_hour_of_uploads_is_kept_over_reloads() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let limited = CLIENTS.replacen(
        "networks = [\"127.0.0.1\"]",
        "networks = [\"127.0.0.1\"]\nupload-bytes-per-hour = 200_000",
        1,
    );
    let policy = Policy::of(&[])
        .with_file("contoso.toml", &file("contoso", "[\"build-agents\"]"))
        .with_file("fabrikam.toml", &file("fabrikam", "\"everyone\""))
        .with_more(&limited);
    let gate = lab.gate(&policy);
    let way = Way::Through(&gate);
    let loot = Image::random(lab.dir(), 7, &[1 << 20]);
    lab.run(way, &lab.pushing(&loot, "contoso.azurecr.io/loot:1")).failed();
    let line = gate.audited(&[("reason", "upload-budget")]);
    assert_eq!(line["client-name"], "build-agents", "{line}");
    let sent = || {
        wait_until("no session is open", || {
            (gate.metric("pullgate_open_sessions", &[]) == 0.0).then_some(())
        });
        let labels = ["client=\"build-agents\"", "direction=\"up\""];
        gate.metric("pullgate_client_relayed_bytes_total", &labels)
    };
    assert_eq!(sent(), 200_000.0, "to the byte, over all its tunnels");

    reloaded(&gate, || {
        std::fs::write(gate.registries().join("fabrikam.toml"), file("fabrikam", "[]")).unwrap();
    });
    let ran = lab.sh(way, "skopeo inspect docker://contoso.azurecr.io/app:1").failed();
    let says = "has to wait: too much was sent; its client's hourly quota is used up";
    assert!(ran.last_line().contains(says), "{}", ran.text);
    assert_eq!(sent(), 200_000.0, "nothing more went");
    let fleet = "curl -sS -o /dev/null --interface 127.0.9.7 https://contoso.azurecr.io/v2/";
    reloaded(&gate, || {
        let both = file("contoso", "[\"build-agents\", \"iot-fleet\"]");
        std::fs::write(gate.registries().join("contoso.toml"), both).unwrap();
    });
    lab.sh(way, fleet).succeeded();
}

#[test]
fn an_hour_that_a_reload_gives_or_shortens_holds_for_live_tunnels() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let secret = lab.dir().join("secret");
    std::fs::File::create(&secret).unwrap().set_len(24 << 20).unwrap();
    let connected = file("contoso", "[\"build-agents\"]") + "connected-registry = true\n";
    let gate = lab.gate(&policy().with_file("contoso.toml", &connected));
    let config = gate.registries().with_file_name("pullgate.toml");
    let unlimited = std::fs::read_to_string(&config).unwrap();
    let limited = |bytes: u64| {
        let agents = "networks = [\"127.0.0.1\"]";
        let limit = format!("{agents}\nupload-bytes-per-hour = {bytes}");
        std::fs::write(&config, unlimited.replacen(agents, &limit, 1)).unwrap();
    };
    let up = || {
        let labels = ["client=\"build-agents\"", "direction=\"up\""];
        gate.metric("pullgate_client_relayed_bytes_total", &labels)
    };
    let send = format!(
        "curl -sS --limit-rate 4M -H Expect: -o /dev/null -T {} \
         https://contoso.eastus.data.azurecr.io/sync/it",
        secret.display()
    );
    let words: Vec<&str> = send.split_whitespace().collect();
    // A different limit each time, so that the file changes.
    for (before, after) in [(None, 65_536), (Some(1 << 30), 65_537)] {
        if let Some(before) = before {
            reloaded(&gate, || limited(before));
        }
        let sent = up();
        let mut push = lab.command(Way::Through(&gate), &words).spawn().unwrap();
        wait_until("the push goes", || (up() > sent + 1e6).then_some(()));
        reloaded(&gate, || limited(after));
        assert!(!push.wait().unwrap().success(), "before: {before:?}");
    }
    let cut = gate.audit_of_all();
    assert!(cut.iter().all(|line| line["reason"] == "upload-budget"), "{cut:?}");
}
