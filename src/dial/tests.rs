//! Looking up and connecting, against servers of the tests' own on loopback.

mod forged;
mod outages;
mod peculiar;
mod server;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Record, RecordType};
use server::{Asked, Over, Reply, Server, address, alias};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::connect::connect;
use super::*;
use crate::policy::{
    Allowed, Cause, ClientIdentity, Enforcement, Failure, NameServer, OwnAddresses, Permit,
    PolicySet, Reason, Rules, Side, StaticAddress, Target,
};

fn local() -> ClientIdentity {
    ClientIdentity::at(Ipv4Addr::LOCALHOST.into())
}

fn upstream(cause: Cause) -> Failure {
    Failure { side: Side::Upstream, cause }
}

/// What passes in report mode may have any name, so that each case can have its own.
fn allowed(set: &PolicySet, host: &str) -> Allowed {
    let target = Target::parse_authority(&format!("{host}:443")).unwrap();
    set.judge_name(&target, &local(), Enforcement::Report).unwrap()
}

fn set_of(rules: Rules) -> Arc<PolicySet> {
    Arc::new(PolicySet::new(1, rules).unwrap())
}

fn set_with(servers: &[&Server]) -> Arc<PolicySet> {
    let dns_servers = servers.iter().map(|server| server.address.into()).collect();
    set_of(Rules { dns_servers, ..Rules::default() })
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The addresses, as text and without their port.
async fn found(resolver: &Resolver, set: &PolicySet, host: &str) -> Result<Vec<String>, Failure> {
    let answer = resolver.resolve(set, &allowed(set, host), soon()).await?;
    Ok(answer.addresses.iter().map(|address| address.ip().to_string()).collect())
}

async fn origin(resolver: &Resolver, set: &PolicySet, host: &str) -> AnswerSource {
    resolver.resolve(set, &allowed(set, host), soon()).await.unwrap().origin
}

/// Answers A with 20.1.2.3 and AAAA with nothing, both with this TTL.
fn one_address(asked: &Asked, ttl: u32) -> Reply {
    match asked.family {
        RecordType::A => Reply::Records(vec![address(&asked.name, ttl, ip("20.1.2.3"))]),
        _ => Reply::Nothing(ttl),
    }
}

fn thousand(owner: &str) -> Vec<Record> {
    (0..1_000_u32)
        .map(|n| address(owner, 60, Ipv4Addr::from_bits(0x1401_0000 + n).into()))
        .collect()
}

/// The zone of [`what_servers_say_and_what_is_made_of_it`].
fn zone(asked: &Asked) -> Reply {
    use RecordType::{A, AAAA};
    let v4 = |owner: &str| address(owner, 60, ip("20.1.2.3"));
    let v6 = |owner: &str| address(owner, 60, ip("2603::1"));
    let own = asked.name.as_str();
    match (own.split('.').next().unwrap(), asked.family) {
        ("both" | "v4" | "v4-servfail" | "v4-silence", A) => Reply::Records(vec![v4(own)]),
        ("both" | "v6" | "v6-refused", AAAA) => Reply::Records(vec![v6(own)]),
        ("v4-servfail" | "nothing-servfail" | "servfail", AAAA) => {
            Reply::Code(ResponseCode::ServFail)
        }
        ("servfail", _) => Reply::Code(ResponseCode::ServFail),
        ("v6-refused" | "refused", _) => Reply::Code(ResponseCode::Refused),
        ("v4-silence", AAAA) => Reply::Silence,
        ("no-name", _) => Reply::NoName(60),
        ("empty", _) => Reply::Records(Vec::new()),
        // The whole chain at once, as recursive servers answer.
        ("chain", A) => Reply::Records(vec![
            alias(own, 60, "a.example.net"),
            alias("a.example.net", 60, "b.example.net"),
            v4("b.example.net"),
        ]),
        // A link at a time.
        ("links", _) => Reply::Records(vec![alias(own, 60, "link-1.example.net")]),
        ("link-1", _) => Reply::Records(vec![alias(own, 60, "v4.example.net")]),
        ("loop", _) => Reply::Records(vec![alias(own, 60, "pool.example.net")]),
        ("pool", _) => Reply::Records(vec![alias(own, 60, "loop.example.net")]),
        ("long-chain", A) => {
            let name = |n| format!("n{n}.example.net");
            let links = (0..40).map(|n| alias(&name(n), 60, &name(n + 1)));
            let mut records = vec![alias(own, 60, &name(0))];
            records.extend(links);
            records.push(v4(&name(40)));
            Reply::Records(records)
        }
        ("endless", _) => {
            let next = own.strip_prefix("endless.").unwrap();
            let number: usize = next.split('.').next().unwrap().parse().unwrap_or(0);
            Reply::Records(vec![alias(own, 60, &format!("endless.{}.example.net", number + 1))])
        }
        ("stranger", A) => Reply::Records(vec![v4("other.example.com")]),
        ("guest", A) => Reply::Records(vec![v4("other.example.com"), v4(own)]),
        ("wrong-family", A) => Reply::Records(vec![v6(own)]),
        ("thousand", A) if asked.over == Over::Udp => Reply::Truncated,
        ("thousand", A) => Reply::Records(thousand(own)),
        ("thousand", AAAA) => Reply::Records(vec![v6(own)]),
        ("always-truncated", _) => Reply::Truncated,
        _ => Reply::Nothing(60),
    }
}

#[tokio::test]
async fn what_servers_say_and_what_is_made_of_it() {
    use Cause::{LookupFailed, NameNotFound};
    let server = Server::start(zone).await;
    let set = set_with(&[&server]);
    let resolver = Resolver::new(&set.rules().dns_servers);
    let cases: &[(&str, Result<&[&str], Cause>)] = &[
        ("both", Ok(&["20.1.2.3", "2603::1"])),
        ("v4", Ok(&["20.1.2.3"])),
        ("v6", Ok(&["2603::1"])),
        ("v4-servfail", Ok(&["20.1.2.3"])),
        ("v6-refused", Ok(&["2603::1"])),
        ("v4-silence", Ok(&["20.1.2.3"])),
        ("nothing", Err(NameNotFound)),
        ("no-name", Err(NameNotFound)),
        ("empty", Err(NameNotFound)),
        ("nothing-servfail", Err(LookupFailed)),
        ("servfail", Err(LookupFailed)),
        ("refused", Err(LookupFailed)),
        ("chain", Ok(&["20.1.2.3"])),
        ("links", Ok(&["20.1.2.3"])),
        ("loop", Err(NameNotFound)),
        ("long-chain", Err(NameNotFound)),
        ("stranger", Err(NameNotFound)),
        ("guest", Ok(&["20.1.2.3"])),
        ("wrong-family", Err(NameNotFound)),
        ("always-truncated", Err(LookupFailed)),
    ];
    for (label, expected) in cases {
        let found = found(&resolver, &set, &format!("{label}.example.com")).await;
        let found = found.map_err(|failure| failure.cause);
        let expected =
            expected.map(|found| found.iter().map(|ip| (*ip).to_owned()).collect::<Vec<_>>());
        assert_eq!(found, expected, "{label}");
    }
}

#[tokio::test]
async fn a_thousand_records_come_over_tcp_and_are_cut() {
    let server = Server::start(zone).await;
    let set = set_with(&[&server]);
    let resolver = Resolver::new(&set.rules().dns_servers);
    let found = found(&resolver, &set, "thousand.example.com").await.unwrap();
    assert_eq!(found.len(), MOST_ADDRESSES / 2 + 1);
    assert_eq!(found.last().unwrap(), "2603::1", "the other family keeps its place");
    let asked = server.asked();
    let over = |over| asked.iter().filter(|asked| asked.over == over).count();
    assert_eq!((over(Over::Udp), over(Over::Tcp)), (2, 1), "{asked:?}");
}

#[tokio::test]
async fn a_name_is_asked_once_as_it_stands() {
    let server = Server::start(|_| Reply::NoName(60)).await;
    let set = set_with(&[&server]);
    let resolver = Resolver::new(&set.rules().dns_servers);
    found(&resolver, &set, "contoso.azurecr.io").await.unwrap_err();
    let asked = server.asked();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked.iter().all(|asked| asked.name == "contoso.azurecr.io."), "{asked:?}");
    assert_ne!(asked[0].family, asked[1].family);
}

#[tokio::test]
async fn endless_aliases_end() {
    let server = Server::start(zone).await;
    let set = set_with(&[&server]);
    let resolver = Resolver::new(&set.rules().dns_servers);
    let found = found(&resolver, &set, "endless.0.example.net").await;
    assert_eq!(found.unwrap_err().cause, Cause::NameNotFound);
    assert!(server.asked().len() <= 20);
}

#[tokio::test]
async fn what_is_judged_is_what_is_dialled_though_the_answer_changes() {
    let times = AtomicUsize::new(0);
    let server = Server::start(move |asked| match asked.family {
        RecordType::A => {
            let first = times.fetch_add(1, Ordering::Relaxed) == 0;
            let now = if first { "20.1.2.3" } else { "169.254.169.254" };
            Reply::Records(vec![address(&asked.name, 0, ip(now))])
        }
        _ => Reply::Nothing(60),
    })
    .await;
    let set = set_with(&[&server]);
    let resolver = Resolver::new(&set.rules().dns_servers);
    let session = async || {
        let allowed = allowed(&set, "contoso.azurecr.io");
        let answer = resolver.resolve(&set, &allowed, soon()).await.unwrap();
        set.judge_addresses(allowed, &answer.addresses, &OwnAddresses::default())
    };
    let permit = session().await.unwrap().permit;
    assert_eq!(server.asked().len(), 2, "one look-up a session");
    let rebound = session().await.unwrap_err();
    assert_eq!(rebound.denial.reason, Reason::AddressNotAllowed);
    assert_eq!(permit.addresses(), ["20.1.2.3:443".parse().unwrap()]);
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn a_chain_to_a_private_address_is_denied() {
    let server = Server::start(|asked| match asked.family {
        RecordType::A => Reply::Records(vec![
            alias(&asked.name, 60, "contoso.privatelink.azurecr.io"),
            address("contoso.privatelink.azurecr.io", 60, ip("10.9.9.9")),
        ]),
        _ => Reply::Nothing(60),
    })
    .await;
    let set = set_with(&[&server]);
    let resolver = Resolver::new(&set.rules().dns_servers);
    let allowed = allowed(&set, "contoso.azurecr.io");
    let answer = resolver.resolve(&set, &allowed, soon()).await.unwrap();
    let judged = set.judge_addresses(allowed, &answer.addresses, &OwnAddresses::default());
    assert_eq!(judged.unwrap_err().denial.reason, Reason::AddressNotAllowed);
}

/// Moves the clock by this many seconds; what is under way in sockets goes by the real one.
async fn pass(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn answers_live_as_long_as_their_ttl() {
    let server = Server::start(|asked| {
        let own = asked.name.as_str();
        let v4 = |owner: &str, ttl| address(owner, ttl, ip("20.1.2.3"));
        let v6 = |ttl| address(own, ttl, ip("2603::1"));
        let label = own.split('.').next().unwrap();
        match (label, asked.family) {
            ("zero", _) => one_address(asked, 0),
            ("minute", _) => one_address(asked, 60),
            ("week", _) => one_address(asked, 604_800),
            ("longest", _) => one_address(asked, u32::MAX),
            ("shorter-v6", RecordType::A) => Reply::Records(vec![v4(own, 600)]),
            ("shorter-v6", _) => Reply::Records(vec![v6(60)]),
            ("half", RecordType::A) => Reply::Records(vec![v4(own, 600)]),
            ("half", _) => Reply::Code(ResponseCode::ServFail),
            ("alias", RecordType::A) => {
                let records = [alias(own, 60, "a.example.net"), v4("a.example.net", 600)];
                Reply::Records(records.into())
            }
            ("link", RecordType::A) => Reply::Records(vec![alias(own, 60, "a.example.net")]),
            ("a", RecordType::A) => Reply::Records(vec![v4(own, 600)]),
            _ => Reply::Nothing(3_600),
        }
    })
    .await;
    let set = set_with(&[&server]);
    let resolver = Resolver::new(&set.rules().dns_servers);
    let cases = [
        ("zero", 0),
        ("minute", 60),
        ("shorter-v6", 60),
        ("alias", 60),
        ("link", 60),
        ("half", 30),
        ("week", 3_600),
        ("longest", 3_600),
    ];
    for (label, lives) in cases {
        let host = format!("{label}.example.com");
        assert_eq!(origin(&resolver, &set, &host).await, AnswerSource::Server, "{label}");
        if lives > 0 {
            pass(lives - 5).await;
            assert_eq!(origin(&resolver, &set, &host).await, AnswerSource::Cache, "{label}");
            pass(6).await;
        }
        server.asked();
        assert_eq!(origin(&resolver, &set, &host).await, AnswerSource::Server, "{label}");
        assert!(server.asked().len() >= 2, "{label}: asked anew, and not of a cache below");
    }
}

#[tokio::test]
async fn what_is_not_there_is_asked_for_again_within_half_a_minute() {
    let server = Server::start(|asked| match asked.name.split('.').next().unwrap() {
        "hour" => Reply::NoName(3_600),
        "five" => Reply::Nothing(5),
        "zero" => Reply::NoName(0),
        _ => Reply::Code(ResponseCode::ServFail),
    })
    .await;
    let set = set_with(&[&server]);
    let resolver = Resolver::new(&set.rules().dns_servers);
    // After SERVFAIL each question is asked again without EDNS.
    for (label, lives, questions) in
        [("hour", 30, 2), ("five", 5, 2), ("zero", 1, 2), ("servfail", 1, 4)]
    {
        let host = format!("{label}.example.com");
        found(&resolver, &set, &host).await.unwrap_err();
        assert_eq!(server.asked().len(), questions, "{label}");
        found(&resolver, &set, &host).await.unwrap_err();
        assert_eq!(server.asked().len(), 0, "{label}");
        pass(lives + 1).await;
        found(&resolver, &set, &host).await.unwrap_err();
        assert_eq!(server.asked().len(), questions, "{label}");
    }
}

/// Sessions that want one name at the same time; whether each found it.
async fn storm(sessions: usize, server: &Server, host: &'static str) -> Vec<bool> {
    let set = set_with(&[server]);
    let resolver = Arc::new(Resolver::new(&set.rules().dns_servers));
    server.hold();
    let mut storm = JoinSet::new();
    for _ in 0..sessions {
        let (resolver, set) = (resolver.clone(), set.clone());
        storm.spawn(async move { found(&resolver, &set, host).await.is_ok() });
    }
    server.wait_for(2).await;
    server.let_go();
    storm.join_all().await
}

#[tokio::test]
async fn a_storm_for_one_name_asks_once() {
    let cases: &[(&str, Reply, bool)] = &[
        ("there.example.com", Reply::Records(vec![]), true),
        ("absent.example.com", Reply::NoName(60), false),
        ("broken.example.com", Reply::Code(ResponseCode::ServFail), false),
    ];
    for (host, reply, is_there) in cases {
        let (reply, is_there) = (reply.clone(), *is_there);
        // A TTL of zero: only the sessions that waited share the answer.
        let server = Server::start(move |asked| match is_there {
            true => one_address(asked, 0),
            false => reply.clone(),
        })
        .await;
        let ended = storm(1_000, &server, host).await;
        assert_eq!(ended, vec![is_there; 1_000], "{host}");
        let asked = server.asked();
        // Without EDNS it is asked again, if this takes long or the server fails.
        assert_eq!(asked.iter().filter(|asked| asked.edns).count(), 2, "{host}: {asked:?}");
    }
}

#[tokio::test]
async fn a_look_up_outlives_the_session_that_began_it() {
    let server = Server::start(|asked| one_address(asked, 60)).await;
    let set = set_with(&[&server]);
    let resolver = Arc::new(Resolver::new(&set.rules().dns_servers));
    let session = || {
        let (resolver, set) = (resolver.clone(), set.clone());
        tokio::spawn(async move { found(&resolver, &set, "contoso.azurecr.io").await })
    };
    server.hold();
    let first = session();
    server.wait_for(2).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    server.let_go();
    assert_eq!(session().await.unwrap().unwrap(), ["20.1.2.3"]);
    let asked = server.asked();
    assert_eq!(asked.iter().filter(|asked| asked.edns).count(), 2, "{asked:?}");
}

#[tokio::test]
async fn a_server_that_keeps_silent_is_waited_for_until_the_deadline() {
    let server = Server::start(|_| Reply::Silence).await;
    let set = set_with(&[&server]);
    let resolver = Resolver::new(&set.rules().dns_servers);
    let by = Instant::now() + Duration::from_millis(50);
    let ended = resolver.resolve(&set, &allowed(&set, "contoso.azurecr.io"), by).await;
    assert_eq!(ended.unwrap_err(), upstream(Cause::LookupTimeout));
}

#[tokio::test]
async fn servers_are_asked_in_their_order() {
    let good = Server::start(|asked| one_address(asked, 60)).await;
    let other = Server::start(|asked| match asked.family {
        RecordType::A => Reply::Records(vec![address(&asked.name, 60, ip("20.9.9.9"))]),
        _ => Reply::Nothing(60),
    })
    .await;
    let failing = Server::start(|_| Reply::Code(ResponseCode::ServFail)).await;
    let silent = Server::start(|_| Reply::Silence).await;
    let without = Server::start(|_| Reply::NoName(60)).await;
    let cases: &[(&[&Server], Result<&str, Cause>)] = &[
        (&[&good, &other], Ok("20.1.2.3")),
        (&[&other, &good], Ok("20.9.9.9")),
        (&[&failing, &good], Ok("20.1.2.3")),
        (&[&silent, &good], Ok("20.1.2.3")),
        (&[&without, &good], Err(Cause::NameNotFound)),
        (&[&failing, &silent], Err(Cause::LookupFailed)),
    ];
    for (index, (servers, expected)) in cases.iter().enumerate() {
        let set = set_with(servers);
        let resolver = Resolver::new(&set.rules().dns_servers);
        let found = found(&resolver, &set, "contoso.azurecr.io").await;
        let found = found.map(|found| found.concat()).map_err(|failure| failure.cause);
        assert_eq!(found, expected.map(str::to_owned), "case {index}");
    }
    other.asked();
    good.asked();
    let set = set_with(&[&good, &other]);
    found(&Resolver::new(&set.rules().dns_servers), &set, "contoso.azurecr.io").await.unwrap();
    assert_eq!((good.asked().len(), other.asked().len()), (2, 0), "never two at once");
}

#[tokio::test]
async fn a_reload_changes_the_servers_and_forgets_what_the_old_ones_said() {
    let first = Server::start(|asked| one_address(asked, 600)).await;
    let second = Server::start(|asked| one_address(asked, 600)).await;
    let (old, new) = (set_with(&[&first]), set_with(&[&second]));
    let resolver = Resolver::new(&old.rules().dns_servers);
    assert_eq!(origin(&resolver, &old, "contoso.azurecr.io").await, AnswerSource::Server);
    assert_eq!(origin(&resolver, &old, "contoso.azurecr.io").await, AnswerSource::Cache);
    assert_eq!(origin(&resolver, &new, "contoso.azurecr.io").await, AnswerSource::Server);
    assert_eq!(origin(&resolver, &new, "contoso.azurecr.io").await, AnswerSource::Cache);
    assert_eq!((first.asked().len(), second.asked().len()), (2, 2));
}

#[tokio::test]
async fn static_addresses_cause_no_query() {
    let server = Server::start(|asked| one_address(asked, 60)).await;
    let pins = [
        StaticAddress { address: ip("10.1.0.4"), port: None },
        StaticAddress { address: ip("10.1.0.5"), port: Some(8443) },
    ];
    let target = Target::parse_authority("contoso.azurecr.io:5000").unwrap();
    let set = set_of(Rules {
        dns_servers: vec![server.address.into()],
        pins: [(target.name.clone(), pins.to_vec())].into(),
        ..Rules::default()
    });
    let resolver = Resolver::new(&set.rules().dns_servers);
    let allowed = set.judge_name(&target, &local(), Enforcement::Report).unwrap();
    let answer = resolver.resolve(&set, &allowed, soon()).await.unwrap();
    assert_eq!(answer.origin, AnswerSource::Pinned);
    let expected = ["10.1.0.4:5000", "10.1.0.5:8443"].map(|text| text.parse().unwrap());
    assert_eq!(answer.addresses, expected);
    assert_eq!(server.asked(), []);
}

/// A permit to dial these addresses, loopback among them.
fn permit(found: &[SocketAddr]) -> Permit {
    let ranges = ["127.0.0.0/8", "::1/128"].map(|range| range.parse().unwrap());
    let set = set_of(Rules { allowed_addresses: ranges.into(), ..Rules::default() });
    let allowed = allowed(&set, "contoso.azurecr.io");
    set.judge_addresses(allowed, found, &OwnAddresses::default()).unwrap().permit
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address that nobody listens at; the socket keeps it from being given to others.
fn refusing() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

#[tokio::test]
async fn the_first_that_accepts_is_taken_and_made_ready() {
    let (_refusing, refused) = refusing();
    let (_listener, accepting) = listener().await;
    for found in [vec![accepting], vec![refused, accepting], vec![accepting, refused]] {
        let (stream, address) = connect(&permit(&found), soon()).await.unwrap();
        assert_eq!((address, stream.peer_addr().unwrap()), (accepting, accepting));
        assert!(stream.nodelay().unwrap());
    }
    let ended = connect(&permit(&[refused]), soon()).await;
    assert_eq!(ended.unwrap_err(), upstream(Cause::ConnectRefused));
    let ended = connect(&permit(&[refused, refused]), soon()).await;
    assert_eq!(ended.unwrap_err(), upstream(Cause::ConnectRefused));
}

/// A listener whose queue is full, so that the kernel drops who comes next; with those in it.
fn dead() -> (Vec<Socket>, SocketAddr) {
    let (socket, address) = refusing();
    socket.listen(0).unwrap();
    let mut kept = vec![socket];
    // The queue takes one more than its length; the next is left without an answer.
    for _ in 0..2 {
        let connecting = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        connecting.set_nonblocking(true).unwrap();
        let _ = connecting.connect(&address.into());
        kept.push(connecting);
    }
    (kept, address)
}

#[tokio::test]
async fn an_address_that_keeps_silent_does_not_keep_the_next_from_its_turn() {
    let (_dead, silent) = dead();
    let (_listener, accepting) = listener().await;
    let (_, address) = connect(&permit(&[silent, accepting]), soon()).await.unwrap();
    assert_eq!(address, accepting);
    for found in [vec![silent], vec![silent, refusing().1]] {
        let by = Instant::now() + Duration::from_millis(50);
        let ended = connect(&permit(&found), by).await;
        assert_eq!(ended.unwrap_err(), upstream(Cause::ConnectTimeout));
    }
}
