//! What the DNS server answers, judged without sockets, and then asked over real ones.

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{self, RData, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::account::Sink;
use crate::config::{File, Files};

const CLIENT: &str = "10.7.0.2";

struct Gateway {
    answerer: Arc<DnsServer>,
    policy: watch::Sender<Arc<PolicySet>>,
    account: Arc<Account>,
    _own: watch::Sender<Arc<OwnAddresses>>,
    folder: tempfile::TempDir,
}

/// A policy of these registries' labels, and of tables.
fn policy(labels: &[&str], tables: &str) -> Arc<PolicySet> {
    let file = |path: String, text: String| File { path: path.into(), text: Ok(text) };
    let main = format!("[[listen]]\nmode = \"transparent\"\naddress = \"127.0.0.1:0\"\n{tables}");
    let registry = |label: &&str| {
        let text = format!(
            "login-server = \"{label}.azurecr.io\"\n\
             data-endpoints = [\"{label}.eastus.data.azurecr.io\"]\n"
        );
        file(format!("{label}.toml"), text)
    };
    let registries = labels.iter().map(registry).collect();
    let files = Files { main: file("pullgate.toml".into(), main), registries, further: Vec::new() };
    Arc::new(config::compile(&files, 1).unwrap().policy)
}

fn gateway(answer: AnswerWith, first: Arc<PolicySet>) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    let sink = Sink::File(folder.path().join("audit.jsonl"));
    let account = Account::new(prometheus::Registry::new(), sink).unwrap();
    let resolver = Resolver::new(&first.rules().dns_servers);
    let (policy, policy_seen) = watch::channel(first);
    let (own, own_seen) = watch::channel(Arc::default());
    let sources = Sources {
        policy: policy_seen,
        own: own_seen,
        resolver: Arc::new(resolver),
        account: account.clone(),
    };
    let settings =
        config::Answerer { addresses: Vec::new(), answer, queries_per_second: 1_000_000 };
    let answerer = DnsServer::new(&settings, sources);
    Gateway { answerer, policy, account, _own: own, folder }
}

fn gate() -> AnswerWith {
    AnswerWith::Gate(vec!["10.7.0.1".parse().unwrap(), "fd07::1".parse().unwrap()])
}

fn asking(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(rr::Name::from_ascii(name).unwrap(), kind));
    message
}

impl Gateway {
    async fn asked(&self, name: &str, kind: RecordType) -> DnsReply {
        let question = ClientQuestion::read(&asking(name, kind).to_vec().unwrap()).unwrap();
        let (client, listener) = (CLIENT.parse().unwrap(), "10.7.0.1:53".into());
        match self.answerer.judge(&question, client, &listener) {
            Next::Answer(reply) => reply,
            Next::LookUp(set, allowed) => {
                self.answerer.look_up(&question, client, &listener, &set, allowed).await
            }
        }
    }

    fn audit(&self) -> String {
        self.account.finish(Duration::from_secs(20));
        std::fs::read_to_string(self.folder.path().join("audit.jsonl")).unwrap()
    }
}

fn addresses(said: &DnsReply) -> Vec<String> {
    match said {
        DnsReply::Addresses(addresses, _) => addresses.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn the_gates_own_addresses_and_nothing_else() {
    let gateway = gateway(gate(), policy(&["contoso"], ""));
    for (name, kind, expected) in [
        ("contoso.azurecr.io.", RecordType::A, Ok("10.7.0.1")),
        ("contoso.azurecr.io.", RecordType::AAAA, Ok("fd07::1")),
        ("Contoso.EastUS.data.azurecr.io.", RecordType::A, Ok("10.7.0.1")),
        ("contoso.azurecr.io.", RecordType::HTTPS, Err(DnsReply::NoData)),
        ("contoso.azurecr.io.", RecordType::SVCB, Err(DnsReply::NoData)),
        ("contoso.azurecr.io.", RecordType::TXT, Err(DnsReply::Withheld)),
        ("contoso.azurecr.io.", RecordType::ANY, Err(DnsReply::Withheld)),
        ("contoso.azurecr.io.", RecordType::AXFR, Err(DnsReply::Refused)),
        ("fabrikam.azurecr.io.", RecordType::A, Err(DnsReply::Denied)),
        ("fabrikam.azurecr.io.", RecordType::HTTPS, Err(DnsReply::Denied)),
        ("secret.contoso.azurecr.io.", RecordType::A, Err(DnsReply::Denied)),
        ("azurecr.io.", RecordType::NS, Err(DnsReply::Denied)),
        ("_tcp.contoso.azurecr.io.", RecordType::SRV, Err(DnsReply::Denied)),
        (".", RecordType::NS, Err(DnsReply::Denied)),
        ("1.0.7.10.in-addr.arpa.", RecordType::PTR, Err(DnsReply::Denied)),
        ("fabrikam.azurecr.io.", RecordType::IXFR, Err(DnsReply::Refused)),
    ] {
        let said = gateway.asked(name, kind).await;
        match expected {
            Ok(address) => assert_eq!(addresses(&said), [address], "{name} {kind}"),
            Err(word) => assert_eq!(said, word, "{name} {kind}"),
        }
    }
}

#[tokio::test]
async fn a_gate_without_ipv6_has_no_such_data() {
    let own = AnswerWith::Gate(vec!["10.7.0.1".parse().unwrap()]);
    let gateway = gateway(own, policy(&["contoso"], ""));
    assert_eq!(gateway.asked("contoso.azurecr.io.", RecordType::AAAA).await, DnsReply::NoData);
}

#[tokio::test]
async fn the_policy_of_the_moment_judges() {
    let gateway = gateway(gate(), policy(&["contoso"], ""));
    let asked = async |name| addresses(&gateway.asked(name, RecordType::A).await).len();
    assert_eq!(asked("contoso.azurecr.io.").await, 1);
    assert_eq!(asked("fabrikam.azurecr.io.").await, 0);
    gateway.policy.send_replace(policy(&["fabrikam"], ""));
    assert_eq!(asked("contoso.azurecr.io.").await, 0);
    assert_eq!(asked("fabrikam.azurecr.io.").await, 1);
    gateway.policy.send_replace(policy(&["wingtip"], "[policy]\nenforcement = \"report\"\n"));
    assert_eq!(asked("x.blob.core.windows.net.").await, 1, "what would be denied passes");
}

#[tokio::test]
async fn real_addresses_are_those_that_may_be_dialled() {
    let hosts = "[dns.hosts]\n\"contoso.azurecr.io\" = [\"20.1.2.3:8443\", \"20.1.2.3\", \
                 \"169.254.169.254\", \"10.1.0.4\", \"[2001:4860::1]:443\"]\n\
                 \"contoso.eastus.data.azurecr.io\" = [\"10.1.0.4\"]\n";
    let gateway = gateway(AnswerWith::Real, policy(&["contoso"], hosts));
    let said = gateway.asked("contoso.azurecr.io.", RecordType::A).await;
    assert_eq!(addresses(&said), ["20.1.2.3"]);
    let DnsReply::Addresses(_, lives) = said else { panic!() };
    assert!(lives <= LONGEST_TTL && !lives.is_zero());
    let said = gateway.asked("contoso.azurecr.io.", RecordType::AAAA).await;
    assert_eq!(addresses(&said), ["2001:4860::1"]);
    let said = gateway.asked("contoso.eastus.data.azurecr.io.", RecordType::A).await;
    assert_eq!(said, DnsReply::Withheld, "none may be dialled");
    let audit = gateway.audit();
    assert!(audit.contains("\"reason\":\"address-not-allowed\""), "{audit}");
}

#[tokio::test]
async fn a_denied_name_is_recorded() {
    let gateway = gateway(gate(), policy(&["contoso"], ""));
    for (name, kind, reply) in [
        ("x.blob.core.windows.net.", RecordType::A, DnsReply::Denied),
        ("x.blob.core.windows.net.", RecordType::A, DnsReply::Denied),
        ("secret.evil.example.", RecordType::TXT, DnsReply::Denied),
        ("contoso.azurecr.io.", RecordType::TXT, DnsReply::Withheld),
    ] {
        assert_eq!(gateway.asked(name, kind).await, reply);
    }
    let audit = gateway.audit();
    let lines: Vec<serde_json::Value> =
        audit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3, "the second of a kind is folded: {audit}");
    assert_eq!(lines[0]["target"], "x.blob.core.windows.net");
    assert_eq!((&lines[0]["query"], &lines[0]["outcome"]), (&"A".into(), &"denied".into()));
    assert_eq!(lines[0]["reason"], "storage-account");
    assert_eq!(lines[0]["client"], CLIENT);
    assert_eq!(lines[1]["target"], "secret.evil.example");
    assert_eq!(lines[1]["query"], "TXT");
    assert_eq!(lines[2]["repeated"], 1);
}

/// Sockets of the same port for both transports.
async fn bound() -> Bound {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        // Somebody may have the other one.
        if let Ok(udp) = UdpSocket::bind(address).await {
            return Bound::new(address, udp, tcp);
        }
    }
}

#[tokio::test]
async fn both_transports_answer() {
    let gateway = gateway(gate(), policy(&["contoso"], ""));
    let bound = bound().await;
    let at = bound.address;
    let serving = tokio::spawn(gateway.answerer.clone().serve(bound));
    let asked = asking("contoso.azurecr.io.", RecordType::A).to_vec().unwrap();
    let check = |bytes: &[u8]| {
        let answer = Message::from_vec(bytes).unwrap();
        let RData::A(address) = &answer.answers[0].data else { panic!("{answer:?}") };
        assert_eq!(address.to_string(), "10.7.0.1");
    };
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut bytes = [0; 1500];
    for broken in [&b"nonsense"[..], &[0; 12], &asked[..13]] {
        udp.send_to(broken, at).await.unwrap();
    }
    udp.send_to(&asked, at).await.unwrap();
    for expected in [Some(ResponseCode::FormErr), Some(ResponseCode::FormErr), None] {
        let (length, _) = udp.recv_from(&mut bytes).await.unwrap();
        match expected {
            Some(code) => {
                let answer = Message::from_vec(&bytes[..length]).unwrap();
                assert_eq!(answer.metadata.response_code, code);
            }
            None => check(&bytes[..length]),
        }
    }
    let mut tcp = TcpStream::connect(at).await.unwrap();
    for _ in 0..3 {
        let length = u16::try_from(asked.len()).unwrap().to_be_bytes();
        tcp.write_all(&[&length, asked.as_slice()].concat()).await.unwrap();
        let length = usize::from(tcp.read_u16().await.unwrap());
        tcp.read_exact(&mut bytes[..length]).await.unwrap();
        check(&bytes[..length]);
    }
    tcp.write_all(&[0xff, 0xff, 0]).await.unwrap();
    assert!(matches!(tcp.read(&mut bytes).await, Ok(0) | Err(_)), "what is too large is not read");
    let metrics = gateway.account.metrics_text(&crate::account::Status::default()).unwrap();
    for (result, count) in [("answered", 4), ("malformed", 3)] {
        let line = format!("pullgate_dns_queries_total{{result=\"{result}\"}} {count}");
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
    serving.abort();
}

#[tokio::test]
async fn who_asks_too_fast_is_not_answered() {
    let gateway = gateway(gate(), policy(&["contoso"], ""));
    let client = CLIENT.parse().unwrap();
    let slow = DnsServer {
        sources: gateway.answerer.sources.clone(),
        answer: gate(),
        rates: QueryRates::new(3),
        under_way: Arc::new(Semaphore::new(1)),
    };
    let allowed = (0..100).filter(|_| slow.may_ask(client)).count();
    assert!((3..100).contains(&allowed), "{allowed}");
    let metrics = gateway.account.metrics_text(&crate::account::Status::default()).unwrap();
    let line = format!("pullgate_dns_queries_total{{result=\"limited\"}} {}", 100 - allowed);
    assert!(metrics.contains(&line), "{metrics}");
}
