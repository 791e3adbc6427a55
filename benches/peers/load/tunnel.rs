//! Tunnels through a proxy: CONNECT where it is required, and the handshake.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, Stream};

use crate::peer::{Ask, Route};
use crate::wire::{Framing, Hello, second_flight};

/// Timeout for a single answer, so that a proxy that hangs does not block the run.
const ANSWER: Duration = Duration::from_secs(10);

/// A tunnel: the connection to the proxy, and the TLS in which it is, if there is one.
pub struct Tunnel<S = TcpStream> {
    pub socket: S,
    pub tls: Option<ClientConnection>,
}

impl<S: Read + Write> Read for Tunnel<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.socket.read(buffer),
            Some(tls) => Stream::new(tls, &mut self.socket).read(buffer),
        }
    }
}

impl<S: Read + Write> Write for Tunnel<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.socket.write(bytes),
            Some(tls) => Stream::new(tls, &mut self.socket).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            None => self.socket.flush(),
            Some(tls) => Stream::new(tls, &mut self.socket).flush(),
        }
    }
}

/// Opens a tunnel and completes the client's part of the handshake.
pub fn tunnel(route: &Route, hello: &Hello) -> io::Result<Tunnel> {
    let mut stream = greeted(route, hello)?;
    stream.write_all(&second_flight(hello.framing))?;
    if hello.framing == Framing::Tls12 {
        stream.read_exact(&mut [0; 6 + 45])?;
    }
    Ok(stream)
}

/// Opens a tunnel and reads the origin's answer to the hello.
pub fn greeted(route: &Route, hello: &Hello) -> io::Result<Tunnel> {
    let mut stream = connect(route, hello.host)?.map_err(|refusal| {
        io::Error::other(format!("refused: {}", String::from_utf8_lossy(&refusal)))
    })?;
    stream.write_all(&hello.bytes)?;
    let mut answer = vec![0; hello.answer_length()];
    stream.read_exact(&mut answer)?;
    Ok(stream)
}

/// Connects and sends CONNECT if the proxy requires it. Returns the tunnel, or the proxy's answer.
pub fn connect(route: &Route, host: &str) -> io::Result<Result<Tunnel, Vec<u8>>> {
    let socket = TcpStream::connect(route.address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(ANSWER))?;
    let name = ServerName::from(route.address.ip());
    let tls = route.tls.as_ref().map(|tls| ClientConnection::new(tls.clone(), name));
    let mut stream = Tunnel { socket, tls: tls.transpose().map_err(io::Error::other)? };
    let Ask::Connect(port) = route.ask else { return Ok(Ok(stream)) };
    let request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::with_capacity(4096);
    let mut buffer = [0; 4096];
    loop {
        // The server sends nothing before the hello, so no byte after the head is lost.
        let count = stream.read(&mut buffer)?;
        answer.extend_from_slice(&buffer[..count]);
        match length(&answer) {
            Some(_) if is_success(&answer) => return Ok(Ok(stream)),
            Some(length) if answer.len() >= length => return Ok(Err(answer)),
            _ if count == 0 => return Ok(Err(answer)),
            _ => {}
        }
    }
}

fn is_success(answer: &[u8]) -> bool {
    answer.split(|byte| *byte == b' ').nth(1).is_some_and(|status| status.starts_with(b"2"))
}

/// Returns the length of an answer including its body, once its head is complete. Some proxies keep
/// a connection open after a rejection.
fn length(answer: &[u8]) -> Option<usize> {
    const END: &[u8] = b"\r\n\r\n";
    let head = answer.windows(END.len()).position(|part| part == END)? + END.len();
    let text = String::from_utf8_lossy(&answer[..head]).to_lowercase();
    let body = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    Some(head + body.and_then(|body| body.trim().parse().ok()).unwrap_or(0))
}
