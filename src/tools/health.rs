//! Queries the gate on this machine, for probes without curl: `pullgate health`.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::config::AdminAddress;

/// The response of the gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether the status is 200.
    pub well: bool,
    /// The text of the response.
    pub text: String,
}

/// Requests a page from the admin listener, for example `/readyz`, with a total timeout, and at most
/// this many bytes.
///
/// # Errors
/// If it is unreachable, times out, or does not answer in HTTP.
pub fn ask(
    address: &AdminAddress,
    page: &str,
    timeout: Duration,
    largest: usize,
) -> io::Result<Health> {
    let end = Instant::now() + timeout;
    let answer = match address {
        AdminAddress::Tcp(address) => {
            let stream = TcpStream::connect_timeout(&own(*address), timeout)?;
            let set = |left| stream.set_read_timeout(Some(left));
            stream.set_write_timeout(Some(timeout))?;
            exchange(&stream, page, (end, largest), set)?
        }
        AdminAddress::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            let set = |left| stream.set_read_timeout(Some(left));
            stream.set_write_timeout(Some(timeout))?;
            exchange(&stream, page, (end, largest), set)?
        }
    };
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "it does not answer in HTTP");
    let answer = String::from_utf8(answer).map_err(|_| malformed())?;
    let (head, text) = answer.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    let status = status.ok_or_else(malformed)?;
    Ok(Health { well: status == "200", text: text.to_owned() })
}

/// Returns the address to connect to: loopback for an unspecified address.
fn own(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    address
}

/// Sends the request and reads the response until `end`, at most `largest` bytes. `set` sets the
/// timeout of one read.
fn exchange(
    mut stream: impl Read + Write,
    page: &str,
    (end, largest): (Instant, usize),
    set: impl Fn(Duration) -> io::Result<()>,
) -> io::Result<Vec<u8>> {
    write!(stream, "GET {page} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        set(left)?;
        let count = match stream.read(&mut part) {
            Ok(0) => return Ok(answer),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        answer.extend_from_slice(part.get(..count).unwrap_or_default());
        if answer.len() > largest {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Asks a server that sends this and then closes or, if `silent`, waits for the client to go.
    fn asked(sent: &'static str, silent: bool) -> io::Result<Health> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut request, mut head) = ([0; 1024], Vec::new());
            // Unread bytes would make the close a reset.
            while !head.ends_with(b"\r\n\r\n") {
                let count = stream.read(&mut request).unwrap();
                head.extend_from_slice(&request[..count]);
            }
            stream.write_all(sent.as_bytes()).unwrap();
            while silent && stream.read(&mut request).unwrap_or(0) > 0 {}
        });
        let address = AdminAddress::Tcp(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port));
        let timeout = Duration::from_millis(if silent { 50 } else { 10_000 });
        let health = ask(&address, "/readyz", timeout, 1024);
        server.join().unwrap();
        health
    }

    #[test]
    fn the_status_decides() {
        let well = asked("HTTP/1.1 200 OK\r\nx: y\r\n\r\nready\n", false).unwrap();
        assert_eq!(well, Health { well: true, text: "ready\n".to_owned() });
        assert!(!asked("HTTP/1.1 503 No\r\n\r\ndraining\n", false).unwrap().well);
    }

    #[test]
    fn an_invalid_response_is_an_error() {
        for sent in ["", "SSH-2.0\r\n\r\n", "HTTP/1.1 200 OK\r\n"] {
            assert_eq!(asked(sent, false).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        let slow = asked("HTTP/1.1 200 OK\r\n\r\nre", true).unwrap_err();
        assert_eq!(slow.kind(), io::ErrorKind::TimedOut);
    }
}
