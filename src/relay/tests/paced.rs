//! Downloads at a rate: every byte arrives, spliced, and none ahead of its time.

use super::*;

/// Bytes a second.
const RATE: u64 = 4 << 20;

async fn paced(pipes: usize, batch: Option<Duration>, length: usize) -> (Count, Duration) {
    let relay = Arc::new(Relay::new(RelaySettings { batch, pipes, pipe_size: PIPE_SIZE }));
    let bounds = Bounds::within(None, vec![Arc::new(Throttle::new(RATE))]);
    let traffic = Arc::new(Traffic::within(bounds));
    let mut tunnel = tunnel_within(&relay, open(), idle(IDLE), traffic.clone()).await;
    let down = noise(3, length);
    let began = std::time::Instant::now();
    let (_, came) = tokio::join!(send(&mut tunnel.server, &down, 65_536), async {
        receive(&mut tunnel.client).await
    });
    assert!(came == down);
    let took = began.elapsed();
    drop(tunnel.client);
    assert_eq!(tunnel.over.await.unwrap(), Ok(Ending::Closed));
    (traffic.down.count(), took)
}

#[tokio::test]
async fn the_splice_is_paced() {
    for (pipes, batch) in [(1, Some(BATCH)), (1, None), (0, Some(BATCH))] {
        let length = 3 << 20;
        let (count, took) = paced(pipes, batch, length).await;
        // A lower bound, which holds on every machine.
        let least = length as f64 / RATE as f64 - 0.2;
        assert!(took.as_secs_f64() > least, "{took:?} of {least}");
        assert!(pipes == 0 || count.copy < count.splice / 8, "{count:?}");
    }
}

#[tokio::test]
async fn behind_another_layer_it_is_paced_too() {
    let length = 2 << 20;
    let bounds = Bounds::within(None, vec![Arc::new(Throttle::new(RATE))]);
    let traffic = Traffic::within(bounds);
    let (mut client, mut gate_client) = tokio::io::duplex(100_000);
    let (mut gate_upstream, mut server) = pair().await;
    let down = noise(3, length);
    let began = std::time::Instant::now();
    let gate = async {
        let (relay, terms) = (relay(0), idle(IDLE));
        let (terms, stalls) = (&terms, &relay.stalls);
        let life = TunnelContext { traffic: &traffic, terms, stalls, stop: pin!(pending()) };
        relay.copy_both(&mut gate_client, &mut gate_upstream, open(), life).await
    };
    let peers = async {
        let mut came = vec![0; length];
        let (sent, read) = tokio::join!(server.write_all(&down), client.read_exact(&mut came));
        sent.unwrap();
        read.unwrap();
        assert!(came == down);
        drop((client, server));
    };
    let (over, ()) = tokio::join!(gate, peers);
    assert_eq!(over, Ok(Ending::Closed));
    let least = length as f64 / RATE as f64 - 0.2;
    assert!(began.elapsed().as_secs_f64() > least);
}
