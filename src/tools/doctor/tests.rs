//! Trials against servers that answer, refuse, or say nothing.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};

use super::*;

/// Longer than any answer on loopback takes, and waited out only where there is none.
const PATIENCE: Duration = Duration::from_millis(700);

const ALERT: &[u8] = &[21, 3, 3, 0, 2, 2, 49];
const SERVER_HELLO: &[u8] = &[22, 3, 3, 0, 90, 2, 0];

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn trusted() -> Arc<Trusted> {
    let clients = TlsClients::with_system_roots();
    Arc::new(Trusted { clients, authorities: Vec::new() })
}

/// A server that answers the first bytes of each connection once.
async fn server(says: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                while stream.read(&mut bytes).await.is_ok_and(|length| length > 0) {
                    if stream.write_all(says).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    at
}

/// A port that refuses, of TCP and of UDP, and that nobody else is given as long as the test runs:
/// one socket does not listen, the other hears nobody but its peer.
async fn closed_port() -> SocketAddr {
    loop {
        let tcp = TcpSocket::new_v4().unwrap();
        tcp.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let at = tcp.local_addr().unwrap();
        if let Ok(udp) = UdpSocket::bind(at).await {
            udp.connect((Ipv4Addr::LOCALHOST, 9)).await.unwrap();
            tokio::spawn(async move {
                std::future::pending::<()>().await;
                drop((tcp, udp));
            });
            return at;
        }
    }
}

/// A name server that answers every question with this code.
async fn resolver(code: u8) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut bytes = [0; 512];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut bytes).await else { return };
            bytes[2] |= 0x80;
            bytes[3] = code;
            let _ = socket.send_to(&bytes[..length], from).await;
        }
    });
    at
}

#[tokio::test]
async fn what_is_not_shown_to_be_closed_is_open() {
    let hello = |to| Trial::Hello { to, name: Some(name("example.com")) };
    let dns = |to| Trial::Dns { to, transport: TrialTransport::Udp, name: name("example.com") };
    let silent = server(b"").await;
    for (trial, expected) in [
        (hello(server(ALERT).await), Verdict::Closed),
        (hello(server(SERVER_HELLO).await), Verdict::Open),
        (hello(server(&[21, 3, 3, 0, 2, 2, 112]).await), Verdict::Open),
        (hello(server(&[21, 3, 3, 0, 2, 2, 80]).await), Verdict::Open),
        (hello(silent), Verdict::Open),
        (hello(closed_port().await), Verdict::Closed),
        (Trial::Hello { to: server(ALERT).await, name: None }, Verdict::Closed),
        (Trial::Tcp(server(ALERT).await), Verdict::Closed),
        (Trial::Tcp(server(b"SSH-2.0-OpenSSH\r\n").await), Verdict::Open),
        (Trial::Tcp(silent), Verdict::Open),
        (Trial::Tcp(closed_port().await), Verdict::Closed),
        (dns(resolver(5).await), Verdict::Closed),
        (dns(resolver(0).await), Verdict::Open),
        (dns(resolver(3).await), Verdict::Open),
        (dns(resolver(2).await), Verdict::Open),
        (dns(closed_port().await), Verdict::Closed),
        (Trial::Quic(resolver(0).await), Verdict::Open),
        (Trial::Quic(closed_port().await), Verdict::Closed),
        (
            Trial::Dns { to: silent, transport: TrialTransport::Tcp, name: name("example.com") },
            Verdict::Open,
        ),
    ] {
        let tried = format!("{trial:?}");
        let (verdict, seen) = trial.run(PATIENCE, &trusted()).await;
        assert_eq!(verdict, expected, "{tried}: {seen}");
    }
}

#[tokio::test]
async fn what_should_work_has_to_answer() {
    let works = |to| Trial::Works { to, name: name("contoso.azurecr.io") };
    let asked = |to| Trial::Asked { to, name: name("contoso.azurecr.io") };
    for (trial, expected) in [
        (works(server(SERVER_HELLO).await), Verdict::Works),
        (works(server(ALERT).await), Verdict::Fails),
        (works(server(b"HTTP/1.1 400 Bad Request\r\n").await), Verdict::Fails),
        (works(server(b"").await), Verdict::Fails),
        (works(closed_port().await), Verdict::Fails),
        (asked(resolver(0).await), Verdict::Works),
        (asked(resolver(5).await), Verdict::Fails),
        (asked(closed_port().await), Verdict::Fails),
    ] {
        let tried = format!("{trial:?}");
        let (verdict, seen) = trial.run(PATIENCE, &trusted()).await;
        assert_eq!(verdict, expected, "{tried}: {seen}");
    }
}

/// A proxy that answers each CONNECT with this head, and what is said in the tunnel.
async fn proxy(head: &'static str, says: &'static [u8]) -> Proxy {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                let _ = stream.read(&mut bytes).await;
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.read(&mut bytes).await;
                let _ = stream.write_all(says).await;
                let _ = stream.read(&mut bytes).await;
            });
        }
    });
    format!("http://{at}").parse().unwrap()
}

#[tokio::test]
async fn through_a_proxy() {
    const OK: &str = "HTTP/1.1 200 OK\r\n\r\n";
    const DENIED: &str = "HTTP/1.1 403 pullgate: no [storage-account 01J]\r\nA: b\r\n\r\n";
    let target = || "contoso.azurecr.io:443".to_owned();
    let tunnel = |proxy| Trial::Tunnel { proxy, target: target() };
    let other = |proxy| Trial::OtherName { proxy, target: target(), name: name("example.com") };
    let works =
        |proxy| Trial::WorksThrough { proxy, target: target(), name: name("contoso.azurecr.io") };
    let absent: Proxy = closed_port().await.to_string().parse().unwrap();
    for (trial, expected) in [
        (tunnel(proxy(OK, b"").await), Verdict::Open),
        (tunnel(proxy(DENIED, b"").await), Verdict::Closed),
        (tunnel(proxy("SSH-2.0\r\n\r\n", b"").await), Verdict::Fails),
        (tunnel(absent.clone()), Verdict::Fails),
        (other(proxy(OK, ALERT).await), Verdict::Closed),
        (other(proxy(OK, SERVER_HELLO).await), Verdict::Open),
        (other(proxy(DENIED, b"").await), Verdict::Fails),
        (works(proxy(OK, SERVER_HELLO).await), Verdict::Works),
        (works(proxy(OK, ALERT).await), Verdict::Fails),
        (works(proxy(DENIED, b"").await), Verdict::Fails),
        (works(absent), Verdict::Fails),
    ] {
        let tried = format!("{trial:?}");
        let (verdict, seen) = trial.run(PATIENCE, &trusted()).await;
        assert_eq!(verdict, expected, "{tried}: {seen}");
    }
}

#[tokio::test]
async fn a_plan_is_tried_in_its_order_and_open_ways_name_their_rule() {
    let open = server(b"hello").await;
    let plan = DoctorPlan {
        outside: Vec::new(),
        ports: Vec::new(),
        closed: vec![open, closed_port().await],
        system_resolvers: vec![resolver(5).await],
        resolvers: vec![resolver(0).await],
        gate_resolvers: Vec::new(),
        metadata: Vec::new(),
        stranger: name("example.com"),
        storage: name("x.blob.core.windows.net"),
        doh: name("dns.example.com"),
        allowed: Vec::new(),
        mirrors: Vec::new(),
        registries: Vec::new(),
        proxy: None,
        no_proxy: String::new(),
        only_http_proxy: true,
        authorities: Vec::new(),
        admin: None,
        patience: PATIENCE,
    };
    let findings = examine(&plan).await;
    let verdicts: Vec<Verdict> = findings.iter().map(|finding| finding.verdict).collect();
    use Verdict::{Closed, Open, Skipped};
    let expected = [Open, Closed, Closed, Closed, Open, Closed, Skipped];
    assert_eq!(verdicts, expected, "{findings:?}");
    let line = findings[0].to_string();
    let rule = format!("close it by: ip daddr 127.0.0.1 tcp dport {} drop", open.port());
    assert!(line.starts_with("OPEN    TCP ") && line.ends_with(&rule), "{line}");
    assert_eq!(findings[1].remedy, None);
    assert!(findings[1].to_string().starts_with("closed  TCP "), "{}", findings[1]);
}

#[test]
fn no_proxy_must_not_lead_past_the_proxy() {
    let allowed = ["contoso.azurecr.io", "contoso.eastus.data.azurecr.io"];
    let plan = |no_proxy: &str, proxy: Option<&str>| DoctorPlan {
        outside: Vec::new(),
        ports: Vec::new(),
        closed: Vec::new(),
        system_resolvers: Vec::new(),
        resolvers: Vec::new(),
        gate_resolvers: Vec::new(),
        metadata: Vec::new(),
        stranger: name("example.com"),
        storage: name("x.blob.core.windows.net"),
        doh: name("dns.example.com"),
        allowed: allowed.map(|host| crate::policy::parse_host(host).unwrap()).to_vec(),
        mirrors: Vec::new(),
        registries: Vec::new(),
        proxy: proxy.map(|proxy| proxy.parse().unwrap()),
        no_proxy: no_proxy.to_owned(),
        only_http_proxy: false,
        authorities: Vec::new(),
        admin: None,
        patience: PATIENCE,
    };
    let found = |no_proxy: &str, proxy| -> Vec<String> {
        settings(&plan(no_proxy, proxy)).iter().map(ToString::to_string).collect()
    };
    let gate = Some("http://10.0.0.10:3128");
    assert_eq!(found("localhost,10.0.0.0/8", gate), [""; 0]);
    assert_eq!(found("azurecr.io", None), [""; 0], "without a proxy it means nothing");
    let login = "FAILS   contoso.azurecr.io:443 by NO_PROXY: its entry \"contoso.azurecr.io\" sends \
                 clients past the proxy, but contoso.eastus.data.azurecr.io:443 through it: a pull \
                 needs both; it needs: NO_PROXY without \"contoso.azurecr.io\"";
    assert_eq!(found("localhost,contoso.azurecr.io", gate), [login]);
    let data = found(".data.azurecr.io", gate);
    assert!(data[0].contains("contoso.eastus.data.azurecr.io:443 by NO_PROXY"), "{data:?}");
    assert!(data[0].contains("but contoso.azurecr.io:443 through it"), "{data:?}");
    assert_eq!(found("azurecr.io", gate).len(), 2);
}
