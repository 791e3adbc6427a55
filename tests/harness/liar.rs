//! A registry that breaks every rule: it hangs, resets, drips, lies about lengths and redirects to
//! where it should not. The first component of the repository says how.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::acceptor::Acceptor;

/// How it lies, about what, and the status and the reason of the gate's answer, wherever the gate asks
/// it for a client.
pub const LIES: &[(&str, &str, &str, &str)] = &[
    ("hang", "manifests", "504", "idle-timeout"),
    ("reset", "manifests", "502", "upstream-aborted"),
    ("huge", "manifests", "502", "upstream-malformed"),
    ("lengths", "manifests", "502", "upstream-malformed"),
    ("garbage", "manifests", "502", "upstream-malformed"),
    ("teapot", "manifests", "502", "upstream-malformed"),
    ("bytes", "manifests", "502", "digest-mismatch"),
    ("clear", "manifests", "403", "redirect-not-allowed"),
    ("loop", "blobs", "403", "redirect-not-allowed"),
    ("clear", "blobs", "403", "redirect-not-allowed"),
    ("port", "blobs", "403", "redirect-not-allowed"),
    ("user", "blobs", "403", "redirect-not-allowed"),
    ("address", "blobs", "403", "redirect-not-allowed"),
    ("nowhere", "blobs", "502", "upstream-malformed"),
];

/// Serves until it is dropped.
pub struct Liar {
    _server: Acceptor,
    seen: Seen,
}

/// The requests as they came, with their bodies.
type Seen = Arc<Mutex<Vec<String>>>;

impl Liar {
    pub fn start(address: SocketAddr, (certificate, key): (&Path, &Path)) -> Self {
        let chain = CertificateDer::pem_file_iter(certificate).unwrap();
        let chain = chain.map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let config = Arc::new(config);
        let seen = Seen::default();
        let noted = seen.clone();
        let server = Acceptor::start(address, move |stream, stopped| {
            drop(serve(stream, config.clone(), &noted, stopped));
        });
        Self { _server: server, seen }
    }

    /// Returns the requests so far, as they came.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

/// Reads the rest of a request, whose length or last chunk says where it ends.
fn body_of(head: &str, reader: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let head = head.to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    while head.contains("transfer-encoding: chunked") && !body.ends_with(b"\r\n\r\n") {
        if reader.read_until(b'\n', &mut body)? == 0 {
            break;
        }
    }
    Ok(body)
}

fn serve(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    seen: &Seen,
    stop: &AtomicBool,
) -> std::io::Result<()> {
    let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut reader = BufReader::new(StreamOwned::new(connection, stream));
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut fields = String::new();
    while !fields.ends_with("\n\r\n") && reader.read_line(&mut fields)? > 2 {}
    let body = body_of(&fields, &mut reader)?;
    seen.lock().unwrap().push(format!("{request}{fields}{}", String::from_utf8_lossy(&body)));
    let how = request.split('/').nth(2).unwrap_or_default().to_owned();
    let head = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
    let redirect =
        |to: &str| format!("HTTP/1.1 307 Moved\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
    let challenge = |realm: &str| {
        format!(
            "HTTP/1.1 401 Who\r\nWWW-Authenticate: Bearer realm=\"{realm}\",service=\"x\"\r\n\
             Content-Length: 0\r\n\r\n"
        )
    };
    let upload =
        |to: &str| format!("HTTP/1.1 202 On\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
    let uploads = "blobs/uploads/1?_state=x";
    let answer = match how.as_str() {
        "switch" => {
            "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\nGET /".into()
        }
        "old" => "HTTP/1.0 200 OK\r\n\r\n".to_owned(),
        "two" => head("Content-Length: 0") + &head("Content-Length: 0\r\nX-Second: 1"),
        "informs" => {
            "HTTP/1.1 103 Hints\r\nLink: </x>\r\n\r\n".repeat(3) + &head("Content-Length: 0")
        }
        "whole" => "HTTP/1.1 201 Made\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "done" => {
            "HTTP/1.1 201 Made\r\nLocation: https://evil.example.com/x\r\nContent-Length: 0\r\n\r\n"
                .to_owned()
        }
        "up" => upload(&format!("https://contoso.azurecr.io/v2/up/app/{uploads}")),
        "up-host" => upload(&format!("https://evil.example.com/v2/up-host/app/{uploads}")),
        "up-tenant" => upload(&format!("https://fabrikam.azurecr.io/v2/up-tenant/app/{uploads}")),
        "up-clear" => upload(&format!("http://contoso.azurecr.io/v2/up-clear/app/{uploads}")),
        "up-port" => upload(&format!("https://contoso.azurecr.io:80/v2/up-port/app/{uploads}")),
        "up-user" => upload(&format!("https://x@contoso.azurecr.io/v2/up-user/app/{uploads}")),
        "up-slashes" => upload(&format!("//evil.example.com/v2/up-slashes/app/{uploads}")),
        "up-other" => upload(&format!("/v2/secret/app/{uploads}")),
        "up-dots" => upload(&format!("/v2/up-dots/app/../../secret/app/{uploads}")),
        "up-path" => upload("/oauth2/token"),
        "reset" => return Ok(()),
        "drip" => {
            reader.get_mut().write_all(head("Content-Length: 100").as_bytes())?;
            while !stop.load(Ordering::SeqCst) {
                reader.get_mut().write_all(b"x")?;
                reader.get_mut().flush()?;
                thread::sleep(Duration::from_millis(300));
            }
            return Ok(());
        }
        "huge" => {
            reader.get_mut().write_all(head("Transfer-Encoding: chunked").as_bytes())?;
            let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
            while !stop.load(Ordering::SeqCst) {
                reader.get_mut().write_all(chunk.as_bytes())?;
            }
            return Ok(());
        }
        "short" => head("Content-Length: 100") + "short",
        "negative" => head("Content-Length: -1"),
        "lengths" => head("Content-Length: 5\r\nContent-Length: 6") + "hello!",
        "fields" => head(&format!("X: {}", "x".repeat(1 << 20))),
        "many" => head(&"X: y\r\n".repeat(1_000)),
        "garbage" => "\u{0}\u{1}\u{2}garbage\r\n\r\n".to_owned(),
        "teapot" => "HTTP/1.1 299 Odd\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "bytes" => head("Content-Length: 5") + "hello",
        "loop" => redirect(request.split(' ').nth(1).unwrap_or_default()),
        "clear" => redirect("http://gate.example.com/x"),
        "port" => redirect("https://gate.example.com:8443/x"),
        "user" => redirect("https://user@gate.example.com/x"),
        "address" => redirect("https://169.254.169.254/latest/meta-data"),
        "inside" => redirect("https://inside.example.com/x"),
        "nowhere" => "HTTP/1.1 307 Moved\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "realm" => challenge("https://evil.example.com/token"),
        "realm-clear" => challenge("http://gate.example.com/token"),
        "realm-broken" => challenge("\u{1}"),
        "realm-hang" => challenge("https://gate.example.com/v2/hang/token"),
        "realm-bytes" => challenge("https://gate.example.com/v2/bytes/token"),
        // "hang": until the other side gives up.
        _ => {
            let mut line = String::new();
            while reader.read_line(&mut line)? > 0 {}
            return Ok(());
        }
    };
    reader.get_mut().write_all(answer.as_bytes())?;
    reader.get_mut().flush()?;
    reader.get_mut().conn.send_close_notify();
    reader.get_mut().flush()
}
