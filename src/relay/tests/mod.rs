//! The long phase over real loopback sockets; `whole` has the tunnel with its handshake.

mod budget;
mod ends;
mod layered;
mod paced;
mod refused;
mod second_hello;
mod sockets;
mod stalled;
mod storm;
mod watched;
mod whole;

use std::future::{pending, poll_fn};
use std::net::Ipv4Addr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::one_way::{Flow, OneWay};
use super::pacing::{Pace, SILENCE};
use super::splice_state::SpliceState;
use super::tunnel::{AfterHandshake, Ways};
use super::watch::Watch;
use super::*;
use crate::config::BATCH;
use crate::hello::RecordWatch;
use crate::limits::{Bounds, Throttle, UploadQuota};
use crate::policy::{Cause, Ending, Failure, Reason, Side, Stop};

type Outcome = Result<Ending, Stop>;

fn settings(pipes: usize) -> RelaySettings {
    RelaySettings { batch: Some(BATCH), pipes, pipe_size: PIPE_SIZE }
}

fn relay(pipes: usize) -> Arc<Relay> {
    Arc::new(Relay::new(settings(pipes)))
}

fn open() -> AfterHandshake {
    AfterHandshake { upload: Flow::Open, watch: None }
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// A tunnel under test: its two peers, and what becomes of it.
struct Tunnel {
    client: TcpStream,
    server: TcpStream,
    traffic: Arc<Traffic>,
    polls: Arc<AtomicUsize>,
    stop: oneshot::Sender<Stop>,
    over: JoinHandle<Outcome>,
}

const IDLE: Duration = Duration::from_secs(60);

/// Terms with this idle timeout.
fn idle(idle: Duration) -> TunnelTerms {
    let client = Ipv4Addr::LOCALHOST.into();
    TunnelTerms { second_hello: IDLE, second_hellos: None, idle, stall: IDLE, client }
}

async fn tunnel(relay: &Arc<Relay>, open: AfterHandshake) -> Tunnel {
    tunnel_with(relay, open, IDLE).await
}

async fn tunnel_with(relay: &Arc<Relay>, open: AfterHandshake, idle: Duration) -> Tunnel {
    tunnel_within(relay, open, self::idle(idle), Arc::default()).await
}

async fn tunnel_within(
    relay: &Arc<Relay>,
    open: AfterHandshake,
    terms: TunnelTerms,
    traffic: Arc<Traffic>,
) -> Tunnel {
    let (client, gate_client) = pair().await;
    let (gate_upstream, server) = pair().await;
    let (stop, stopped) = oneshot::channel();
    let polls = Arc::new(AtomicUsize::new(0));
    let over = tokio::spawn({
        let (relay, traffic, polls) = (relay.clone(), traffic.clone(), polls.clone());
        async move {
            let stop = pin!(async {
                match stopped.await {
                    Ok(stop) => stop,
                    Err(_) => pending().await,
                }
            });
            let (terms, stalls) = (&terms, &relay.stalls);
            let life = TunnelContext { traffic: &traffic, terms, stalls, stop };
            let mut both = pin!(relay.splice_both(&gate_client, &gate_upstream, open, life));
            poll_fn(|context| {
                polls.fetch_add(1, Ordering::Relaxed);
                both.as_mut().poll(context)
            })
            .await
        }
    });
    Tunnel { client, server, traffic, polls, stop, over }
}

/// Bytes that no shift, loss or repetition leaves unchanged.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let words = length.div_ceil(8);
    let mut bytes = Vec::with_capacity(words * 8);
    for _ in 0..words {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

async fn send(to: &mut TcpStream, bytes: &[u8], piece: usize) {
    for piece in bytes.chunks(piece) {
        to.write_all(piece).await.unwrap();
    }
    to.shutdown().await.unwrap();
}

async fn receive(from: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).await.unwrap();
    bytes
}

/// Sends both ways at once, and asks for every byte, in order, once.
async fn exchange(tunnel: &mut Tunnel, seed: u64, (up, down): (usize, usize), piece: usize) {
    let (up, down) = (noise(seed, up), noise(seed + 1, down));
    let (mut from_client, mut to_client) = tunnel.client.split();
    let (mut from_server, mut to_server) = tunnel.server.split();
    let send_up = async {
        for piece in up.chunks(piece) {
            to_client.write_all(piece).await.unwrap();
        }
        to_client.shutdown().await.unwrap();
    };
    let send_down = async {
        for piece in down.chunks(piece) {
            to_server.write_all(piece).await.unwrap();
        }
        to_server.shutdown().await.unwrap();
    };
    let (mut came_up, mut came_down) = (Vec::new(), Vec::new());
    let receive_up = async { from_server.read_to_end(&mut came_up).await.unwrap() };
    let receive_down = async { from_client.read_to_end(&mut came_down).await.unwrap() };
    tokio::join!(send_up, send_down, receive_up, receive_down);
    assert!(came_up == up, "the upload arrived whole (seed {seed})");
    assert!(came_down == down, "the download arrived whole (seed {seed})");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_arrives_in_order_once() {
    // How many pipes, bytes up, bytes down, bytes a write.
    let cases = [
        (4, 0, 0, 1),
        (4, 1, 1, 1),
        (4, 100_000, 3_000_000, 1_400),
        (4, 5_000_000, 5_000_000, 65_536),
        (1, 2_000_000, 7_000_000, 300_000),
        (0, 2_000_000, 3_000_000, 16_406),
    ];
    for (seed, (pipes, up, down, piece)) in (10..).step_by(10).zip(cases) {
        for batch in [None, Some(BATCH)] {
            let relay = Arc::new(Relay::new(RelaySettings { batch, ..settings(pipes) }));
            let mut tunnel = tunnel(&relay, open()).await;
            exchange(&mut tunnel, seed, (up, down), piece).await;
            assert_eq!(tunnel.over.await.unwrap(), Ok(Ending::Closed));
            let (sent, received) = (tunnel.traffic.up.count(), tunnel.traffic.down.count());
            assert_eq!((sent.total(), received.total()), (up as u64, down as u64));
            if pipes == 0 {
                assert_eq!((sent.splice, received.splice), (0, 0));
            } else {
                // A piece that comes alone is copied.
                assert!(received.copy <= received.splice / 4 + 4096, "{received:?}");
            }
            assert_eq!(relay.pipes.idle(), pipes);
        }
    }
}

#[tokio::test]
async fn each_side_may_finish_first() {
    for client_first in [true, false] {
        let mut tunnel = tunnel(&relay(2), open()).await;
        let (first, second) = match client_first {
            true => (&mut tunnel.client, &mut tunnel.server),
            false => (&mut tunnel.server, &mut tunnel.client),
        };
        send(first, b"the question", 100).await;
        assert_eq!(receive(second).await, b"the question");
        // The other way is still open, for as much as it likes.
        let answer = noise(7, 700_000);
        let (_, came) = tokio::join!(send(second, &answer, 9_000), receive(first));
        assert!(came == answer);
        assert_eq!(tunnel.over.await.unwrap(), Ok(Ending::Closed));
    }
}

#[tokio::test]
async fn small_segments_reach_a_slow_reader() {
    let mut tunnel = tunnel(&relay(1), open()).await;
    tunnel.server.set_nodelay(true).unwrap();
    SockRef::from(&tunnel.client).set_recv_buffer_size(64 * 1024).unwrap();
    let bytes = noise(3, 2_000_000);
    let slowly = async {
        let mut came = Vec::new();
        let mut buffer = [0; 700];
        loop {
            match tunnel.client.read(&mut buffer).await.unwrap() {
                0 => return came,
                read => came.extend_from_slice(&buffer[..read]),
            }
            tokio::task::yield_now().await;
        }
    };
    let ((), came) = tokio::join!(send(&mut tunnel.server, &bytes, 1_400), slowly);
    assert!(came == bytes);
    tunnel.client.shutdown().await.unwrap();
    assert_eq!(tunnel.over.await.unwrap(), Ok(Ending::Closed));
}

/// Writes until nothing more goes, even after the relay has had its turns.
async fn write_until_full(to: &TcpStream, bytes: &[u8]) -> usize {
    let mut sent = 0;
    let mut patience = 0;
    while patience < 1_000 {
        match to.try_write(&bytes[sent..]) {
            Ok(wrote) => {
                sent += wrote;
                patience = 0;
            }
            Err(_) => patience += 1,
        }
        tokio::task::yield_now().await;
    }
    sent
}

#[tokio::test]
async fn a_stalled_reader_pins_no_pipe() {
    let relay = relay(1);
    let bytes = noise(5, 64 * 1024 * 1024);
    let mut stalled = Vec::new();
    for _ in 0..3 {
        let tunnel = tunnel(&relay, open()).await;
        SockRef::from(&tunnel.client).set_recv_buffer_size(64 * 1024).unwrap();
        SockRef::from(&tunnel.server).set_send_buffer_size(64 * 1024).unwrap();
        let sent = write_until_full(&tunnel.server, &bytes).await;
        assert!(sent < bytes.len(), "it stalls");
        stalled.push((tunnel, sent));
    }
    assert_eq!(relay.pipes.idle(), 1);
    let mut other = tunnel(&relay, open()).await;
    exchange(&mut other, 50, (300_000, 3_000_000), 20_000).await;
    let count = other.traffic.down.count();
    assert!(count.copy <= count.splice / 4, "the other tunnel has the pipe: {count:?}");
    for (mut tunnel, sent) in stalled {
        tunnel.server.shutdown().await.unwrap();
        assert!(receive(&mut tunnel.client).await == bytes[..sent]);
    }
}

#[tokio::test]
async fn bytes_before_the_end_arrive() {
    // The end comes right behind the bytes, so that both are there when the relay first looks.
    for pipes in [0, 1] {
        let mut tunnel = tunnel(&relay(pipes), open()).await;
        let bytes = noise(2, 200_000);
        let mut sent = 0;
        while sent < bytes.len() {
            tunnel.server.writable().await.unwrap();
            sent += tunnel.server.try_write(&bytes[sent..]).unwrap_or(0);
        }
        drop(tunnel.server);
        assert!(receive(&mut tunnel.client).await == bytes);
        drop(tunnel.client);
        assert_eq!(tunnel.over.await.unwrap(), Ok(Ending::Closed));
    }
}

#[tokio::test]
async fn it_stops_while_bytes_flow() {
    let mut tunnel = tunnel(&relay(1), open()).await;
    let endless = async {
        let block = noise(4, 100_000);
        while tunnel.server.write_all(&block).await.is_ok() {}
    };
    let reader = async {
        let mut stop = Some(tunnel.stop);
        let mut buffer = vec![0; 100_000];
        let mut came = 0;
        while let Ok(read @ 1..) = tunnel.client.read(&mut buffer).await {
            came += read;
            if came > 5_000_000
                && let Some(stop) = stop.take()
            {
                stop.send(Reason::PolicyRevoked.into()).unwrap();
            }
        }
    };
    let (over, (), ()) = tokio::join!(tunnel.over, endless, reader);
    assert_eq!(over.unwrap(), Err(Reason::PolicyRevoked.into()));
}

#[tokio::test]
async fn a_silent_tunnel_ends() {
    let idle = Duration::from_millis(30);
    let mut tunnel = tunnel_with(&relay(1), open(), idle).await;
    tunnel.client.write_all(b"hello").await.unwrap();
    let began = std::time::Instant::now();
    let failure = Failure { side: Side::Client, cause: Cause::IdleTimeout };
    assert_eq!((&mut tunnel.over).await.unwrap(), Err(Stop::Failed(failure)));
    assert!(began.elapsed() >= idle);
}

#[tokio::test]
async fn an_idle_tunnel_costs_no_wakeups() {
    let mut tunnel = tunnel(&relay(1), open()).await;
    // It has been busy before.
    let bytes = noise(6, 3_000_000);
    let mut came = vec![0; bytes.len()];
    let send = async {
        for piece in bytes.chunks(1_400) {
            tunnel.server.write_all(piece).await.unwrap();
        }
    };
    let (_, read) = tokio::join!(send, tunnel.client.read_exact(&mut came));
    read.unwrap();
    assert!(came == bytes);
    // The ticks of a bulk flow run out, then nothing happens any more. The time that passes here
    // is what is observed; nothing waits for it.
    tokio::time::sleep(BATCH * 10).await;
    let before = tunnel.polls.load(Ordering::Relaxed);
    tokio::time::sleep(BATCH * 10).await;
    assert_eq!(tunnel.polls.load(Ordering::Relaxed), before);
}

#[tokio::test]
async fn bulk_bytes_below_the_low_water_mark_arrive() {
    for ends in [false, true] {
        let relay = relay(1);
        let (mut server, from) = pair().await;
        let (to, mut client) = pair().await;
        let traffic = Traffic::default();
        let mut way = OneWay::<SpliceState>::down(relay.now());
        way.wakeup.make_bulk(Pace::bulk(relay.now()), &relay, &from);
        assert_eq!(socket::low_water(&from), 256 * 1024);
        server.write_all(b"a few bytes").await.unwrap();
        if ends {
            server.shutdown().await.unwrap();
        }
        let carried =
            poll_fn(|context| way.poll(context, &relay, &traffic, (&from, &to), Flow::Open));
        let read = async {
            let mut few = [0; 11];
            client.read_exact(&mut few).await.unwrap();
            assert_eq!(&few, b"a few bytes");
            if !ends {
                // A flow of so few bytes is bulk no longer: the next ones wait for nothing.
                while socket::low_water(&from) != 1 {
                    tokio::task::yield_now().await;
                }
                server.shutdown().await.unwrap();
            }
        };
        let (carried, ()) = tokio::join!(carried, read);
        assert!(carried.is_ok());
    }
}

#[tokio::test]
async fn an_answer_after_bulk_waits_for_no_tick() {
    for asks in [Side::Client, Side::Upstream] {
        // It has been silent for long, and its next tick is beyond the test's end.
        let batch = Duration::from_secs(3_600);
        let began = Instant::now() - batch * (SILENCE + 1);
        let relay = Relay {
            began,
            tick: batch,
            ..Relay::new(RelaySettings { batch: Some(batch), pipes: 1, pipe_size: PIPE_SIZE })
        };
        let (mut client, gate_client) = pair().await;
        let (gate_upstream, mut server) = pair().await;
        let traffic = Traffic::default();
        let mut ways = Ways::<SpliceState>::new(Duration::ZERO, open());
        let (way, from) = match asks {
            Side::Client => (&mut ways.down, &gate_upstream),
            _ => (&mut ways.up, &gate_client),
        };
        way.wakeup.make_bulk(Pace::bulk(Duration::ZERO), &relay, from);
        let carried =
            poll_fn(|context| ways.poll(context, &relay, &traffic, &gate_client, &gate_upstream));
        let (asking, asked) = match asks {
            Side::Client => (&mut client, &mut server),
            _ => (&mut server, &mut client),
        };
        let exchange = async {
            // Without the questions between them, these answers would count as a flow.
            for number in 0..40 {
                let (word, answer) = (noise(number, 3), noise(number, 1_000));
                let mut came = [0; 1_000];
                asking.write_all(&word).await.unwrap();
                asked.read_exact(&mut came[..3]).await.unwrap();
                asked.write_all(&answer).await.unwrap();
                asking.read_exact(&mut came).await.unwrap();
                assert!(came[..] == answer[..]);
            }
            asking.shutdown().await.unwrap();
            asked.shutdown().await.unwrap();
        };
        let (carried, ()) = tokio::join!(carried, exchange);
        assert_eq!(carried, Ok(Ending::Closed), "{asks:?}");
    }
}

fn record(kind: u8, seed: u64, length: usize) -> Vec<u8> {
    let [high, low] = u16::try_from(length).unwrap().to_be_bytes();
    let mut record = vec![kind, 3, 3, high, low];
    record.extend(noise(seed, length));
    record
}

#[tokio::test]
async fn the_watch_cuts_exactly_before_the_record() {
    let lengths = [1, 16_384, 2, 5, 18_432, 100, 4_096, 16_384, 16_384, 16_384, 31, 9_999];
    let mut good = Vec::new();
    for (seed, length) in (0..).zip(lengths.into_iter().cycle().take(400)) {
        good.extend(record(23, seed, length));
    }
    for (pipes, piece) in [(1, 16_389), (1, 3), (1, 1_000_000), (0, 7_777)] {
        let piece_of = if piece == 3 { &good[..60_000] } else { &good[..] };
        let watch = Some(Box::new(Watch::new(RecordWatch::at_boundary())));
        let mut tunnel = tunnel(&relay(pipes), AfterHandshake { upload: Flow::Open, watch }).await;
        // With a whole last record when it is the long upload.
        let mut all = piece_of.to_vec();
        if piece != 3 {
            all.extend(record(22, 99, 500));
            all.extend(record(23, 99, 500));
        }
        let (_, came) =
            tokio::join!(send(&mut tunnel.client, &all, piece), receive_what_comes(tunnel.server));
        assert!(came == piece_of, "{} of {}", came.len(), piece_of.len());
        if piece != 3 {
            assert_eq!(tunnel.over.await.unwrap(), Err(Reason::Renegotiation.into()));
        }
        if pipes > 0 && piece != 3 {
            let count = tunnel.traffic.up.count();
            assert!(count.copy < count.splice / 8, "{count:?}");
        }
    }
}

/// What comes until the end, in order or by a reset.
async fn receive_what_comes(mut from: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = from.read_to_end(&mut bytes).await;
    bytes
}

async fn many(tunnels: u64, pipes: usize) {
    let relay = relay(pipes);
    let mut tasks = Vec::new();
    for seed in 0..tunnels {
        let relay = relay.clone();
        tasks.push(tokio::spawn(async move {
            let mut tunnel = tunnel(&relay, open()).await;
            exchange(&mut tunnel, seed * 2, (3_000, 70_000), 1_400).await;
            assert_eq!(tunnel.over.await.unwrap(), Ok(Ending::Closed));
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(relay.pipes.idle(), pipes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_tunnels_share_four_pipes() {
    many(300, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes 20,000 descriptors"]
async fn thousands_of_tunnels_share_four_pipes() {
    many(4_900, 4).await;
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_stays_is_kept_alive() {
    let relay = relay(0);
    let traffic = Traffic::default();
    let cases = [(true, true), (true, false), (false, true), (false, false)];
    for (is_spliced, stays) in cases {
        let (mut client, mut gate_client) = pair().await;
        let (mut gate_upstream, server) = pair().await;
        if !stays {
            client.shutdown().await.unwrap();
            drop(server);
        }
        // It ends at the idle limit where nobody closes.
        let stop = pin!(pending::<Stop>());
        let terms = idle(IDLE);
        let (terms, stalls) = (&terms, &relay.stalls);
        let life = TunnelContext { traffic: &traffic, terms, stalls, stop };
        let over = if is_spliced {
            relay.splice_both(&gate_client, &gate_upstream, open(), life).await
        } else {
            relay.copy_both(&mut gate_client, &mut gate_upstream, open(), life).await
        };
        assert_eq!(over.is_err(), stays);
        let socket = SockRef::from(&gate_upstream);
        assert_eq!(socket.keepalive().unwrap(), stays);
        assert!(!stays || socket.tcp_keepalive_time().unwrap() < Duration::from_secs(240));
    }
}

#[tokio::test]
async fn a_tunnel_is_small() {
    let relay = relay(0);
    let traffic = Traffic::default();
    let (client, upstream) = pair().await;
    let stop = pin!(pending::<Stop>());
    let terms = idle(IDLE);
    let (terms, stalls) = (&terms, &relay.stalls);
    let life = TunnelContext { traffic: &traffic, terms, stalls, stop };
    let both = relay.splice_both(&client, &upstream, open(), life);
    let size = size_of_val(&both);
    assert!(size <= 576, "{size} bytes");
}
