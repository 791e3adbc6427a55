//! Tunnels through a proxy: CONNECT where it is required, and the handshake.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::peer::{Ask, Route};
use crate::wire::{Framing, Hello, second_flight};

/// Timeout for a single answer, so that a proxy that hangs does not block the run.
const ANSWER: Duration = Duration::from_secs(10);

/// Opens a tunnel and completes the client's part of the handshake.
pub fn tunnel(route: &Route, hello: &Hello) -> io::Result<TcpStream> {
    let mut stream = greeted(route, hello)?;
    stream.write_all(&second_flight(hello.framing))?;
    if hello.framing == Framing::Tls12 {
        stream.read_exact(&mut [0; 6 + 45])?;
    }
    Ok(stream)
}

/// Opens a tunnel and reads the origin's answer to the hello.
pub fn greeted(route: &Route, hello: &Hello) -> io::Result<TcpStream> {
    let mut stream = connect(route, hello.host)?.map_err(|refusal| {
        io::Error::other(format!("refused: {}", String::from_utf8_lossy(&refusal)))
    })?;
    stream.write_all(&hello.bytes)?;
    let mut answer = vec![0; hello.answer_length()];
    stream.read_exact(&mut answer)?;
    Ok(stream)
}

/// Connects and sends CONNECT if the proxy requires it. Returns the tunnel, or the proxy's answer.
pub fn connect(route: &Route, host: &str) -> io::Result<Result<TcpStream, Vec<u8>>> {
    let mut stream = TcpStream::connect(route.address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER))?;
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
