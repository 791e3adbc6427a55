//! Many pulls at once through the mirror, over reloads and a hand-over: no request is lost, and the
//! gate's memory stays within what the manual says. `make faults` runs the large one.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Blobs, Daemon, Handing, Image, Lab, Manager, PATIENCE, Policy, wait_until};
use crate::mirror::{CLEAR, file};

/// Layers of the image, and the size of each.
const LAYERS: usize = 20;
const LAYER: usize = 128 << 10;

/// What docs/mirror.md promises for a blob that passes, and what a gate needs anyway, in bytes.
const EACH: usize = 512 << 10;
const ANYWAY: usize = 96 << 20;

#[test]
fn forty_pulls_at_once_lose_no_request() {
    pulls_at_once(40);
}

#[test]
#[ignore = "takes minutes: make faults"]
fn a_thousand_pulls_at_once_lose_no_request() {
    pulls_at_once(1_000);
}

/// A client's connection to the mirror.
struct Connection(BufReader<TcpStream>);

/// Why a request has no answer.
enum Unanswered {
    /// The connection closed before the first byte: every HTTP client asks again.
    Closed,
    Broken(String),
}

impl Connection {
    fn open() -> Self {
        let stream = TcpStream::connect(CLEAR).unwrap();
        stream.set_read_timeout(Some(8 * PATIENCE)).unwrap();
        Self(BufReader::with_capacity(64 << 10, stream))
    }

    /// Returns the body, and whether the connection goes on.
    fn get(&mut self, path: &str) -> Result<(Vec<u8>, bool), Unanswered> {
        let broken = |error: std::io::Error| Unanswered::Broken(format!("{path}: {error}"));
        let request = format!(
            "GET /v2/team/app/{path} HTTP/1.1\r\nHost: g\r\n\
             Accept: application/vnd.oci.image.manifest.v1+json\r\n\r\n"
        );
        if self.0.get_mut().write_all(request.as_bytes()).is_err() {
            return Err(Unanswered::Closed);
        }
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            match self.0.read_line(&mut head) {
                Ok(0) | Err(_) if head.is_empty() => return Err(Unanswered::Closed),
                Ok(0) => return Err(Unanswered::Broken(format!("{path}: {head}"))),
                Ok(_) => {}
                Err(error) => return Err(broken(error)),
            }
        }
        let lower = head.to_lowercase();
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).map_err(broken)?;
        if !head.starts_with("HTTP/1.1 200") {
            let body = String::from_utf8_lossy(&body);
            return Err(Unanswered::Broken(format!("{path}: {head}{body}")));
        }
        Ok((body, !lower.contains("connection: close")))
    }
}

/// Pulls the image as a client does: the manifest, then each layer. Returns how often it had to ask
/// again.
fn pull(wanted: &[(String, Vec<u8>)], done: &AtomicUsize) -> Result<usize, String> {
    let mut connection: Option<Connection> = None;
    let mut again = 0;
    for (path, content) in wanted {
        let mut tries = 0;
        let (body, goes_on) = loop {
            match connection.get_or_insert_with(Connection::open).get(path) {
                Ok(answer) => break answer,
                // At most once for each gate that ends.
                Err(Unanswered::Closed) if tries < 3 => {
                    tries += 1;
                    connection = None;
                }
                Err(Unanswered::Closed) => return Err(format!("{path}: closed again and again")),
                Err(Unanswered::Broken(fault)) => return Err(fault),
            }
        };
        again += tries;
        if body != *content {
            return Err(format!("{path} differs"));
        }
        if !goes_on {
            connection = None;
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(again)
}

/// The most memory that a process has had, in bytes.
fn peak(gate: &Daemon) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", gate.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
}

fn wanted(image: &Image) -> Vec<(String, Vec<u8>)> {
    let manifest = ("manifests/v1".to_owned(), image.blob(&image.digest));
    let layers = image.layers.iter().map(|(digest, _)| {
        let content = image.blob(digest);
        (format!("blobs/{digest}"), content)
    });
    [manifest].into_iter().chain(layers).collect()
}

fn pulls_at_once(pulls: usize) {
    let lab = Lab::new(Blobs::DataEndpoint);
    let image = lab.push("contoso.azurecr.io/team/app:v1", 1, &[LAYER; LAYERS]);
    let wanted = Arc::new(wanted(&image));
    let rules = "blobs = \"relay\"\ndefault = true";
    let listener = format!(
        "[[listen]]\nmode = \"mirror\"\naddress = \"{CLEAR}\"\n\
         [limits]\nopen-sessions-per-client = {}\nidle-timeout-ms = 120000\n\
         dial-timeout-ms = 60000\n",
        2 * pulls
    );
    let policy = Policy::of(&[]).with_file("contoso.toml", &file(&lab, "", rules));
    let manager = Manager::new(lab.dir(), policy.with_more(&listener), Handing::Ports);
    let mut first = manager.start("gate-0");

    let requests = pulls * wanted.len();
    let (done, start) = (Arc::<AtomicUsize>::default(), Arc::new(Barrier::new(pulls)));
    let client = |_| {
        let (wanted, done, start) = (wanted.clone(), done.clone(), start.clone());
        let work = move || {
            start.wait();
            pull(&wanted, &done)
        };
        thread::Builder::new().stack_size(256 << 10).spawn(work).unwrap()
    };
    let clients: Vec<_> = (0..pulls).map(client).collect();
    let reaches = |part: usize| {
        wait_until_patiently(&format!("{part}/5 of the requests are answered"), || {
            (done.load(Ordering::Relaxed) >= requests * part / 5).then_some(())
        });
    };
    let config = lab.dir().join("gate/registries.d/contoso.toml");
    for (part, more) in
        ["repositories = [\"team/**\"]", "repositories = [\"**\"]"].iter().enumerate()
    {
        reaches(part + 1);
        fs::write(&config, file(&lab, "", &format!("{rules}\n{more}"))).unwrap();
        wait_until("the policy is reloaded", || {
            (first.log().matches("policy reloaded").count() > part).then_some(())
        });
    }
    reaches(3);
    let mut second = manager.start("gate-1");
    first.signal("TERM");
    let peak_of_first = peak(&first);
    let ended: Vec<Result<usize, String>> =
        clients.into_iter().map(|client| client.join().unwrap()).collect();
    let peaks = [peak_of_first, peak(&second)];
    let faults: Vec<&String> = ended.iter().filter_map(|end| end.as_ref().err()).collect();
    assert!(faults.is_empty(), "{} of {pulls}: {:?}", faults.len(), &faults[..faults.len().min(3)]);
    let again: usize = ended.iter().flatten().sum();
    println!("{pulls} pulls, {requests} requests, {again} asked again; peaks {peaks:?} bytes");
    let most = ANYWAY + pulls * EACH;
    assert!(peaks.iter().all(|peak| *peak < most), "{peaks:?} bytes, more than {most}");

    let status = wait_until_patiently("the first gate ends", || first.ended());
    assert!(status.success(), "{status}: {}", first.log());
    second.signal("TERM");
    let status = wait_until_patiently("the second gate ends", || second.ended());
    assert!(status.success(), "{status}: {}", second.log());
    // Each answered request has its line, and none is there that was broken off.
    let audit = manager.audit();
    let lines = audit.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let lines: Vec<Value> = lines.filter(|line| line["kind"] == "request").collect();
    let relayed = lines.iter().filter(|line| line["outcome"] == "relayed").count();
    assert_eq!(relayed, requests, "{:?}", lines.iter().find(|line| line["outcome"] != "relayed"));
}

/// Like `wait_until`, for what takes as long as all pulls.
#[track_caller]
fn wait_until_patiently<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < 15 * PATIENCE, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
