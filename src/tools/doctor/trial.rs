//! Runs one test: what is sent, and what the response means.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::fault::{has_no_route, judge_error, leads_out};
use super::hello::{ALERT_LENGTH, Heard, heard, hello};
use super::proxy::Proxy;
use super::verdict::{Found, MARK, Verdict, describe, found};
use super::{dns, local};
use crate::dial::TlsClients;
use crate::policy::{Name, Target};

/// Maximum size of a proxy's response, in bytes.
const LARGEST_HEAD: usize = 16 * 1024;

/// Sent if the protocol is unknown: web servers answer it, and so does a gate.
const GREETING: &[u8] = b"HEAD / HTTP/1.0\r\n\r\n";

/// Minimum size of QUIC datagrams, in bytes (RFC 9000 §14.1).
const QUIC_DATAGRAM: usize = 1200;

/// What the names of authorities of `[inspect]` begin with.
pub(super) const INSPECTOR: &str = "pullgate inspect ";

/// Whom clients trust.
#[derive(Debug)]
pub(super) struct Trusted {
    pub(super) clients: TlsClients,
    /// Beside the system's.
    pub(super) authorities: Vec<CertificateDer<'static>>,
}

/// The kind of a test.
#[derive(Debug)]
pub(super) enum Trial {
    /// A connection.
    Tcp(SocketAddr),
    /// A ClientHello that must be rejected.
    Hello { to: SocketAddr, name: Option<Name> },
    /// A datagram that every QUIC server answers.
    Quic(SocketAddr),
    /// A datagram from the address of another machine.
    ForgedSource(Ipv6Addr),
    /// A query.
    Dns { to: SocketAddr, transport: TrialTransport, name: Name },
    /// A query that must be answered.
    Asked { to: SocketAddr, name: Name },
    /// A CONNECT that must be rejected.
    Tunnel { proxy: Proxy, target: String },
    /// A ClientHello with another host than the CONNECT.
    OtherName { proxy: Proxy, target: String, name: Name },
    /// A ClientHello that must be answered.
    Works { to: SocketAddr, name: Name },
    /// The same, at each address from the system resolver.
    WorksByDns { target: Target },
    /// A ClientHello that must be rejected at each address from the system resolver.
    ClosedByDns { target: Target },
    /// The same, through a proxy.
    WorksThrough { proxy: Proxy, target: String, name: Name },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TrialTransport {
    Udp,
    Tcp,
}

/// The response of a proxy to a CONNECT.
struct ProxyResponse {
    code: u16,
    line: String,
}

impl Trial {
    /// Runs the test with a timeout.
    pub(super) async fn run(self, patience: Duration, trusted: &Arc<Trusted>) -> Found {
        let by = Instant::now() + patience;
        match self {
            Self::Tcp(to) => refused(to, GREETING, by).await,
            Self::Hello { to, name } => match hello(name.as_ref()) {
                Ok(bytes) => refused(to, &bytes, by).await,
                Err(error) => found(Verdict::Fails, error.to_string()),
            },
            Self::Quic(to) => datagram(to, &quic(), by, |_| Some("it answers".to_owned())).await,
            Self::ForgedSource(ip) => local::forged_source(ip),
            Self::Dns { to, transport: TrialTransport::Udp, name } => {
                datagram(to, &dns::question(&name), by, dns::answered).await
            }
            Self::Dns { to, transport: TrialTransport::Tcp, name } => {
                dns_over_tcp(to, &name, by).await
            }
            Self::Asked { to, name } => asked(to, &name, by).await,
            Self::Tunnel { proxy, target } => match connect(&proxy, &target, by).await {
                Ok((answer, _)) => judge_refusal(&answer),
                Err(error) => found(Verdict::Fails, describe(&error)),
            },
            Self::OtherName { proxy, target, name } => {
                match through(&proxy, &target, &name, by).await {
                    Ok(heard) => judge_forbidden(heard),
                    Err(seen) => found(Verdict::Fails, seen),
                }
            }
            Self::Works { to, name } => works(to, &name, trusted, by).await,
            Self::WorksByDns { target } => works_by_dns(&target, trusted, by).await,
            Self::ClosedByDns { target } => closed_by_dns(&target, by).await,
            Self::WorksThrough { proxy, target, name } => {
                match through(&proxy, &target, &name, by).await {
                    Ok(Heard::Server) => match connect(&proxy, &target, by).await {
                        Ok((_, stream)) => verified(trusted, stream, &name, by).await,
                        Err(_) => judge_allowed(Heard::Server),
                    },
                    Ok(heard) => judge_allowed(heard),
                    Err(seen) => found(Verdict::Fails, seen),
                }
            }
        }
    }
}

/// Connects and sends what must be rejected.
async fn refused(to: SocketAddr, said: &[u8], by: Instant) -> Found {
    let mut stream = match timeout_at(by, TcpStream::connect(to)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return judge_error(&error, leads_out(to)),
        Err(_) => return found(Verdict::Closed, "no answer"),
    };
    judge_forbidden(listen(&mut stream, said, by).await)
}

/// Connects and sends what must be answered.
async fn works(to: SocketAddr, name: &Name, trusted: &Trusted, by: Instant) -> Found {
    let said = match hello(Some(name)) {
        Ok(said) => said,
        Err(error) => return found(Verdict::Fails, error.to_string()),
    };
    let mut stream = match timeout_at(by, TcpStream::connect(to)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if has_no_route(&error) => return found(Verdict::Skipped, describe(&error)),
        Ok(Err(error)) => return found(Verdict::Fails, describe(&error)),
        Err(_) => return found(Verdict::Fails, "no answer"),
    };
    match listen(&mut stream, &said, by).await {
        Heard::Server => match timeout_at(by, TcpStream::connect(to)).await {
            Ok(Ok(stream)) => verified(trusted, stream, name, by).await,
            _ => judge_allowed(Heard::Server),
        },
        heard => judge_allowed(heard),
    }
}

/// Names the issuer of the certificate of a server that has answered. Only the issuer shows that a
/// firewall intercepts TLS, if this machine trusts the firewall's authority.
async fn verified(trusted: &Trusted, stream: TcpStream, name: &Name, by: Instant) -> Found {
    let (verdict, seen) = judge_allowed(Heard::Server);
    let has_none = trusted.clients.is_empty() && trusted.authorities.is_empty();
    let examined = trusted.clients.examine(stream, name, &trusted.authorities, by).await;
    match (examined.stream, examined.certificate) {
        (Ok(_), Some(certificate)) => {
            found(verdict, format!("{seen}, its certificate is by {}", certificate.issuer))
        }
        (Err(fault), Some(certificate)) if fault.is_of_certificate && !has_none => {
            let inspects = certificate.issuer.starts_with(INSPECTOR);
            let how = if inspects { "the gate inspects it, and " } else { "" };
            let seen = format!("{seen}, {how}this machine does not trust its certificate by");
            found(Verdict::Untrusted, format!("{seen} {}", certificate.issuer))
        }
        _ => found(verdict, seen),
    }
}

/// All addresses must work, because a client can use any of them.
async fn works_by_dns(target: &Target, trusted: &Arc<Trusted>, by: Instant) -> Found {
    let mut trying = JoinSet::new();
    for to in dns::addresses(target, by).await {
        let (name, trusted) = (target.name.clone(), trusted.clone());
        trying.spawn(async move { (to, works(to, &name, &trusted, by).await) });
    }
    let all = trying.join_all().await;
    let first = |wanted: fn(&Verdict) -> bool| all.iter().find(|(_, (verdict, _))| wanted(verdict));
    let shown = first(|verdict| !verdict.is_well())
        .or_else(|| first(|verdict| *verdict == Verdict::Works))
        .or(all.first());
    match shown {
        Some((to, (verdict, seen))) => found(*verdict, format!("{}: {seen}", to.ip())),
        None => found(Verdict::Fails, "the system finds no address"),
    }
}

/// All addresses must be closed.
async fn closed_by_dns(target: &Target, by: Instant) -> Found {
    let said = match hello(Some(&target.name)) {
        Ok(said) => said,
        Err(error) => return found(Verdict::Fails, error.to_string()),
    };
    let mut trying = JoinSet::new();
    for to in dns::addresses(target, by).await {
        let said = said.clone();
        trying.spawn(async move { (to, refused(to, &said, by).await) });
    }
    let all = trying.join_all().await;
    match all.iter().find(|(_, (verdict, _))| !verdict.is_well()).or(all.first()) {
        Some((to, (verdict, seen))) => found(*verdict, format!("{}: {seen}", to.ip())),
        None => found(Verdict::Closed, "the system finds no address"),
    }
}

/// Sends bytes and returns the response.
async fn listen(stream: &mut TcpStream, said: &[u8], by: Instant) -> Heard {
    let heard = async {
        let mut bytes = Vec::with_capacity(ALERT_LENGTH);
        // A peer that closed may have answered before.
        let _ = stream.write_all(said).await;
        while heard(&bytes) == Heard::NeedMore {
            match stream.read_u8().await {
                Ok(byte) => bytes.push(byte),
                Err(_) => break,
            }
        }
        heard(&bytes)
    };
    timeout_at(by, heard).await.unwrap_or(Heard::NeedMore)
}

fn judge_forbidden(heard: Heard) -> Found {
    match heard {
        Heard::Refused => found(Verdict::Closed, "the gate refuses it"),
        // A gate that failed to connect had allowed the host.
        Heard::Failed => found(Verdict::Open, "a gate allows it, but cannot reach it"),
        Heard::Server => found(Verdict::Open, "a TLS server answers"),
        Heard::Other => found(Verdict::Open, "it answers"),
        Heard::NeedMore => found(Verdict::Open, "the connection is accepted"),
    }
}

fn judge_allowed(heard: Heard) -> Found {
    match heard {
        Heard::Server => found(Verdict::Works, "a TLS server answers"),
        Heard::Refused => found(Verdict::Fails, "the gate refuses it"),
        Heard::Failed => found(Verdict::Fails, "the gate cannot reach it"),
        Heard::Other => found(Verdict::Fails, "the answer is not TLS"),
        Heard::NeedMore => found(Verdict::Fails, "nothing answers"),
    }
}

fn judge_refusal(answer: &ProxyResponse) -> Found {
    match answer.code {
        200..=299 => found(Verdict::Open, format!("the proxy opens a tunnel: {}", answer.line)),
        407 => found(Verdict::Fails, format!("the proxy requires credentials: {}", answer.line)),
        400..=499 => found(Verdict::Closed, answer.line.clone()),
        _ => found(Verdict::Fails, format!("not conclusive: {}", answer.line)),
    }
}

/// Sends a datagram and interprets its response; `None` for a refusal.
async fn datagram(
    to: SocketAddr,
    said: &[u8],
    by: Instant,
    means: impl FnOnce(&[u8]) -> Option<String>,
) -> Found {
    match exchange(to, said, by).await {
        Ok(bytes) => match means(&bytes) {
            Some(seen) => found(Verdict::Open, seen),
            None => found(Verdict::Closed, "it refuses"),
        },
        Err(error) => judge_error(&error, leads_out(to)),
    }
}

/// Queries a name that must exist, in any address family.
async fn asked(to: SocketAddr, name: &Name, by: Instant) -> Found {
    match exchange(to, &dns::question(name), by).await {
        Ok(bytes) => match dns::knows(&bytes) {
            true => found(Verdict::Works, "it answers"),
            false => found(Verdict::Fails, "it does not know it"),
        },
        Err(error) if has_no_route(&error) => found(Verdict::Skipped, describe(&error)),
        Err(error) => found(Verdict::Fails, describe(&error)),
    }
}

/// Sends a datagram and returns the response.
async fn exchange(to: SocketAddr, said: &[u8], by: Instant) -> io::Result<Vec<u8>> {
    let own = match to {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let exchange = async {
        let socket = UdpSocket::bind(own).await?;
        socket.connect(to).await?;
        socket.send(said).await?;
        let mut bytes = vec![0; 2048];
        let length = socket.recv(&mut bytes).await?;
        bytes.truncate(length);
        Ok(bytes)
    };
    timeout_at(by, exchange).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
}

async fn dns_over_tcp(to: SocketAddr, name: &Name, by: Instant) -> Found {
    let mut stream = match timeout_at(by, TcpStream::connect(to)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return judge_error(&error, leads_out(to)),
        Err(_) => return found(Verdict::Closed, "no answer"),
    };
    let question = dns::question(name);
    let exchange = async {
        let length = u16::try_from(question.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), question.as_slice()].concat()).await?;
        let length = stream.read_u16().await?;
        let mut bytes = vec![0; usize::from(length)];
        stream.read_exact(&mut bytes).await?;
        Ok::<_, io::Error>(bytes)
    };
    match timeout_at(by, exchange).await {
        Ok(Ok(bytes)) => match dns::answered(&bytes) {
            Some(seen) => found(Verdict::Open, seen),
            None => found(Verdict::Closed, "it refuses"),
        },
        _ => found(Verdict::Open, "the connection is accepted"),
    }
}

/// Requests a tunnel from a proxy.
async fn connect(
    proxy: &Proxy,
    target: &str,
    by: Instant,
) -> io::Result<(ProxyResponse, TcpStream)> {
    let exchange = async {
        let mut stream = TcpStream::connect(&*proxy.at).await?;
        let mut head =
            format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: {MARK}\r\n");
        if let Some(credentials) = &proxy.credentials {
            head.push_str("Proxy-Authorization: Basic ");
            head.push_str(credentials);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() == LARGEST_HEAD {
                return Err(io::ErrorKind::InvalidData.into());
            }
            answer.push(stream.read_u8().await?);
        }
        let answer = String::from_utf8_lossy(&answer);
        let line = answer.lines().next().unwrap_or_default();
        let code = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let code = code.ok_or_else(|| io::Error::other("the answer is not HTTP"))?;
        let line = line.split_once(' ').map_or(line, |(_, line)| line).to_owned();
        Ok((ProxyResponse { code, line }, stream))
    };
    timeout_at(by, exchange).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
}

/// Sends a ClientHello in a tunnel to a target.
async fn through(proxy: &Proxy, target: &str, name: &Name, by: Instant) -> Result<Heard, String> {
    let said = hello(Some(name)).map_err(|error| error.to_string())?;
    let (answer, mut stream) =
        connect(proxy, target, by).await.map_err(|error| describe(&error))?;
    if !(200..=299).contains(&answer.code) {
        return Err(answer.line);
    }
    Ok(listen(&mut stream, &said, by).await)
}

/// Returns a datagram with an unsupported QUIC version, which every server answers with its
/// versions (RFC 9000 §6, §15).
fn quic() -> Vec<u8> {
    let mut bytes = vec![0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8];
    bytes.extend_from_slice(b"pullgate");
    bytes.push(8);
    bytes.extend_from_slice(b"pullgate");
    bytes.resize(QUIC_DATAGRAM, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::proxy::NoProxy;
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    #[test]
    fn proxies() {
        for (text, expected) in [
            ("http://10.0.0.10:3128", Ok("http://10.0.0.10:3128")),
            ("http://gate.example.com:3128/", Ok("http://gate.example.com:3128")),
            ("HTTP://[fd00::1]:3128", Ok("http://[fd00::1]:3128")),
            ("10.0.0.10:3128", Ok("http://10.0.0.10:3128")),
            ("http://ci:p@ss@gate:3128", Ok("http://gate:3128")),
            ("https://gate:3128", Err(NoProxy::Tls)),
            ("socks5://gate:1080", Err(NoProxy::Form)),
            ("http://gate", Err(NoProxy::Form)),
            ("http://gate:0", Err(NoProxy::Form)),
            ("http://:3128", Err(NoProxy::Form)),
            ("http://gate:3128/path", Err(NoProxy::Form)),
            ("", Err(NoProxy::Form)),
        ] {
            let parsed = text.parse::<Proxy>().map(|proxy| proxy.to_string());
            assert_eq!(parsed, expected.map(ToOwned::to_owned), "{text}");
        }
        let secret: Proxy = "http://ci:hunter2@gate:3128".parse().unwrap();
        assert!(!format!("{secret} {secret:?}").contains("hunter2"));
        assert_eq!(secret.credentials.unwrap(), STANDARD.encode("ci:hunter2"));
    }

    #[test]
    fn what_a_proxy_says() {
        for (code, expected) in [
            (200, Verdict::Open),
            (403, Verdict::Closed),
            (400, Verdict::Closed),
            (407, Verdict::Fails),
            (502, Verdict::Fails),
            (503, Verdict::Fails),
        ] {
            let answer = ProxyResponse { code, line: String::new() };
            assert_eq!(judge_refusal(&answer).0, expected, "{code}");
        }
    }

    #[test]
    fn quic_has_its_shape() {
        let bytes = quic();
        assert_eq!(bytes.len(), QUIC_DATAGRAM);
        assert_eq!(bytes[0] & 0xc0, 0xc0, "a long header");
        assert!(bytes[1..5].iter().all(|byte| byte & 0xf == 0xa), "a version for this");
    }
}
