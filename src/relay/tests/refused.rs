//! Tunnels on a kernel that refuses splice(2): they are copied.

use super::*;

/// Splicing from a pipe to a file that is open for appending fails with EINVAL.
fn refuse_to_drain_into(socket: &TcpStream) {
    let flags = rustix::fs::fcntl_getfl(socket).unwrap();
    rustix::fs::fcntl_setfl(socket, flags | rustix::fs::OFlags::APPEND).unwrap();
}

#[tokio::test]
async fn what_cannot_be_spliced_into_a_pipe_is_copied() {
    let relay = Arc::new(Relay { pipes: Pipes::refusing(), ..Relay::new(settings(0)) });
    let mut tunnel = tunnel(&relay, open()).await;
    exchange(&mut tunnel, 1, (700_000, 3_000_000), 65_536).await;
    assert_eq!(tunnel.over.await.unwrap(), Ok(Ending::Closed));
    let (up, down) = (tunnel.traffic.up.count(), tunnel.traffic.down.count());
    assert_eq!((up, down), (copied(700_000), copied(3_000_000)));
    assert!(tunnel.traffic.splice_was_refused());
    assert_eq!(relay.pipes.idle(), 1);
}

#[tokio::test]
async fn what_cannot_be_spliced_out_of_a_pipe_is_copied() {
    let relay = relay(1);
    let (mut server, from) = pair().await;
    let (to, mut client) = pair().await;
    refuse_to_drain_into(&to);
    let traffic = Traffic::default();
    let mut way = OneWay::<SpliceState>::down(relay.now());
    let bytes = noise(3, 2_000_000);
    let carried = async {
        poll_fn(|context| way.poll(context, &relay, &traffic, (&from, &to), Flow::Open)).await
    };
    let (carried, _, came) =
        tokio::join!(carried, send(&mut server, &bytes, 65_536), receive(&mut client));
    assert!(carried.is_ok() && came == bytes);
    assert_eq!(traffic.down.count(), copied(2_000_000));
    assert!(traffic.splice_was_refused());
    assert_eq!(relay.pipes.idle(), 1, "the pipe comes back empty");
}

#[tokio::test]
async fn a_tunnel_that_is_spliced_counts_no_refusal() {
    let mut tunnel = tunnel(&relay(1), open()).await;
    exchange(&mut tunnel, 1, (700_000, 3_000_000), 65_536).await;
    assert!(!tunnel.traffic.splice_was_refused());
    assert!(tunnel.traffic.down.count().splice > 0);
}

fn copied(bytes: u64) -> Count {
    Count { splice: 0, copy: bytes }
}
