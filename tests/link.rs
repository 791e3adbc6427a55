//! The laws of the long link that the benchmarks use.
#![allow(
    missing_docs,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::tests_outside_test_module,
    reason = "a test"
)]

#[path = "../benches/peers/link/lane.rs"]
mod lane;

use std::time::Duration;

use lane::{Lane, Link};
use proptest::prelude::*;

fn link() -> impl Strategy<Value = Link> {
    (0_u32..100, 1_u32..2_000, 0_u32..2_000).prop_map(|(delay_ms, rate_mbit, loss_bp)| Link {
        delay_ms,
        rate_mbit,
        loss_bp,
    })
}

/// Packets: microseconds since the one before, and size.
fn packets() -> impl Strategy<Value = Vec<(u64, usize)>> {
    proptest::collection::vec((0_u64..5_000, 40_usize..1_501), 1..300)
}

/// Of a packet that arrives: when it was sent, when it arrived, and its size.
type Arrived = (Duration, Duration, usize);

/// Sends packets. Returns those that arrive, and the lane.
fn carried(link: Link, packets: &[(u64, usize)]) -> (Vec<Arrived>, Lane<Vec<u8>>) {
    let mut lane = Lane::new(link, 7);
    let mut now = Duration::ZERO;
    let mut sent = Vec::new();
    for (pause, size) in packets {
        now += Duration::from_micros(*pause);
        let mut packet = vec![0; *size];
        packet[..8].copy_from_slice(&(sent.len() as u64).to_be_bytes());
        lane.offer(now, packet);
        sent.push(now);
    }
    let mut arrived = Vec::new();
    while let Some(at) = lane.next() {
        let packet = lane.take(at).unwrap();
        let number = u64::from_be_bytes(packet[..8].try_into().unwrap());
        arrived.push((sent[usize::try_from(number).unwrap()], at, packet.len()));
    }
    (arrived, lane)
}

proptest! {
    #[test]
    fn a_link_reads_back_as_it_was_written(link in link()) {
        prop_assert_eq!(link.to_string().parse(), Ok(link));
    }

    /// Every packet is delivered, lost or dropped, and those that arrive do so in order.
    #[test]
    fn packets_stay_in_order_and_are_all_counted(link in link(), packets in packets()) {
        let (arrived, lane) = carried(link, &packets);
        prop_assert!(arrived.windows(2).all(|two| two[0].0 <= two[1].0 && two[0].1 <= two[1].1));
        let all = lane.counts.delivered + lane.counts.lost + lane.counts.dropped;
        prop_assert_eq!(all, packets.len() as u64);
        prop_assert_eq!(lane.counts.delivered, arrived.len() as u64);
        prop_assert!(link.loss_bp > 0 || lane.counts.lost == 0);
    }

    /// A packet takes its transmission and the delay, and at most the queue more.
    #[test]
    fn no_packet_is_early_or_later_than_the_queue(link in link(), packets in packets()) {
        for (sent, arrived, size) in carried(link, &packets).0 {
            let least = link.transmission(size) + link.delay();
            prop_assert!(arrived - sent >= least);
            prop_assert!(arrived - sent <= least + link.queue());
        }
    }

    /// No more bytes arrive in a time than the rate allows.
    #[test]
    fn the_rate_is_kept(link in link(), packets in packets()) {
        let (arrived, _) = carried(link, &packets);
        for two in arrived.windows(2) {
            prop_assert!(two[1].1 - two[0].1 + Duration::from_nanos(2) >= link.transmission(two[1].2));
        }
    }
}

#[test]
fn a_link_that_becomes_shorter_does_not_reorder() {
    let link = Link { delay_ms: 50, rate_mbit: 1_000, loss_bp: 0 };
    let mut lane = Lane::new(link, 7);
    lane.offer(Duration::ZERO, vec![1]);
    lane.set(Link { delay_ms: 1, ..link });
    lane.offer(Duration::from_millis(1), vec![2]);
    let both: Vec<Vec<u8>> = std::iter::from_fn(|| lane.take(Duration::from_secs(1))).collect();
    assert_eq!(both, [vec![1], vec![2]]);
}

#[test]
fn the_share_of_lost_packets_is_as_asked() {
    let link = Link { delay_ms: 1, rate_mbit: 1_000, loss_bp: 100 };
    // The seed is fixed, so this is no matter of luck: 1 % of 100,000, within a tenth.
    let (_, lane) = carried(link, &vec![(20, 1_500); 100_000]);
    assert!((900..1_100).contains(&lane.counts.lost), "{:?}", lane.counts);
    assert_eq!(lane.counts.dropped, 0);
}

#[test]
fn a_full_queue_drops() {
    let link = Link { delay_ms: 10, rate_mbit: 100, loss_bp: 0 };
    // 20 ms of 100 Mbit/s are 250,000 bytes: 162 packets of 1,538 bytes wait, and one is on the wire.
    let (arrived, lane) = carried(link, &vec![(0, 1_500); 1_000]);
    assert_eq!(arrived.len(), 163, "{:?}", lane.counts);
    assert_eq!(lane.counts.dropped, 837);
}
