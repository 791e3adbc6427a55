//! Answers forged by an attacker who does not see the questions and has to guess port and id.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use hickory_proto::op::{Message, OpCode};
use hickory_proto::rr::Record;
use tokio::task::JoinSet;

use super::server::{address, name};
use super::*;

/// How many names are asked for, each in two families.
const NAMES: usize = 100;

/// An answer to a question, with this id and these records.
fn answer(question: &Message, id: u16, records: Vec<Record>) -> Vec<u8> {
    let mut answer = Message::response(id, OpCode::Query);
    answer.add_query(question.queries[0].clone());
    answer.add_answers(records);
    answer.to_vec().unwrap()
}

#[tokio::test]
async fn forged_answers_are_not_taken_and_no_two_questions_are_alike() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let set = set_of(Rules {
        dns_servers: vec![NameServer::from(socket.local_addr().unwrap())],
        ..Rules::default()
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (mut ports, mut ids) = (HashSet::new(), HashSet::new());
        let mut buffer = [0; 4096];
        for _ in 0..2 * NAMES {
            let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
            let question = Message::from_vec(&buffer[..length]).unwrap();
            let id = question.metadata.id;
            ports.insert(peer.port());
            ids.insert(id);
            let asked = question.queries[0].name().to_string();
            let lies =
                || vec![address(&asked, 60, ip("20.6.6.6")), address(&asked, 60, ip("2666::"))];
            let wrong_id = answer(&question, id.wrapping_add(1), lies());
            let mut other = question.clone();
            other.queries[0].set_name(name("other.example.com."));
            let other_question = answer(&other, id, lies());
            socket.send_to(&wrong_id, peer).await.unwrap();
            socket.send_to(&wrong_id[..1], peer).await.unwrap();
            socket.send_to(&other_question, peer).await.unwrap();
            stranger.send_to(&answer(&question, id, lies()), peer).await.unwrap();
            let truth = match question.queries[0].query_type() {
                RecordType::A => vec![address(&asked, 60, Ipv4Addr::new(20, 1, 2, 3).into())],
                _ => vec![],
            };
            socket.send_to(&answer(&question, id, truth), peer).await.unwrap();
        }
        (ports.len(), ids.len())
    });
    let resolver = Resolver::new(&set.rules().dns_servers);
    for number in 0..NAMES {
        let found = found(&resolver, &set, &format!("n{number}.example.com")).await;
        assert_eq!(found.unwrap(), ["20.1.2.3"], "{number}");
    }
    let (ports, ids) = tasks.join_next().await.unwrap().unwrap();
    // Of 28,000 ports and 65,536 ids a few may come again.
    assert!(ports > 2 * NAMES - 20 && ids > 2 * NAMES - 20, "{ports} ports, {ids} ids");
}
