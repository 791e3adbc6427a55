//! Tunnels whose second ClientHello does not come give way to others.

use std::net::IpAddr;

use super::*;
use crate::cases::drafts::{Answer, Draft};
use crate::hello::{ACCESS_DENIED, HelloReader, HelloStep};
use crate::limits::Sessions;
use crate::policy::Limits;

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

/// A tunnel whose client has been asked for a second ClientHello.
async fn retried(
    sessions: &Sessions,
    client: IpAddr,
) -> (TcpStream, TcpStream, JoinHandle<Outcome>) {
    let (mut near, client_side) = pair().await;
    let (upstream, mut server) = pair().await;
    let first = Draft::modern().records();
    let Ok(HelloStep::Complete(hello)) = HelloReader::new().feed(&first) else {
        panic!("it is refused")
    };
    let sent = hello.raw.len();
    let second_hellos = Some(sessions.second_hellos(client));
    let terms = Box::new(TunnelTerms { second_hellos, ..idle(IDLE) });
    let mut sides = TunnelEnds { client: client_side, upstream, terms };
    let over = tokio::spawn(async move {
        let traffic = Traffic::default();
        let stop = pin!(pending());
        let carried = relay(1).carry_bare(&mut sides, Box::new(hello), &traffic, stop).await;
        let outcome = carried.outcome.clone();
        sides.closing(&carried).finish().await;
        outcome
    });
    server.read_exact(&mut vec![0; sent]).await.unwrap();
    let retry = Answer::retry().record();
    server.write_all(&retry).await.unwrap();
    near.read_exact(&mut vec![0; retry.len()]).await.unwrap();
    (near, server, over)
}

#[tokio::test]
async fn a_tunnel_whose_second_hello_is_due_gives_way_to_an_address_with_fewer() {
    let sessions = Sessions::default();
    let limits = Limits { open_sessions: 2, ..Limits::default() };
    let mut held = Vec::new();
    for _ in 0..2 {
        let permit = sessions.admit(ip(1), &limits).unwrap();
        held.push((permit, retried(&sessions, ip(1)).await));
    }
    assert!(sessions.admit(ip(1), &limits).is_err(), "it has the most itself");
    let newcomer = sessions.admit(ip(2), &limits);
    assert!(newcomer.is_ok(), "one of the two has to go");
    let (_, (mut client, _server, over)) = held.remove(0);
    let mut said = Vec::new();
    client.read_to_end(&mut said).await.unwrap();
    assert_eq!(said, ACCESS_DENIED);
    let Err(Stop::Denied(denial)) = over.await.unwrap() else { panic!("it ended otherwise") };
    assert_eq!(denial.reason, Reason::SessionLimit);
    // With its second hello, the other is no longer one of them.
    let (_permit, (mut client, mut server, over)) = held.remove(0);
    let second = Draft::modern().records();
    client.write_all(&second).await.unwrap();
    server.read_exact(&mut vec![0; second.len()]).await.unwrap();
    assert!(sessions.admit(ip(3), &limits).is_err(), "none is left that could give way");
    drop((client, server));
    assert!(over.await.is_ok());
}
