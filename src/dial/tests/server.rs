//! A DNS server on loopback that answers as a test says, and keeps a log of what it was asked.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Edns, Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// One question, in the order of their coming.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    /// With its final dot, as it was asked.
    pub(super) name: String,
    pub(super) family: RecordType,
    pub(super) over: Over,
    /// Whether the question had an OPT record.
    pub(super) edns: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    Udp,
    Tcp,
}

#[derive(Debug, Clone)]
pub(super) enum Reply {
    Silence,
    Truncated,
    Code(ResponseCode),
    /// The header alone, with an error, as servers of the last century send it.
    Header(ResponseCode),
    /// These bytes behind the question's id.
    Bytes(&'static [u8]),
    /// No such record, with a negative TTL in seconds.
    Nothing(u32),
    /// No such name, with a negative TTL in seconds.
    NoName(u32),
    Records(Vec<Record>),
}

pub(super) struct Server {
    pub(super) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    open: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

type Script = Arc<dyn Fn(&Asked) -> Reply + Send + Sync>;

struct Desk {
    script: Script,
    asked: Arc<Mutex<Vec<Asked>>>,
    open: watch::Receiver<bool>,
}

impl Server {
    pub(super) async fn start(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let (udp, tcp) = sockets().await;
        let address = udp.local_addr().unwrap();
        let (open, watched) = watch::channel(true);
        let asked = Arc::default();
        let desk =
            Arc::new(Desk { script: Arc::new(script), asked: Arc::clone(&asked), open: watched });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(Arc::new(udp), desk.clone()));
        tasks.spawn(serve_tcp(tcp, desk));
        Self { address, asked, open, _tasks: tasks }
    }

    /// What it was asked since the last time, in order.
    pub(super) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    /// Logs what it is asked, and answers only when it is let go.
    pub(super) fn hold(&self) {
        self.open.send_replace(false);
    }

    pub(super) fn let_go(&self) {
        self.open.send_replace(true);
    }

    /// Waits until the log has this many questions.
    pub(super) async fn wait_for(&self, questions: usize) {
        while self.asked.lock().unwrap().len() < questions {
            tokio::task::yield_now().await;
        }
    }
}

/// Both on one port.
async fn sockets() -> (UdpSocket, TcpListener) {
    loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, desk: Arc<Desk>) {
    let mut answers = JoinSet::new();
    let mut buffer = [0; 4096];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
        let question = buffer[..length].to_vec();
        let (socket, desk) = (socket.clone(), desk.clone());
        answers.spawn(async move {
            if let Some(answer) = desk.answer(&question, Over::Udp).await {
                socket.send_to(&answer, peer).await.unwrap();
            }
        });
    }
}

async fn serve_tcp(listener: TcpListener, desk: Arc<Desk>) {
    let mut clients = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let desk = desk.clone();
        clients.spawn(async move { serve_client(stream, &desk).await });
    }
}

async fn serve_client(mut stream: TcpStream, desk: &Desk) {
    while let Ok(length) = stream.read_u16().await {
        let mut question = vec![0; length.into()];
        stream.read_exact(&mut question).await.unwrap();
        let Some(answer) = desk.answer(&question, Over::Tcp).await else { continue };
        stream.write_u16(answer.len().try_into().unwrap()).await.unwrap();
        stream.write_all(&answer).await.unwrap();
    }
}

impl Desk {
    async fn answer(&self, question: &[u8], over: Over) -> Option<Vec<u8>> {
        let question = Message::from_vec(question).unwrap();
        let [query] = &question.queries[..] else { panic!("{question}") };
        let asked = Asked {
            name: query.name().to_string(),
            family: query.query_type(),
            over,
            edns: question.edns.is_some(),
        };
        self.asked.lock().unwrap().push(asked.clone());
        self.open.clone().wait_for(|open| *open).await.ok()?;
        let mut answer = Message::response(question.metadata.id, OpCode::Query);
        answer.add_query(query.clone());
        let mut lacking = |code, seconds| {
            answer.metadata.response_code = code;
            let zone: Name = "example.com.".parse().unwrap();
            let soa = SOA::new(zone.clone(), zone.clone(), 1, 1, 1, 1, seconds);
            answer.add_authority(Record::from_rdata(zone, seconds, RData::SOA(soa)));
        };
        match (self.script)(&asked) {
            Reply::Silence => return None,
            Reply::Truncated => answer.metadata.truncation = true,
            Reply::Code(code) => {
                answer.metadata.response_code = code;
                if code.high() > 0 {
                    answer.set_edns(Edns::new());
                }
            }
            Reply::Header(code) => {
                answer.metadata.response_code = code;
                answer.queries.clear();
            }
            Reply::Bytes(bytes) => {
                return Some([&question.metadata.id.to_be_bytes(), bytes].concat());
            }
            Reply::Nothing(seconds) => lacking(ResponseCode::NoError, seconds),
            Reply::NoName(seconds) => lacking(ResponseCode::NXDomain, seconds),
            Reply::Records(records) => {
                answer.add_answers(records);
            }
        }
        Some(answer.to_vec().unwrap())
    }
}

/// A name with its final dot.
pub(super) fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

pub(super) fn address(owner: &str, ttl: u32, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    };
    Record::from_rdata(name(owner), ttl, data)
}

pub(super) fn alias(owner: &str, ttl: u32, of: &str) -> Record {
    Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(of))))
}
