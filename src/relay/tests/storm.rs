//! Tunnels in every weather: flows and exchanges in turn, after silences of any length, so that each
//! way is bulk and interactive, and hears words, again and again. What stalls ends at the idle limit.

use super::*;

/// What one peer sends and the other receives.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// A number of bytes, written and read in pieces of these sizes.
    Flow { from: Side, bytes: usize, written: usize, read: usize },
    /// A number of questions, and answers of this size.
    Exchange { asks: Side, count: usize, answer: usize },
    /// Silence for a number of ticks.
    Silence { ticks: u32 },
}

/// Ten phases for a `seed`.
fn phases(seed: u64) -> Vec<Phase> {
    noise(seed, 80).chunks_exact(8).map(phase).collect()
}

fn phase(dice: &[u8]) -> Phase {
    let pick = |die: usize, of: &[usize]| of[usize::from(dice[die]) % of.len()];
    let side = if dice[1].is_multiple_of(3) { Side::Client } else { Side::Upstream };
    match dice[0] % 4 {
        0 => Phase::Silence { ticks: u32::from(dice[2]) % (SILENCE * 3) },
        1 => Phase::Exchange {
            asks: side,
            count: 1 + usize::from(dice[2]) % 60,
            answer: pick(3, &[1, 900, 5_000, 17_000, 70_000]),
        },
        _ => Phase::Flow {
            from: side,
            bytes: pick(2, &[3_000, 20_000, 300_000, 900_000, 2_000_000]),
            written: pick(3, &[700, 1_400, 16_384, 100_000]),
            read: pick(4, &[700, 9_000, 2_000_000]),
        },
    }
}

async fn say(
    from: &mut TcpStream,
    to: &mut TcpStream,
    said: &[u8],
    (written, read): (usize, usize),
) {
    let mut heard = vec![0; said.len()];
    let send = async {
        for piece in said.chunks(written) {
            from.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let receive = async {
        for piece in heard.chunks_mut(read) {
            to.read_exact(piece).await.expect("it is not ended as idle");
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(send, receive);
    assert!(heard == said);
}

/// The one who speaks first, then the other.
fn in_turn<T>(first: Side, client: T, server: T) -> (T, T) {
    if first == Side::Client { (client, server) } else { (server, client) }
}

async fn weather(relay: &Arc<Relay>, seed: u64) {
    let batch = relay.settings.batch.unwrap();
    let mut tunnel = tunnel_with(relay, open(), Duration::from_secs(20)).await;
    SockRef::from(&tunnel.client).set_tcp_nodelay(true).unwrap();
    SockRef::from(&tunnel.server).set_tcp_nodelay(true).unwrap();
    if seed.is_multiple_of(2) {
        SockRef::from(&tunnel.client).set_recv_buffer_size(32 * 1024).unwrap();
        SockRef::from(&tunnel.server).set_recv_buffer_size(32 * 1024).unwrap();
    }
    for (number, phase) in (seed * 100..).zip(phases(seed)) {
        let Tunnel { client, server, .. } = &mut tunnel;
        match phase {
            Phase::Silence { ticks } => tokio::time::sleep(batch * ticks).await,
            Phase::Flow { from, bytes, written, read } => {
                let (from, to) = in_turn(from, client, server);
                say(from, to, &noise(number, bytes), (written, read)).await;
            }
            Phase::Exchange { asks, count, answer } => {
                let (asks, tells) = in_turn(asks, client, server);
                for turn in number..number + count as u64 {
                    say(asks, tells, &noise(turn, 30), (30, 30)).await;
                    say(tells, asks, &noise(turn, answer), (answer, answer)).await;
                }
            }
        }
    }
    tunnel.client.shutdown().await.unwrap();
    tunnel.server.shutdown().await.unwrap();
    assert_eq!(tunnel.over.await.unwrap(), Ok(Ending::Closed));
}

async fn storm(seeds: std::ops::Range<u64>) {
    for batch in [1, 8].map(Duration::from_millis) {
        let relay = Arc::new(Relay::new(RelaySettings {
            batch: Some(batch),
            pipes: 1,
            pipe_size: PIPE_SIZE,
        }));
        for few in seeds.clone().collect::<Vec<_>>().chunks(8) {
            let tasks = few.iter().map(|&seed| {
                let relay = relay.clone();
                (seed, tokio::spawn(async move { weather(&relay, seed).await }))
            });
            for (seed, task) in tasks.collect::<Vec<_>>() {
                assert!(task.await.is_ok(), "seed {seed}, ticks of {batch:?}");
            }
        }
    }
}

#[tokio::test]
async fn nothing_stalls_in_a_storm_on_one_thread() {
    storm(0..24).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_stalls_in_a_storm_on_two_threads() {
    storm(24..48).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn nothing_stalls_in_a_long_storm() {
    storm(1_000..2_500).await;
}
