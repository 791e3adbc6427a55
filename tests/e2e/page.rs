//! The status page in a real browser: `make page`.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::harness::{Blobs, Browser, Lab, Policy, Way, az_json, wait_until};

const PAGE: &str = "http://127.0.0.1:9128/";

/// A host name that contains markup.
const MARKUP: &str = "<img src=x onerror=document.title=1>.example:443";

#[test]
#[ignore = "needs Chromium: make page"]
fn the_page_shows_what_goes_on_without_a_reload() {
    let lab = Lab::new(Blobs::DataEndpoint);
    File::create(lab.served("contoso").join("layer")).unwrap().set_len(1 << 30).unwrap();
    let gate = lab.gate(&Policy::of(&["contoso", "fabrikam"]));
    let browser = Browser::start(&lab, 1280, 1255);
    browser.open(PAGE);
    browser.shows(&["pullgate", "serving", "generation 1", "None since the start."]);
    browser.run("window.loadedOnce = true");

    let to = lab.dir().join("pulled");
    let url = "https://contoso.eastus.data.azurecr.io/layer";
    let line = ["curl", "-sS", "--limit-rate", "20M", "-o", to.to_str().unwrap(), url];
    let mut pull = lab.command(Way::Through(&gate), &line).spawn().unwrap();
    browser.shows(&["contoso.eastus.data.azurecr.io", "MB/s", "1 of "]);

    let storage = "curl -sS https://eusmanaged123.blob.core.windows.net/x";
    lab.sh(Way::Through(&gate), storage).failed();
    lab.sh(Way::Through(&gate), "curl -sS https://tailspin.azurecr.io/v2/").failed();
    browser.shows(&[
        "eusmanaged123.blob.core.windows.net",
        "storage-account",
        "Advice to the client: enable dedicated data endpoints.",
        "other-registry",
    ]);

    let mut hostile = TcpStream::connect("127.0.0.1:3128").unwrap();
    write!(hostile, "CONNECT {} HTTP/1.1\r\n\r\n", MARKUP.replace(' ', "\t")).unwrap();
    hostile.read_to_string(&mut String::new()).unwrap();
    let mut hostile = TcpStream::connect("127.0.0.1:3128").unwrap();
    let shout = "CONNECT <b>bold</b>.example:443 HTTP/1.1\r\nHost: x\r\n\r\n";
    hostile.write_all(shout.as_bytes()).unwrap();
    hostile.read_to_string(&mut String::new()).unwrap();
    browser.shows(&["<b>bold"]);
    let elements =
        browser.run("return document.querySelectorAll('#denials b, #denials img').length");
    assert_eq!(elements, 0, "markup is text");
    assert_eq!(browser.run("return document.title"), "pullgate");

    // The explain box.
    for (host, parts) in [
        ("contoso.azurecr.io", ["contoso.azurecr.io: allowed", "registry contoso, login endpoint"]),
        (
            "x.blob.core.windows.net",
            ["denied [storage-account]", "docker prints: pullgate: x.blob"],
        ),
        ("<i>x</i>", ["denied [", "docker prints: pullgate"]),
    ] {
        browser.run(&format!(
            "document.getElementById('host').value = {host:?}; \
             document.getElementById('explain').requestSubmit()"
        ));
        browser.shows(&parts);
    }
    browser.run(
        "document.getElementById('host').value = 'x.blob.core.windows.net'; \
                 document.getElementById('explain').requestSubmit()",
    );
    browser.shows(&["docker prints: pullgate: x.blob"]);
    save(&browser, "page.png");

    // A broken file, and its effect on the page.
    let file = gate.registries().join("tailspin.json");
    fs::write(&file, &az_json("tailspin")[..40]).unwrap();
    browser.shows(&["The policy is stale.", "tailspin.json"]);
    let colour = "return getComputedStyle(document.getElementById('stale')).borderTopColor";
    assert_eq!(browser.run(colour), "rgb(161, 18, 27)", "red");
    save(&browser, "page-stale.png");
    fs::write(&file, az_json("tailspin")).unwrap();
    browser.shows(&["generation 2", "3 registries"]);

    assert_eq!(browser.run("return window.loadedOnce"), true, "it was never loaded anew");
    let complaints = browser.complaints();
    let ours = complaints.iter().filter(|one| one.contains("127.0.0.1")).count();
    assert_eq!(ours, 0, "{complaints:?}");
    // The page fits on a phone.
    let narrow = browser.narrow();
    assert_eq!(narrow, true, "no sideways scrolling at 360 pixels");
    pull.kill().unwrap();
    wait_until("the pull is gone", || pull.try_wait().unwrap());
}

/// Saves a screenshot for the manual in the folder `PICTURES`.
fn save(browser: &Browser, name: &str) {
    if let Some(folder) = std::env::var_os("PICTURES").filter(|folder| !folder.is_empty()) {
        fs::write(std::path::Path::new(&folder).join(name), browser.picture()).unwrap();
    }
}
