//! A client of HTTP/1.1 over TLS.

use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::peer::Ask;
use crate::registry::MANIFEST_TYPE;

/// Maximum size of an answer's head, in bytes.
const LARGEST_HEAD: usize = 16 * 1024;

/// A connection to a server.
pub struct Https<S: Read + Write> {
    tls: StreamOwned<ClientConnection, S>,
    /// The host and the port that the requests name.
    authority: String,
    buffer: Vec<u8>,
}

/// The head of an answer.
pub struct Answer {
    pub status: u16,
    pub location: Option<String>,
    /// Bytes of the body that have not been read.
    left: u64,
    /// Where in the buffer the body begins, and where what was read ends.
    read: std::ops::Range<usize>,
}

impl<S: Read + Write> Https<S> {
    /// Begins TLS with a host. The port that the requests name is that of the tunnel, if there is one.
    pub fn over(
        stream: S,
        host: &'static str,
        ask: Ask,
        config: Arc<ClientConfig>,
    ) -> io::Result<Self> {
        let authority = match ask {
            Ask::Connect(port) if port != 443 => format!("{host}:{port}"),
            _ => host.to_owned(),
        };
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let tls = StreamOwned::new(connection, stream);
        Ok(Self { tls, authority, buffer: vec![0; 64 * 1024] })
    }

    /// Requests a path and reads the head of the answer.
    pub fn get(&mut self, path: &str) -> io::Result<Answer> {
        let host = &self.authority;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: {MANIFEST_TYPE}, */*\r\n\r\n");
        self.tls.write_all(request.as_bytes())?;
        let mut have = 0;
        loop {
            let count = self.tls.read(&mut self.buffer[have..LARGEST_HEAD])?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            have += count;
            let end = self.buffer[..have].windows(4).position(|part| part == b"\r\n\r\n");
            if let Some(end) = end {
                return head(&String::from_utf8_lossy(&self.buffer[..end]), end + 4..have)
                    .ok_or_else(|| io::ErrorKind::InvalidData.into());
            }
        }
    }

    /// Reads the body of the answer, piece by piece.
    pub fn body(&mut self, answer: &Answer, mut piece: impl FnMut(&[u8])) -> io::Result<()> {
        piece(&self.buffer[answer.read.clone()]);
        let mut left = answer.left;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let count = self.tls.read(&mut self.buffer[..most])?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            piece(&self.buffer[..count]);
            left -= count as u64;
        }
        Ok(())
    }

    /// Requests a path and discards the body. Its length must be this many bytes.
    pub fn fetch(&mut self, path: &str, length: u64) -> io::Result<()> {
        let answer = self.get(path)?;
        let status = answer.status;
        let mut taken = 0;
        self.body(&answer, |piece| taken += piece.len() as u64)?;
        if status != 200 || taken != length {
            return Err(io::Error::other(format!("{path}: status {status}, {taken} bytes")));
        }
        Ok(())
    }
}

/// Parses the head of an answer. `read` is the part of the buffer behind it.
fn head(text: &str, read: std::ops::Range<usize>) -> Option<Answer> {
    let status = text.split(' ').nth(1)?.parse().ok()?;
    let line = |name: &str| {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let mut lines = lines.filter(|(found, _)| found.eq_ignore_ascii_case(name));
        lines.next().map(|(_, value)| value.trim())
    };
    let length: u64 = line("content-length")?.parse().ok()?;
    let left = length.checked_sub(read.len() as u64)?;
    Some(Answer { status, location: line("location").map(str::to_owned), left, read })
}
