//! A client that keeps a tunnel open: HTTPS with keep-alive, through a proxy, within the test.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::lab::Lab;
use super::parents::connect_through;

/// What tunnels need that trust the laboratory's servers.
pub fn client_config(lab: &Lab) -> Arc<ClientConfig> {
    client_config_by(lab.authority())
}

/// What tunnels need that trust an authority.
pub fn client_config_by(authority: &Path) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// An open tunnel to a server.
pub struct HttpsTunnel {
    stream: StreamOwned<ClientConnection, TcpStream>,
    host: String,
}

impl HttpsTunnel {
    /// Opens a tunnel to port 443 of a host. The error is the proxy's status line.
    pub fn open(config: &Arc<ClientConfig>, proxy: &str, host: &str) -> Result<Self, String> {
        let (socket, line) = connect_through(proxy, &format!("{host}:443"), "");
        if !line.starts_with("HTTP/1.1 200") {
            return Err(line);
        }
        let mut socket = socket;
        skip_head(&mut socket).map_err(|error| error.to_string())?;
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let connection = ClientConnection::new(config.clone(), name).unwrap();
        Ok(Self { stream: StreamOwned::new(connection, socket), host: host.to_owned() })
    }

    /// Fetches a file that has this content.
    pub fn fetches(&mut self, path: &str, content: &str) -> io::Result<()> {
        let host = &self.host;
        write!(self.stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
        let mut answer = Vec::new();
        let mut chunk = [0; 1024];
        let expected = format!("\r\n\r\n{content}");
        while !answer.ends_with(expected.as_bytes()) {
            let count = self.stream.read(&mut chunk)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            answer.extend_from_slice(&chunk[..count]);
        }
        Ok(())
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Reads the answer to a request that has a body: its head, and as much as that announces.
    pub fn answer(&mut self) -> io::Result<String> {
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(b"\r\n\r\n") {
            self.stream.read_exact(&mut byte)?;
            answer.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&answer).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        answer.extend_from_slice(&body);
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Reads until the other side ends, well or not.
    pub fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest);
        String::from_utf8_lossy(&rest).into_owned()
    }
}

/// Reads the rest of a proxy's answer, after its status line.
fn skip_head(socket: &mut TcpStream) -> io::Result<()> {
    let mut last = *b"\0\0\r\n";
    let mut byte = [0];
    while last != *b"\r\n\r\n" {
        socket.read_exact(&mut byte)?;
        last.rotate_left(1);
        last[3] = byte[0];
    }
    Ok(())
}
