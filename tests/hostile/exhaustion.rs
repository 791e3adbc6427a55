//! Peers that are slow or do not read: each costs bounded time and bounded buffers.

use std::io::ErrorKind;

use pullgate::hello::ACCESS_DENIED;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::cases::drafts::{Answer, Draft};
use crate::cases::flows::Op;
use crate::flows::Tunnel;
use crate::site::{CONNECT, Feeding, Peer, on_a_site};

/// Short timeouts.
const SHORT: &str = "head-timeout-ms = 300\nhello-timeout-ms = 300";

/// More bytes than all buffers between a sender and a peer that does not read: four kernel buffers.
const MOST_IN_FLIGHT: usize = 64 << 20;

/// Sends byte after byte, but never the last one, until the gate answers. Returns the answer.
async fn trickle(peer: &mut Peer, bytes: &[u8]) -> Vec<u8> {
    let mut pace = tokio::time::interval(std::time::Duration::from_millis(2));
    let mut said = vec![0; 4096];
    for byte in bytes.iter().take(bytes.len() - 1) {
        tokio::select! {
            biased;
            read = peer.stream.read(&mut said) => {
                said.truncate(read.unwrap());
                said.extend(peer.rest().await.0);
                return said;
            }
            _ = pace.tick() => {}
        }
        let _ = peer.stream.write_all(&[*byte]).await;
    }
    panic!("all was taken");
}

/// A legal hello that is too long to send byte by byte before the timeout.
fn long_hello() -> Draft {
    Draft::modern().with(21, &[0; 15 * 1024])
}

#[test]
fn slow_heads_are_answered_in_time() {
    on_a_site(SHORT, async |site| {
        let mut client = site.client(site.connect).await;
        let head =
            format!("CONNECT contoso.azurecr.io:443 HTTP/1.1\r\nX: {}\r\n", "a".repeat(9000));
        let said = String::from_utf8(trickle(&mut client, head.as_bytes()).await).unwrap();
        assert!(said.starts_with("HTTP/1.1 408 ") && said.contains("[head-timeout "), "{said}");
        assert!(site.asked().is_empty() && site.dials() == 0);
    });
}

#[test]
fn slow_hellos_are_cut_in_time() {
    on_a_site(SHORT, async |site| {
        let mut silent = site.client(site.transparent).await;
        assert_eq!(silent.rest().await, (ACCESS_DENIED.to_vec(), None));
        let mut client = site.client(site.transparent).await;
        assert_eq!(trickle(&mut client, &long_hello().records()).await, ACCESS_DENIED);
        assert!(site.asked().is_empty() && site.dials() == 0);

        let mut tunnel = site.client(site.connect).await;
        tunnel.send(CONNECT.as_bytes(), Feeding::Whole).await;
        assert!(tunnel.head().await.starts_with("HTTP/1.1 200 "));
        let mut upstream = site.dialled().await;
        assert_eq!(trickle(&mut tunnel, &long_hello().records()).await, ACCESS_DENIED);
        assert!(upstream.rest().await.0.is_empty());

        let lines = site.close().await;
        for client in [silent, client, tunnel] {
            assert_eq!(lines[&client.source]["reason"], "hello-timeout");
        }
    });
}

/// After a HelloRetryRequest, the second hello has a timeout too.
#[test]
fn a_slow_second_hello_is_cut_in_time() {
    on_a_site(SHORT, async |site| {
        let mut tunnel = Tunnel::open(&site, &long_hello()).await;
        let retry = Op::Server(Answer::retry().record());
        tunnel.step(&retry, Feeding::Whole, "a retry").await.unwrap();
        let second = long_hello().records();
        assert_eq!(trickle(&mut tunnel.client, &second).await, ACCESS_DENIED);
        assert!(tunnel.upstream.rest().await.0.is_empty());
        let lines = site.close().await;
        assert_eq!(lines[&tunnel.client.source]["reason"], "hello-timeout");
    });
}

/// Sends until the gate closes. Returns the number of accepted bytes.
async fn pour(into: &mut Peer) -> usize {
    let block = vec![0x17; 64 << 10];
    let mut poured = 0;
    while let Ok(()) = into.stream.write_all(&block).await {
        poured += block.len();
        assert!(poured < MOST_IN_FLIGHT, "the gate takes what it cannot deliver");
    }
    poured
}

/// Both connections are reset, so that the kernel keeps nothing for a peer that does not read.
#[test]
fn who_reads_nothing_is_reset_after_the_stall_timeout() {
    on_a_site("stall-timeout-ms = 1500", async |site| {
        let mut sources = Vec::new();
        for lazy_client in [true, false] {
            let mut tunnel = Tunnel::open(&site, &Draft::modern()).await;
            let free = Op::Server(Answer::tls13().record());
            tunnel.step(&free, Feeding::Whole, "TLS 1.3").await.unwrap();
            let Tunnel { client, upstream, .. } = &mut tunnel;
            let (sender, lazy) = if lazy_client { (upstream, client) } else { (client, upstream) };
            pour(sender).await;
            let (_, ended) = lazy.rest().await;
            assert_eq!(ended, Some(ErrorKind::ConnectionReset), "lazy client: {lazy_client}");
            sources.push(tunnel.client.source);
        }
        let lines = site.close().await;
        for source in sources {
            assert_eq!(lines[&source]["reason"], "stall-timeout", "{}", lines[&source]);
        }
    });
}

#[test]
fn who_reads_nothing_holds_the_sender_back_and_ends_as_idle() {
    on_a_site("idle-timeout-ms = 500", async |site| {
        let mut sources = Vec::new();
        for lazy_client in [true, false] {
            let mut tunnel = Tunnel::open(&site, &Draft::modern()).await;
            let free = Op::Server(Answer::tls13().record());
            tunnel.step(&free, Feeding::Whole, "TLS 1.3").await.unwrap();
            let sender = if lazy_client { &mut tunnel.upstream } else { &mut tunnel.client };
            let poured = pour(sender).await;
            println!("{poured} bytes were in flight");
            sources.push(tunnel.client.source);
        }
        let lines = site.close().await;
        for source in sources {
            assert_eq!(lines[&source]["reason"], "idle-timeout", "{}", lines[&source]);
        }
    });
}
