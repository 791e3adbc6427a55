//! Uploads of TLS 1.2: every accepted byte passes once, and nothing behind a record that is not.

use super::*;

/// Records of these payload lengths, in turn, and behind them one that is not accepted.
fn upload(lengths: &[usize], count: usize) -> (Vec<u8>, usize) {
    let mut bytes = Vec::new();
    for (seed, length) in (0..).zip(lengths.iter().cycle().take(count)) {
        bytes.extend(record(23, seed, *length));
    }
    let good = bytes.len();
    // It looks like more records inside.
    bytes.extend(record(22, 7, 50));
    for seed in 0..20 {
        bytes.extend(record(23, seed, 16_384));
    }
    (bytes, good)
}

/// Sends records to a server that reads slowly or at once, and returns the counts.
async fn watched(relay: &Arc<Relay>, lengths: &[usize], piece: usize, is_slow: bool) -> Count {
    let (bytes, good) = upload(lengths, 3_000_000 / lengths.iter().sum::<usize>() * lengths.len());
    let watch = Some(Box::new(Watch::new(RecordWatch::at_boundary())));
    let mut tunnel = tunnel(relay, AfterHandshake { upload: Flow::Open, watch }).await;
    if is_slow {
        SockRef::from(&tunnel.server).set_recv_buffer_size(32 * 1024).unwrap();
    }
    let send = async {
        for piece in bytes.chunks(piece) {
            if tunnel.client.write_all(piece).await.is_err() {
                return;
            }
        }
    };
    let read = async {
        let (mut came, mut buffer) = (Vec::new(), vec![0; if is_slow { 5_000 } else { 500_000 }]);
        while let Ok(read @ 1..) = tunnel.server.read(&mut buffer).await {
            came.extend_from_slice(&buffer[..read]);
            if is_slow {
                tokio::task::yield_now().await;
            }
        }
        came
    };
    let ((), came) = tokio::join!(send, read);
    assert!(came == bytes[..good], "{} of {good} bytes of {lengths:?} by {piece}", came.len());
    assert_eq!(tunnel.over.await.unwrap(), Err(Reason::Renegotiation.into()));
    let count = tunnel.traffic.up.count();
    assert_eq!(count.total(), good as u64);
    count
}

#[tokio::test]
async fn whole_records_are_spliced_and_cut_exactly() {
    for (lengths, piece) in
        [(&[16_384][..], 65_556), (&[16_413], 300_000), (&[18_432, 60, 16_384], 50_001)]
    {
        for is_slow in [false, true] {
            let relay = relay(1);
            let count = watched(&relay, lengths, piece, is_slow).await;
            // What a slow reader has no room for is copied.
            assert!(is_slow || count.copy < count.splice / 8, "{count:?} of {lengths:?}");
            assert!(count.splice > 0);
            assert_eq!(relay.pipes.idle(), 1, "the pipe comes back empty");
        }
    }
}

#[tokio::test]
async fn small_and_mixed_records_are_cut_exactly() {
    for lengths in [&[1][..], &[3, 4_091, 4_096, 1, 1, 1, 9_000], &[16_384, 1, 1, 1, 1, 1, 1, 1]] {
        for (pipe_size, is_slow) in [(PIPE_SIZE, false), (64 * 1024, true)] {
            let settings = RelaySettings { pipe_size, ..settings(1) };
            let relay = Arc::new(Relay::new(settings));
            watched(&relay, lengths, 200_000, is_slow).await;
            assert_eq!(relay.pipes.idle(), 1);
        }
    }
}

#[tokio::test]
async fn without_a_duplicate_records_are_copied() {
    let relay = Arc::new(Relay { pipes: Pipes::without_duplicates(1), ..Relay::new(settings(0)) });
    for is_slow in [false, true] {
        let count = watched(&relay, &[16_384, 20], 100_000, is_slow).await;
        assert_eq!(count.splice, 0);
    }
    assert_eq!(relay.pipes.idle(), 1);
}
