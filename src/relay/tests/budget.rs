//! Uploads within their budgets: to the byte, on every path.

use tokio::io::{AsyncRead, AsyncWrite};

use super::*;
use crate::policy::{Budget, Enforcement, LEAST_RESPONSE};

const BUDGET: Budget = Budget { base_bytes: 50_000, ratio_percent: 2, request_bytes: 0 };

pub(super) fn bounded(enforcement: Enforcement) -> Arc<Traffic> {
    let traffic = Traffic::default();
    traffic.bounds.set(Some(BUDGET), enforcement);
    Arc::new(traffic)
}

/// Sends as much as goes, and reads until the end.
async fn push(mut client: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) {
    let _ = client.write_all(bytes).await;
    let _ = client.shutdown().await;
    let _ = client.read_to_end(&mut Vec::new()).await;
}

/// A client sends `up` once so much has come down: what reaches the server, and how it ends.
async fn pushed(
    pipes: usize,
    watch: Option<Box<Watch>>,
    traffic: Arc<Traffic>,
    (up, down): (&[u8], usize),
) -> (Vec<u8>, Outcome) {
    let open = AfterHandshake { upload: Flow::Open, watch };
    let mut tunnel = tunnel_within(&relay(pipes), open, idle(IDLE), traffic).await;
    let answer = noise(2, down);
    let mut came_down = vec![0; down];
    let (sent, came) =
        tokio::join!(tunnel.server.write_all(&answer), tunnel.client.read_exact(&mut came_down));
    sent.unwrap();
    came.unwrap();
    let ((), came) = tokio::join!(push(tunnel.client, up), receive_what_comes(tunnel.server));
    (came, tunnel.over.await.unwrap())
}

#[tokio::test]
async fn not_a_byte_more_than_the_budget_passes() {
    let down = 700_000;
    let allowed = usize::try_from(BUDGET.allows(down as u64, 0)).unwrap();
    assert_eq!(allowed, 64_000);
    let cut = Err(Reason::UploadBudget.into());
    for (pipes, length, outcome) in [
        (1, allowed, Ok(Ending::Closed)),
        (0, allowed, Ok(Ending::Closed)),
        (1, allowed + 1, cut.clone()),
        (0, allowed + 1, cut.clone()),
        (1, 10 << 20, cut.clone()),
        (0, 10 << 20, cut),
    ] {
        let up = noise(1, length);
        let traffic = bounded(Enforcement::Enforce);
        let (came, over) = pushed(pipes, None, traffic.clone(), (&up, down)).await;
        assert_eq!(over, outcome, "{pipes} pipes, {length} bytes");
        assert!(came == up[..length.min(allowed)], "{} of {length} bytes came", came.len());
        assert_eq!(traffic.up.count().total(), came.len() as u64);
        assert!(!traffic.bounds.were_exceeded());
    }
}

#[tokio::test]
async fn the_headers_of_records_count() {
    // Records of TLS 1.2, and a budget that ends within a header, a payload, and between two.
    let mut up = Vec::new();
    for seed in 0..20 {
        up.extend(record(23, seed, 4_995));
    }
    for base_bytes in [49_998, 50_002, 52_000, 50_000] {
        for pipes in [0, 1] {
            let traffic = Arc::new(Traffic::default());
            let budget = Budget { base_bytes, ratio_percent: 0, request_bytes: 0 };
            traffic.bounds.set(Some(budget), Enforcement::Enforce);
            let watch = Some(Box::new(Watch::new(RecordWatch::at_boundary())));
            let (came, over) = pushed(pipes, watch, traffic, (&up, 0)).await;
            assert_eq!(over, Err(Reason::UploadBudget.into()));
            // A header passes only when it is whole.
            let most = usize::try_from(base_bytes).unwrap();
            let least = most - if most % 5_000 < 5 { most % 5_000 } else { 0 };
            assert!((least..=most).contains(&came.len()), "{} of {most}", came.len());
            assert!(came == up[..came.len()]);
        }
    }
}

#[tokio::test]
async fn a_report_lets_it_pass_and_notes_it() {
    for (length, exceeded) in [(50_000, false), (50_001, true), (3 << 20, true)] {
        let up = noise(1, length);
        let traffic = bounded(Enforcement::Report);
        let (came, over) = pushed(1, None, traffic.clone(), (&up, 0)).await;
        assert_eq!(over, Ok(Ending::Closed));
        assert!(came == up);
        assert_eq!(traffic.bounds.were_exceeded(), exceeded, "{length}");
    }
}

#[tokio::test]
async fn behind_another_layer_it_is_the_same() {
    for (length, outcome) in
        [(50_000, Ok(Ending::Closed)), (50_001, Err(Reason::UploadBudget.into()))]
    {
        let up = noise(1, length);
        let traffic = bounded(Enforcement::Enforce);
        let (client, mut gate_client) = tokio::io::duplex(10_000);
        let (mut gate_upstream, server) = pair().await;
        let gate = async {
            let (relay, terms) = (relay(0), idle(IDLE));
            let (terms, stalls) = (&terms, &relay.stalls);
            let life = TunnelContext { traffic: &traffic, terms, stalls, stop: pin!(pending()) };
            let over = relay.copy_both(&mut gate_client, &mut gate_upstream, open(), life).await;
            drop((gate_client, gate_upstream));
            over
        };
        let (over, (), came) = tokio::join!(gate, push(client, &up), receive_what_comes(server));
        assert_eq!(over, outcome);
        assert!(came == up[..length.min(50_000)], "{} came", came.len());
    }
}

#[tokio::test]
async fn what_the_handshake_sent_counts() {
    let traffic = bounded(Enforcement::Enforce);
    traffic.up.copied(49_990);
    let (came, over) = pushed(1, None, traffic, (b"eleven byte", 0)).await;
    assert_eq!((came.as_slice(), over), (&b"eleven byt"[..], Err(Reason::UploadBudget.into())));
}

#[tokio::test]
async fn a_download_in_many_pieces_is_one_response() {
    for is_spliced in [true, false] {
        let traffic = Traffic::default();
        let budget = Budget { base_bytes: 1_000, ratio_percent: 0, request_bytes: 1_000 };
        traffic.bounds.set(Some(budget), Enforcement::Enforce);
        let (mut client, mut gate_client) = pair().await;
        let (mut gate_upstream, mut server) = pair().await;
        let gate = async {
            let (relay, terms) = (relay(1), idle(IDLE));
            let (terms, stalls) = (&terms, &relay.stalls);
            let life = TunnelContext { traffic: &traffic, terms, stalls, stop: pin!(pending()) };
            let over = match is_spliced {
                true => relay.splice_both(&gate_client, &gate_upstream, open(), life).await,
                false => relay.copy_both(&mut gate_client, &mut gate_upstream, open(), life).await,
            };
            drop((gate_client, gate_upstream));
            over
        };
        let peers = async {
            client.write_all(&[1]).await.unwrap();
            server.read_exact(&mut [0]).await.unwrap();
            let mut piece = vec![2; usize::try_from(LEAST_RESPONSE).unwrap()];
            for _ in 0..20 {
                server.write_all(&piece).await.unwrap();
                client.read_exact(&mut piece).await.unwrap();
            }
            let ((), came) = tokio::join!(push(client, &[3; 50_000]), receive_what_comes(server));
            1 + came.len()
        };
        let (over, came) = tokio::join!(gate, peers);
        assert_eq!(over, Err(Reason::UploadBudget.into()));
        assert_eq!(came, 2_000, "spliced: {is_spliced}");
    }
}

#[tokio::test]
async fn tunnels_of_one_client_share_an_hour() {
    let hour = Arc::new(UploadQuota::new(70_000));
    let up = noise(1, 50_000);
    for passes in [50_000, 20_000, 0] {
        let traffic = Arc::new(Traffic::within(Bounds::within(Some(hour.clone()), Vec::new())));
        let (came, over) = pushed(1, None, traffic, (&up, 100_000)).await;
        assert!(came == up[..passes], "{} came", came.len());
        assert_eq!(over.is_ok(), passes == 50_000);
    }
    assert_eq!(hour.left(), 0);
}
