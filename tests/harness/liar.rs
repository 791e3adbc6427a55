//! A registry that breaks every rule: it hangs, resets, drips, lies about lengths and redirects to
//! where it should not. The first component of the repository says how.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::acceptor::Acceptor;

/// Serves until it is dropped.
pub struct Liar {
    _server: Acceptor,
}

impl Liar {
    pub fn start(address: SocketAddr, (certificate, key): (&Path, &Path)) -> Self {
        let chain = CertificateDer::pem_file_iter(certificate).unwrap();
        let chain = chain.map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let config = Arc::new(config);
        let server = Acceptor::start(address, move |stream, stopped| {
            drop(serve(stream, config.clone(), stopped));
        });
        Self { _server: server }
    }
}

fn serve(stream: TcpStream, config: Arc<ServerConfig>, stop: &AtomicBool) -> std::io::Result<()> {
    let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut reader = BufReader::new(StreamOwned::new(connection, stream));
    let mut request = String::new();
    reader.read_line(&mut request)?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim_end().is_empty() {
            break;
        }
    }
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
    let answer = match how.as_str() {
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
