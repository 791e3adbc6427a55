//! Headless Chromium, driven over WebDriver (W3C) by Debian's chromedriver.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use base64::Engine as _;
use serde_json::{Value, json};

use super::daemon::Daemon;
use super::lab::{Lab, address};
use super::{PATIENCE, wait_until};

const DRIVER: &str = "127.0.0.1:9515";

/// A colour scheme.
#[derive(Debug, Clone, Copy)]
pub enum Scheme {
    Light,
    Dark,
}

impl Scheme {
    pub fn code(self) -> &'static str {
        match self {
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }
}

pub struct Browser {
    _driver: Daemon,
    session: String,
}

impl Browser {
    /// Starts a browser with its own profile and a window of this size.
    pub fn start(lab: &Lab, width: u32, height: u32) -> Self {
        let driver = lab
            .daemon("chromedriver", &["chromedriver", "--port=9515", "--allowed-ips=127.0.0.1"])
            .accepts(address(DRIVER));
        let profile = lab.dir().join("profile");
        fs::create_dir_all(&profile).unwrap();
        let arguments = [
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-quic".to_owned(),
            "--no-first-run".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            format!("--user-data-dir={}", profile.display()),
            format!("--window-size={width},{height}"),
        ];
        let options = json!({ "args": arguments, "binary": "/usr/bin/chromium" });
        let logs = json!({ "browser": "ALL" });
        let wanted = json!({ "goog:chromeOptions": options, "goog:loggingPrefs": logs });
        let answer = ask("POST", "/session", &json!({ "capabilities": { "alwaysMatch": wanted } }));
        let session = answer["sessionId"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
        Self { _driver: driver, session }
    }

    fn tell(&self, method: &str, what: &str, body: &Value) -> Value {
        ask(method, &format!("/session/{}/{what}", self.session), body)
    }

    pub fn open(&self, url: &str) {
        self.tell("POST", "url", &json!({ "url": url }));
    }

    /// Runs a script and returns its result.
    pub fn run(&self, script: &str) -> Value {
        self.tell("POST", "execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Returns the visible text of the page.
    pub fn text(&self) -> String {
        self.run("return document.body.innerText").as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the page shows all of these texts, without reloading it.
    pub fn shows(&self, parts: &[&str]) -> String {
        let mut text = String::new();
        let shown = catch_unwind(AssertUnwindSafe(|| {
            wait_until(&format!("the page shows {parts:?}"), || {
                text = self.text();
                parts.iter().all(|part| text.contains(part)).then_some(())
            });
        }));
        shown.unwrap_or_else(|fault| {
            println!("{text}");
            resume_unwind(fault)
        });
        text
    }

    /// Shows the page in a window of this width, as a phone or a desktop has it, in light or dark.
    pub fn show_as(&self, width: u32, scheme: Scheme) {
        let height = if width < 600 { 800 } else { 900 };
        let window = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600
        });
        self.devtools("Emulation.setScrollbarsHidden", &json!({ "hidden": true }));
        self.devtools("Emulation.setDeviceMetricsOverride", &window);
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme.code() });
        self.devtools("Emulation.setEmulatedMedia", &json!({ "features": [feature] }));
    }

    /// Sends a command of the Chrome DevTools Protocol.
    fn devtools(&self, command: &str, params: &Value) -> Value {
        self.tell("POST", "goog/cdp/execute", &json!({ "cmd": command, "params": params }))
    }

    /// Returns the errors and warnings of the browser console.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.tell("POST", "se/log", &json!({ "type": "browser" }));
        let entries = log.as_array().cloned().unwrap_or_default();
        entries.iter().map(|entry| entry["message"].to_string()).collect()
    }

    /// Takes a screenshot of the whole page, as PNG.
    pub fn picture(&self) -> Vec<u8> {
        let whole = json!({ "captureBeyondViewport": true });
        let picture = self.devtools("Page.captureScreenshot", &whole);
        let data = picture["data"].as_str().unwrap();
        base64::engine::general_purpose::STANDARD.decode(data).unwrap()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.tell("DELETE", "", &Value::Null);
        }
    }
}

fn ask(method: &str, path: &str, body: &Value) -> Value {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let path = path.trim_end_matches('/');
    let mut stream = TcpStream::connect(DRIVER).unwrap();
    stream.set_read_timeout(Some(3 * PATIENCE)).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {DRIVER}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    // The driver keeps the connection open, whatever the request asks for.
    let mut answer = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        answer.read_line(&mut line).unwrap();
        match line.trim_end().to_ascii_lowercase().split_once(':') {
            Some(("content-length", value)) => length = value.trim().parse().unwrap(),
            Some(_) => {}
            None if line.trim_end().is_empty() => break,
            None => {}
        }
    }
    let mut body = vec![0; length];
    answer.read_exact(&mut body).unwrap();
    let body = String::from_utf8(body).unwrap();
    let answer: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{body}"));
    let value = answer["value"].clone();
    assert!(value.get("error").is_none(), "{method} {path}: {value}");
    value
}
