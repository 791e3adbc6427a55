//! Servers that are gone, and the answers that outlive them.

use super::*;

const STALE: Duration = Duration::from_secs(600);

fn set_of_servers(addresses: &[SocketAddr]) -> Arc<PolicySet> {
    let dns_servers = addresses.iter().map(|address| NameServer::from(*address)).collect();
    set_of(Rules { dns_servers, dns_stale: STALE, ..Rules::default() })
}

/// A server that answers this many questions, and then keeps silent.
async fn dying(questions: usize) -> Server {
    let left = AtomicUsize::new(questions);
    Server::start(move |asked| {
        let is_alive = left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .is_ok();
        if is_alive { one_address(asked, 1) } else { Reply::Silence }
    })
    .await
}

async fn another() -> Server {
    Server::start(|asked| match asked.family {
        RecordType::A => Reply::Records(vec![address(&asked.name, 60, ip("20.9.9.9"))]),
        _ => Reply::Nothing(60),
    })
    .await
}

async fn answer(resolver: &Resolver, set: &PolicySet, host: &str) -> (AnswerSource, String) {
    let answer = resolver.resolve(set, &allowed(set, host), soon()).await.unwrap();
    (answer.origin, answer.addresses[0].ip().to_string())
}

#[tokio::test]
async fn a_dead_first_server_is_passed_over_though_there_is_a_stale_answer() {
    let (first, second) = (dying(2).await, another().await);
    let set = set_of_servers(&[first.address, second.address]);
    let resolver = Resolver::new(&set.rules().dns_servers);
    let host = "contoso.azurecr.io";
    assert_eq!(answer(&resolver, &set, host).await, (AnswerSource::Server, "20.1.2.3".into()));
    pass(2).await;
    assert_eq!(answer(&resolver, &set, host).await, (AnswerSource::Server, "20.9.9.9".into()));
    // It is remembered which one is dead.
    first.asked();
    assert_eq!(answer(&resolver, &set, "fabrikam.azurecr.io").await.1, "20.9.9.9");
    assert_eq!(first.asked(), []);
    pass(31).await;
    assert_eq!(answer(&resolver, &set, "wingtip.azurecr.io").await.1, "20.9.9.9");
    assert!(!first.asked().is_empty(), "it is tried again after a while");
}

#[tokio::test]
async fn a_short_deadline_leaves_time_for_the_next_server() {
    let (first, second) = (dying(0).await, another().await);
    let set = set_of_servers(&[first.address, second.address]);
    let resolver = Resolver::new(&set.rules().dns_servers);
    let by = Instant::now() + Duration::from_millis(1500);
    let answer = resolver.resolve(&set, &allowed(&set, "contoso.azurecr.io"), by).await;
    assert_eq!(answer.unwrap().addresses, ["20.9.9.9:443".parse().unwrap()]);
}

#[tokio::test]
async fn a_deadline_that_comes_first_does_not_end_the_look_up() {
    let (first, second) = (dying(0).await, another().await);
    let set = set_of_servers(&[first.address, second.address]);
    let resolver = Resolver::new(&set.rules().dns_servers);
    let host = "contoso.azurecr.io";
    let by = Instant::now() + Duration::from_millis(50);
    let ended = resolver.resolve(&set, &allowed(&set, host), by).await;
    assert_eq!(ended.unwrap_err().cause, Cause::LookupTimeout);
    assert_eq!(answer(&resolver, &set, host).await.1, "20.9.9.9");
}

#[tokio::test]
async fn a_stale_answer_is_taken_at_once_while_all_servers_are_silent() {
    let first = dying(4).await;
    let set = set_of_servers(&[first.address]);
    let resolver = Resolver::new(&set.rules().dns_servers);
    for host in ["contoso.azurecr.io", "fabrikam.azurecr.io"] {
        assert_eq!(answer(&resolver, &set, host).await.0, AnswerSource::Server);
    }
    pass(2).await;
    assert_eq!(answer(&resolver, &set, "contoso.azurecr.io").await.0, AnswerSource::Stale);
    first.wait_for(6).await;
    // That look-up goes on until the server is known to be silent.
    let ended = found(&resolver, &set, "wingtip.azurecr.io").await;
    assert_eq!(ended.unwrap_err().cause, Cause::LookupTimeout);
    first.asked();
    assert_eq!(answer(&resolver, &set, "fabrikam.azurecr.io").await.0, AnswerSource::Stale);
    first.wait_for(2).await;
}

#[tokio::test]
async fn who_is_refused_at_a_stale_address_waits_for_the_servers() {
    let times = AtomicUsize::new(0);
    let server = Server::start(move |asked| match times.fetch_add(1, Ordering::Relaxed) {
        0 | 1 => one_address(asked, 1),
        _ => Reply::Records(match asked.family {
            RecordType::A => vec![address(&asked.name, 60, ip("20.7.7.7"))],
            _ => vec![],
        }),
    })
    .await;
    let set = set_of_servers(&[server.address]);
    let resolver = Resolver::new(&set.rules().dns_servers);
    let host = "contoso.azurecr.io";
    answer(&resolver, &set, host).await;
    pass(2).await;
    server.hold();
    assert_eq!(answer(&resolver, &set, host).await, (AnswerSource::Stale, "20.1.2.3".into()));
    server.let_go();
    let anew = resolver.resolve_anew(&set, &allowed(&set, host), soon()).await.unwrap();
    assert_eq!(anew.addresses, ["20.7.7.7:443".parse().unwrap()]);
}

#[tokio::test]
async fn a_server_that_refuses_is_skipped_at_once() {
    let gone = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let second = another().await;
    let set = set_of_servers(&[gone, second.address]);
    let resolver = Resolver::new(&set.rules().dns_servers);
    let by = Instant::now() + Duration::from_secs(60);
    let answer = resolver.resolve(&set, &allowed(&set, "contoso.azurecr.io"), by).await.unwrap();
    assert_eq!(answer.addresses, ["20.9.9.9:443".parse().unwrap()]);
    let set = set_of_servers(&[gone]);
    let ended = found(&Resolver::new(&set.rules().dns_servers), &set, "contoso.azurecr.io").await;
    assert_eq!(ended.unwrap_err().cause, Cause::LookupFailed);
}
