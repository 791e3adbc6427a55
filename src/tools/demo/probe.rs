//! Sends single CONNECT requests and what may follow them. Every read is bounded in bytes and time,
//! because the gate is under test.

use super::authority::Authority;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, Error as TlsError};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Timeout of one probe.
const PATIENCE: Duration = Duration::from_secs(10);
/// Maximum size of a response head, in bytes.
const HEAD_LIMIT: usize = 16 << 10;
/// Maximum size of a page of the admin listener, in bytes.
const PAGE_LIMIT: u64 = 4 << 20;

/// The status line of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusLine {
    /// The status code.
    pub code: u16,
    /// The reason phrase, the only part that docker shows to its user.
    pub phrase: String,
}

impl StatusLine {
    /// Returns the reason code in the phrase, in brackets before the session id.
    #[must_use]
    pub fn reason(&self) -> &str {
        let in_brackets = self.phrase.rsplit_once('[').map_or("", |(_, rest)| rest);
        in_brackets.split([' ', ']']).next().unwrap_or_default()
    }
}

/// The result of a TLS handshake in a tunnel.
pub enum Handshake {
    /// It succeeded.
    Done(Box<TlsStream<TcpStream>>),
    /// The gate sent an alert.
    Alert(AlertDescription),
    /// It failed otherwise.
    Broken(io::Error),
}

/// Requests a tunnel to `target` (`host:port`) from the proxy. The stream is the tunnel if the
/// status is 200.
pub async fn connect(proxy: SocketAddr, target: &str) -> io::Result<(StatusLine, TcpStream)> {
    in_time(async {
        let mut stream = TcpStream::connect(proxy).await?;
        let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let answer = parse_status_line(&read_head(&mut stream).await?)?;
        Ok((answer, stream))
    })
    .await
}

/// Starts TLS with `name` in the tunnel.
pub async fn handshake(tunnel: TcpStream, name: &str, authority: &Authority) -> Handshake {
    let Ok(name) = ServerName::try_from(name.to_owned()) else {
        return Handshake::Broken(io::ErrorKind::InvalidInput.into());
    };
    let connector = TlsConnector::from(authority.client());
    match in_time(connector.connect(name, tunnel)).await {
        Ok(stream) => Handshake::Done(Box::new(stream)),
        Err(error) => match error.get_ref().and_then(|error| error.downcast_ref()) {
            Some(TlsError::AlertReceived(alert)) => Handshake::Alert(*alert),
            _ => Handshake::Broken(error),
        },
    }
}

/// Sends `bytes` into the tunnel and returns what it receives until the tunnel closes.
pub async fn say(mut tunnel: TcpStream, bytes: &[u8]) -> io::Result<Vec<u8>> {
    in_time(async {
        tunnel.write_all(bytes).await?;
        let mut back = Vec::new();
        tunnel.take(HEAD_LIMIT as u64).read_to_end(&mut back).await?;
        Ok(back)
    })
    .await
}

/// Returns whether `bytes` are one fatal TLS alert of this kind (RFC 8446, sections 5.1 and 6).
#[must_use]
pub fn is_alert(bytes: &[u8], alert: AlertDescription) -> bool {
    matches!(bytes, [21, 3, _, 0, 2, 2, kind] if *kind == u8::from(alert))
}

/// Requests `path` from `host` in an open TLS session and returns the status line. The session can
/// be reused if the response has no body.
pub async fn ask(
    session: &mut TlsStream<TcpStream>,
    host: &str,
    path: &str,
) -> io::Result<StatusLine> {
    in_time(async {
        let head = format!("HEAD {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        session.write_all(head.as_bytes()).await?;
        parse_status_line(&read_head(session).await?)
    })
    .await
}

/// Waits until the other side closes an idle session.
pub async fn closed(session: &mut TlsStream<TcpStream>) -> io::Result<()> {
    in_time(async {
        // Any close counts: in order, without a TLS close_notify, or by a reset.
        while session.read(&mut [0; 512]).await.is_ok_and(|count| count > 0) {}
        Ok(())
    })
    .await
}

/// Fetches a page from the gate's admin listener.
pub async fn page(admin: SocketAddr, path: &str) -> io::Result<String> {
    in_time(async {
        let mut stream = TcpStream::connect(admin).await?;
        let head = format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut answer = String::new();
        stream.take(PAGE_LIMIT).read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
        match parse_status_line(head.as_bytes())?.code {
            200 => Ok(body.to_owned()),
            code => Err(io::Error::other(format!("{path} was answered with {code}"))),
        }
    })
    .await
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
}

/// Reads exactly up to the empty line, because later bytes belong to the tunnel.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == HEAD_LIMIT {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.push(stream.read_u8().await?);
    }
    Ok(head)
}

fn parse_status_line(head: &[u8]) -> io::Result<StatusLine> {
    let head = String::from_utf8_lossy(head);
    let line = head.lines().next().unwrap_or_default();
    let mut words = line.splitn(3, ' ');
    match (words.next(), words.next().and_then(|code| code.parse().ok()), words.next()) {
        (Some(version), Some(code), phrase) if version.starts_with("HTTP/1.") => {
            Ok(StatusLine { code, phrase: phrase.unwrap_or_default().to_owned() })
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("not a status line: {line}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines() {
        for (line, expected) in [
            ("HTTP/1.1 200 OK", Some((200, "OK"))),
            (
                "HTTP/1.1 403 pullgate: no [ip-literal 01J]",
                Some((403, "pullgate: no [ip-literal 01J]")),
            ),
            ("HTTP/1.1 200", Some((200, ""))),
            ("HTTP/2 200 OK", None),
            ("", None),
        ] {
            let found = parse_status_line(format!("{line}\r\n\r\n").as_bytes()).ok();
            let found = found.as_ref().map(|answer| (answer.code, answer.phrase.as_str()));
            assert_eq!(found, expected, "{line}");
        }
    }

    #[test]
    fn reasons_stand_in_brackets() {
        for (phrase, reason) in [
            ("pullgate: x is a storage account [storage-account 01JD]", "storage-account"),
            ("pullgate: [x] [ip-literal 01JD]", "ip-literal"),
            ("Forbidden", ""),
            ("", ""),
        ] {
            let answer = StatusLine { code: 403, phrase: phrase.to_owned() };
            assert_eq!(answer.reason(), reason);
        }
    }

    #[test]
    fn alerts() {
        let denied = AlertDescription::AccessDenied;
        assert!(is_alert(&[21, 3, 3, 0, 2, 2, 49], denied));
        assert!(is_alert(&[21, 3, 1, 0, 2, 2, 49], denied));
        assert!(!is_alert(&[21, 3, 3, 0, 2, 2, 80], denied));
        assert!(!is_alert(&[21, 3, 3, 0, 2, 2, 49, 0], denied));
        assert!(!is_alert(b"", denied));
    }

    #[tokio::test]
    async fn heads_are_read_to_the_empty_line_and_no_further() {
        let mut stream = &b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nrest"[..];
        let head = read_head(&mut stream).await.unwrap();
        assert!(head.ends_with(b"A: b\r\n\r\n"));
        assert_eq!(stream, b"rest");
        assert!(read_head(&mut &b"HTTP/1.1 200 OK\r\n"[..]).await.is_err());
        assert!(read_head(&mut &vec![b'a'; HEAD_LIMIT + 1][..]).await.is_err());
    }
}
