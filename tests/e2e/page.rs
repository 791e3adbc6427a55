//! The status page in a real browser: `make page`.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

use crate::harness::{
    Blobs, Browser, Gate, Lab, Policy, Scheme, Way, az_json, wait_until, wait_until_within,
};

const PAGE: &str = "http://127.0.0.1:9128/";

/// A host name that contains markup.
const MARKUP: &str = "<img src=x onerror=document.title=1>.example:443";

/// Addresses of clients, and their groups.
const CLIENTS: [&str; 2] = ["10.20.0.21", "10.20.0.22"];
const GROUPS: &str = r#"
[[client]]
name = "build-agents"
networks = ["10.20.0.21/32", "127.0.0.0/8"]
[[client]]
name = "edge"
networks = ["10.20.0.22/32"]
"#;

const MIRROR: &str = "[[listen]]\nmode = \"mirror\"\naddress = \"127.0.0.1:5000\"\n";

/// Windows of a desktop and of a phone.
const WIDTHS: [u32; 2] = [1280, 360];

/// What does not fit into the window, or is cut off. Empty if all of the page can be seen.
const CUT_OFF: &str = r#"
    const width = document.documentElement.clientWidth;
    const seen = [...document.body.querySelectorAll("*:not(.visually-hidden):not(input)")];
    return seen.filter((one) => {
        const box = one.getBoundingClientRect();
        if (box.width === 0) return false;
        const hides = getComputedStyle(one).display !== "inline" && one.clientWidth > 0 && one.scrollWidth > one.clientWidth + 1;
        return box.left < -0.5 || box.right > width + 0.5 || hides;
    }).map((one) => one.outerHTML.slice(0, 120));
"#;

/// Texts with a contrast below 4.5:1 (WCAG 2, AA).
const FAINT: &str = r#"
    const light = (colour) => {
        const parts = colour.match(/[\d.]+/g).slice(0, 3).map((part) => {
            const value = part / 255;
            return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
    };
    const ground = (one) => {
        for (; one; one = one.parentElement) {
            const colour = getComputedStyle(one).backgroundColor;
            if (!/, 0\)$|transparent/.test(colour)) return colour;
        }
        return "rgb(255, 255, 255)";
    };
    const own = (one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    return [...document.body.querySelectorAll("*")].filter((one) => {
        if (!own(one) || one.getBoundingClientRect().width === 0) return false;
        const [low, high] = [light(getComputedStyle(one).color), light(ground(one))].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05) < 4.5;
    }).map((one) => one.outerHTML.slice(0, 120));
"#;

/// A laboratory on a machine with a name, whose clients have addresses of their own.
fn lab() -> Lab {
    let lab = Lab::new(Blobs::DataEndpoint);
    unshare(CloneFlags::CLONE_NEWUTS).unwrap();
    fs::write("/proc/sys/kernel/hostname", "gateway-1").unwrap();
    for client in CLIENTS {
        lab.sh(Way::Direct, &format!("ip addr add {client}/32 dev lo")).succeeded();
    }
    File::create(lab.served("contoso").join("layer")).unwrap().set_len(16 << 30).unwrap();
    lab
}

/// Contoso and fabrikam work, tailspin refuses connections, and wingtip is in no DNS.
fn policy(lab: &Lab) -> Policy {
    let file = |label: &str| {
        format!(
            "login-server = \"{label}.azurecr.io\"\n\
             data-endpoints = [\"{label}.eastus.data.azurecr.io\"]\n\
             clients = [\"build-agents\", \"edge\"]\n"
        )
    };
    let mut policy = Policy::of(&[]).with_more(GROUPS).with_more(MIRROR);
    for label in ["contoso", "fabrikam", "tailspin", "wingtip"] {
        let more = match label {
            "contoso" => format!(
                "ca = {:?}\n[mirror]\nrepositories = [\"team/**\"]\n",
                lab.authority().display().to_string()
            ),
            _ => String::new(),
        };
        policy = policy.with_file(&format!("{label}.toml"), &(file(label) + &more));
    }
    policy.dns.push_str("\"tailspin.azurecr.io\" = [\"127.0.9.9\"]\n");
    policy
}

/// A pull that goes on until it is dropped.
struct Pull(std::process::Child);

impl Pull {
    fn start(lab: &Lab, gate: &Gate) -> Self {
        let to = lab.dir().join("pulled");
        let url = "https://contoso.eastus.data.azurecr.io/layer";
        let from = ["--interface", CLIENTS[0], "--limit-rate", "20M", "-o", to.to_str().unwrap()];
        let line = [&["curl", "-sS"][..], &from, &[url]].concat();
        Self(lab.command(Way::Through(gate), &line).spawn().unwrap())
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        // It may have ended by its own timeout.
        let _ = self.0.kill();
        wait_until("the pull is gone", || self.0.try_wait().unwrap());
    }
}

fn explain(browser: &Browser, text: &str, parts: &[&str]) {
    browser.run(&format!(
        "document.getElementById('host').value = {text:?}; \
         document.getElementById('explain').requestSubmit()"
    ));
    browser.shows(parts);
}

/// Asks as a client, in vain.
fn refused(lab: &Lab, gate: &Gate, client: &str, url: &str) {
    lab.sh(Way::Through(gate), &format!("curl -sS --interface {client} {url}")).failed();
}

#[test]
#[ignore = "needs Chromium: make page"]
fn the_page_shows_what_goes_on_at_every_width_in_light_and_dark() {
    let lab = lab();
    let gate = lab.gate(&policy(&lab));
    let browser = Browser::start(&lab, 1280, 900);
    browser.open(PAGE);
    browser.shows(&["gateway-1", "serving, enforcing", "version 0.", "4 registries", "None."]);
    // Registries without traffic are listed.
    browser.shows(&["wingtip", "0 B in the last hour"]);

    let pull = Pull::start(&lab, &gate);
    for _ in 0..3 {
        refused(&lab, &gate, CLIENTS[1], "https://eusmanaged123.blob.core.windows.net/x");
        refused(&lab, &gate, CLIENTS[0], "https://tailspin.azurecr.io/v2/");
    }
    refused(&lab, &gate, CLIENTS[1], "https://woodgrove.azurecr.io/v2/");
    refused(&lab, &gate, CLIENTS[1], "https://wingtip.azurecr.io/v2/");
    let last = wait_until("all failures are audited", || {
        let audit = gate.audit();
        let mut failed = audit.iter().filter(|line| line["reason"] == "connect-refused");
        failed.nth(2).map(|line| line["id"].as_str().unwrap().to_owned())
    });
    let shown = browser.shows(&[
        "contoso.eastus.data.azurecr.io:443",
        "build-agents",
        "MB/s",
        "eusmanaged123.blob.core.windows.net",
        "storage-account",
        "The answer said: enable dedicated data endpoints",
        "other-registry",
        "connect-refused",
        "check the registry, and the firewall between gate and registry",
        "lookup-failed",
    ]);
    assert!(shown.contains("Failed in the last hour") && shown.contains(&last), "{shown}");
    let cells = "return [...document.querySelectorAll('#failed-table tbody tr')].map((row) => \
                 [...row.children].slice(1, 5).map((one) => one.firstChild.textContent))";
    let rows = browser.run(cells);
    assert_eq!(rows[1][0], "tailspin.azurecr.io", "{rows}");
    assert_eq!((&rows[1][1], &rows[1][3]), (&CLIENTS[0].into(), &"3".into()), "{rows}");

    lab.push("contoso.azurecr.io/team/app:1.0", 1, &[1 << 20]);
    for repository in ["team/app", "secret/app"] {
        let url = format!("127.0.0.1:5000/v2/contoso.azurecr.io/{repository}/manifests/1.0");
        let accept = "Accept:application/vnd.oci.image.manifest.v1+json";
        let curl = format!("curl -sS -o /dev/null -H {accept} --interface {}", CLIENTS[1]);
        lab.sh(Way::Direct, &format!("{curl} http://{url}")).succeeded();
    }
    let requests = ["Latest registry requests", "team/app:1.0", "denied [repository-not-allowed]"];
    browser.shows(&requests);
    browser.shows(&["contoso.azurecr.io/secret/app:1.0", "if it may be pulled, add it to"]);

    let both = ["Allowed through a tunnel: contoso.", "Allowed from the mirror: contoso."];
    explain(&browser, "contoso.azurecr.io/team/app:1.0", &both);
    let both = ["Allowed through a tunnel: contoso.", "Denied from the mirror: contoso."];
    explain(&browser, "contoso.azurecr.io/secret/app:1.0", &both);
    let denied = "https://eusmanaged123.blob.core.windows.net/";
    explain(&browser, denied, &["Denied through a tunnel: eusmanaged123", "docker prints: pull"]);
    let kind = "return document.querySelector('#explained .verdict').className";
    assert_eq!(browser.run(kind), "verdict denied");
    explain(&browser, "contoso.azurecr.io", &["Allowed", "Registry contoso, login endpoint"]);
    assert_eq!(browser.run(kind), "verdict allowed");

    // The gate has kept what was before the page was opened. Pictures show a few steps more.
    let steps = if pictures().is_some() { 5 } else { 1 };
    wait_until_within(Duration::from_secs(40 * steps), "the gate keeps a history", || {
        browser.open(PAGE);
        browser.shows(&["4 registries"]);
        let points = "const line = document.querySelector('#registries polyline.down'); \
                      return line ? line.getAttribute('points').split(' ').length : 0";
        browser.run(points).as_u64().filter(|points| *points > steps)
    });
    drop(pull);
    let pull = Pull::start(&lab, &gate);
    let session = "contoso.eastus.data.azurecr.io:443";
    browser.shows(&["MB/s", session, "storage-account", "lookup-failed"]);
    explain(&browser, "contoso.azurecr.io/secret/app:1.0", &both);
    for width in WIDTHS {
        for scheme in [Scheme::Light, Scheme::Dark] {
            browser.show_as(width, scheme);
            let cut_off = browser.run(CUT_OFF);
            assert_eq!(cut_off, serde_json::json!([]), "{width} {scheme:?}");
            assert_eq!(browser.run(FAINT), serde_json::json!([]), "{width} {scheme:?}");
            save(&browser, &format!("page-{width}-{}.png", scheme.code()));
        }
    }
    drop(pull);
    wait_until("the page shows that the pull ended", || {
        browser.text().contains("Open sessions\n\nNone.").then_some(())
    });
}

#[test]
#[ignore = "needs Chromium: make page"]
fn the_page_shows_text_of_clients_as_text_and_a_stale_policy_in_red() {
    let lab = lab();
    let gate = lab.gate(&Policy::of(&["contoso", "fabrikam"]));
    let browser = Browser::start(&lab, 1280, 900);
    browser.open(PAGE);
    browser.shows(&["serving", "None."]);
    browser.run("window.loadedOnce = true");
    let mut hostile = TcpStream::connect("127.0.0.1:3128").unwrap();
    write!(hostile, "CONNECT {} HTTP/1.1\r\n\r\n", MARKUP.replace(' ', "\t")).unwrap();
    hostile.read_to_string(&mut String::new()).unwrap();
    let mut hostile = TcpStream::connect("127.0.0.1:3128").unwrap();
    let shout = "CONNECT <b>bold</b>.example:443 HTTP/1.1\r\nHost: x\r\n\r\n";
    hostile.write_all(shout.as_bytes()).unwrap();
    hostile.read_to_string(&mut String::new()).unwrap();
    browser.shows(&["<b>bold"]);
    explain(&browser, "<i>x</i>", &["Denied through a tunnel", "docker prints: pullgate"]);
    explain(&browser, "a/<i>x</i>:1", &["Denied through a tunnel"]);
    let elements = "return document.querySelectorAll('main b, main img, main i').length";
    assert_eq!(browser.run(elements), 0, "markup is text");
    assert_eq!(browser.run("return document.title"), "pullgate on gateway-1");

    let file = gate.registries().join("tailspin.json");
    fs::write(&file, &az_json("tailspin")[..40]).unwrap();
    browser.shows(&["The policy is stale.", "tailspin.json"]);
    let colour = "return getComputedStyle(document.getElementById('stale')).borderTopColor";
    assert_eq!(browser.run(colour), "rgb(161, 18, 27)", "red");
    fs::write(&file, az_json("tailspin")).unwrap();
    browser.shows(&["generation 2", "3 registries"]);
    assert_eq!(browser.run("return window.loadedOnce"), true, "it was never loaded again");
    let complaints = browser.complaints();
    let ours = complaints.iter().filter(|one| one.contains("127.0.0.1")).count();
    assert_eq!(ours, 0, "{complaints:?}");
}

#[test]
#[ignore = "needs Chromium: make page"]
fn what_report_mode_lets_pass_is_no_denial() {
    let lab = lab();
    let policy = Policy::of(&["contoso"]).with_policy("enforcement = \"report\"");
    let gate = lab.gate(&policy);
    let browser = Browser::start(&lab, 1280, 900);
    browser.open(PAGE);
    browser.shows(&["report mode: not enforcing"]);
    lab.sh(Way::Through(&gate), "curl -sS https://fabrikam.azurecr.io/v2/").succeeded();
    let shown = browser.shows(&["Passed, and would be denied", "other-registry"]);
    let (denied, passed) = shown.split_once("Passed, and would be denied").unwrap();
    assert!(!denied.contains("other-registry") && passed.contains("fabrikam"), "{shown}");
    let figures =
        "return ['denied', 'would-deny'].map((id) => document.getElementById(id).textContent)";
    assert_eq!(browser.run(figures), serde_json::json!(["0", "1"]));
    explain(&browser, "fabrikam.azurecr.io/app", &["Passes in report mode, would be denied"]);
}

fn pictures() -> Option<PathBuf> {
    std::env::var_os("PICTURES").filter(|folder| !folder.is_empty()).map(PathBuf::from)
}

/// Saves a screenshot for the manual in the folder `PICTURES`.
fn save(browser: &Browser, name: &str) {
    if let Some(folder) = pictures() {
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), browser.picture()).unwrap();
    }
}
