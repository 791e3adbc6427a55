//! Peers that do not read: what their tunnels hold, and how they end. Time is paused only while nothing
//! is expected of the kernel, which does not know of it.

use super::*;
use crate::limits::{SocketMemory, Stalls};

/// The most that a tunnel holds whose client never read, in bytes of kernel memory.
const MOST_HELD: u64 = 4 << 20;

fn stalled(side: Side, cause: Cause) -> Outcome {
    Err(Stop::Failed(Failure { side, cause }))
}

/// A tunnel whose upstream sends all that goes, and whose client does not read.
async fn stalling(relay: &Arc<Relay>, terms: TunnelTerms) -> (Tunnel, usize) {
    let tunnel = tunnel_within(relay, open(), terms, Arc::default()).await;
    let sent = write_until_full(&tunnel.server, &noise(8, 64 << 20)).await;
    (tunnel, sent)
}

/// Waits until the tunnel is known to be stalled, or not to be.
async fn until_held(traffic: &Traffic, is_held: impl Fn(u64) -> bool) -> u64 {
    while !is_held(traffic.held()) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    traffic.held()
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_little_and_ends() {
    let terms = TunnelTerms { stall: Duration::from_secs(20), ..idle(Duration::from_secs(600)) };
    let (tunnel, _) = stalling(&relay(1), terms).await;
    tokio::time::pause();
    let began = Instant::now();
    let held = until_held(&tunnel.traffic, |held| held > 0).await;
    println!("{held} bytes held");
    assert!(held < MOST_HELD, "{held}");
    assert_eq!(tunnel.over.await.unwrap(), stalled(Side::Client, Cause::StallTimeout));
    let took = began.elapsed();
    assert!((10..25).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test]
async fn an_upstream_that_does_not_read_ends_too() {
    let terms = TunnelTerms { stall: Duration::from_secs(20), ..idle(Duration::from_secs(600)) };
    let tunnel = tunnel_within(&relay(1), open(), terms, Arc::default()).await;
    write_until_full(&tunnel.client, &noise(8, 64 << 20)).await;
    tokio::time::pause();
    assert_eq!(tunnel.over.await.unwrap(), stalled(Side::Upstream, Cause::StallTimeout));
}

/// Bytes that fit into the buffers of the kernel fill no direction, but occupy them all the same.
#[tokio::test]
async fn a_client_that_leaves_the_last_bytes_unread_ends() {
    let terms = TunnelTerms { stall: Duration::from_secs(60), ..idle(Duration::from_secs(600)) };
    let mut tunnel = tunnel_within(&relay(1), open(), terms, Arc::default()).await;
    // It has read a lot, and may leave more unread than at first.
    let much = noise(9, 3 << 20);
    let mut came = vec![0; much.len()];
    let (sent, _) = tokio::join!(tunnel.server.write_all(&much), async {
        tunnel.client.read_exact(&mut came).await.unwrap()
    });
    sent.unwrap();
    SockRef::from(&tunnel.client).set_recv_buffer_size(4096).unwrap();
    tunnel.server.write_all(&much[..1 << 20]).await.unwrap();
    tokio::time::pause();
    assert_eq!(tunnel.over.await.unwrap(), stalled(Side::Client, Cause::StallTimeout));
}

#[tokio::test]
async fn a_client_that_reads_again_gets_every_byte() {
    let terms = TunnelTerms { stall: Duration::from_secs(600), ..idle(Duration::from_secs(900)) };
    for pipes in [1, 0] {
        let (mut tunnel, mut sent) = stalling(&relay(pipes), terms.clone()).await;
        let bytes = noise(8, 64 << 20);
        until_held(&tunnel.traffic, |held| held > 0).await;
        let mut came = vec![0; sent];
        tunnel.client.read_exact(&mut came).await.unwrap();
        assert!(came == bytes[..sent]);
        until_held(&tunnel.traffic, |held| held == 0).await;
        // The limits are lifted: it can have as much as others.
        let rest = &bytes[sent..];
        let send = async { tunnel.server.write_all(rest).await.unwrap() };
        let mut came = vec![0; rest.len()];
        let (_, read) = tokio::join!(send, tunnel.client.read_exact(&mut came));
        read.unwrap();
        assert!(came == rest);
        sent = bytes.len();
        assert_eq!(tunnel.traffic.down.count().total(), sent as u64);
        tunnel.client.shutdown().await.unwrap();
        tunnel.server.shutdown().await.unwrap();
        assert_eq!(tunnel.over.await.unwrap(), Ok(Ending::Closed));
    }
}

/// It is limited like one that does not read, until it reads fast again.
#[tokio::test]
async fn a_client_that_reads_slowly_holds_little() {
    let terms = idle(Duration::from_secs(600));
    let tunnel = tunnel_within(&relay(1), open(), terms, Arc::default()).await;
    let Tunnel { mut client, mut server, traffic, over, .. } = tunnel;
    let sender = tokio::spawn(async move {
        let block = noise(8, 1 << 20);
        while server.write_all(&block).await.is_ok() {}
    });
    let mut buffer = vec![0; 2 * 1024];
    while traffic.held() == 0 {
        client.read_exact(&mut buffer).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for _ in 0..20 {
        client.read_exact(&mut buffer).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(traffic.held() < MOST_HELD, "{}", traffic.held());
    }
    assert!(!over.is_finished());
    drop(client);
    over.await.unwrap().unwrap_err();
    sender.await.unwrap();
}

/// The machine has no memory left for sockets.
#[tokio::test]
async fn a_stalled_tunnel_ends_when_its_memory_is_needed() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("proc/net")).unwrap();
    std::fs::create_dir_all(root.path().join("proc/sys/net/ipv4")).unwrap();
    std::fs::write(root.path().join("proc/sys/net/ipv4/tcp_mem"), "10000 20000 30000").unwrap();
    let uses = |pages: u32| {
        let text = format!("TCP: inuse 1 orphan 1 tw 17 alloc 31 mem {pages}\n");
        std::fs::write(root.path().join("proc/net/sockstat"), text).unwrap();
    };
    uses(9_000);
    let stalls = Stalls::new(SocketMemory::under(root.path()));
    let relay = Arc::new(Relay { stalls, ..Relay::new(settings(1)) });
    let (tunnel, _) = stalling(&relay, idle(Duration::from_secs(600))).await;
    until_held(&tunnel.traffic, |held| held > 0).await;
    uses(10_001);
    assert_eq!(tunnel.over.await.unwrap(), stalled(Side::Client, Cause::TcpMemory));
}

#[tokio::test]
async fn a_wrapped_client_that_does_not_read_ends() {
    let (_client, mut gate_client) = pair().await;
    let (mut gate_upstream, server) = pair().await;
    let (relay, traffic) = (relay(0), Traffic::default());
    let terms = TunnelTerms { stall: Duration::from_secs(20), ..idle(Duration::from_secs(600)) };
    let life = TunnelContext {
        traffic: &traffic,
        terms: &terms,
        stalls: &relay.stalls,
        stop: pin!(pending::<Stop>()),
    };
    let both = relay.copy_both(&mut gate_client, &mut gate_upstream, open(), life);
    let bytes = noise(8, 64 << 20);
    let pour = async {
        write_until_full(&server, &bytes).await;
        tokio::time::pause();
    };
    let (over, ()) = tokio::join!(both, pour);
    assert_eq!(over, stalled(Side::Client, Cause::StallTimeout));
    assert!(traffic.held() < MOST_HELD, "{}", traffic.held());
}
