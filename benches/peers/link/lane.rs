//! One direction of a long link, without devices and without a clock: the caller says what time it
//! is. A packet waits for its turn on the wire, then travels for the delay. It is dropped when the
//! queue before the wire is full, and may be lost at random.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Bytes that Ethernet adds to each packet: header, checksum, preamble and gap.
pub const ETHERNET: usize = 38;

/// The smallest queue, in bytes.
const SMALLEST_QUEUE: f64 = 65_536.0;

/// The properties of a link. Both directions have the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// One way, in milliseconds.
    pub delay_ms: u32,
    /// On the wire, in megabits per second.
    pub rate_mbit: u32,
    /// Share of the packets that are lost, in hundredths of a percent.
    pub loss_bp: u32,
}

impl Link {
    pub fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms.into())
    }

    /// The time that a packet occupies the wire.
    pub fn transmission(&self, packet: usize) -> Duration {
        let bits = (packet + ETHERNET) as f64 * 8.0;
        Duration::from_secs_f64(bits / (f64::from(self.rate_mbit) * 1e6))
    }

    /// The longest time that a packet may wait for the wire: the round trip, which is the usual size
    /// of a router's queue, and never less than 64 KiB take.
    pub fn queue(&self) -> Duration {
        let least = SMALLEST_QUEUE * 8.0 / (f64::from(self.rate_mbit) * 1e6);
        (self.delay() * 2).max(Duration::from_secs_f64(least))
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.delay_ms, self.rate_mbit, self.loss_bp)
    }
}

impl FromStr for Link {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut numbers = text.split_whitespace().map(str::parse);
        let mut next = || numbers.next().unwrap_or_else(|| "".parse());
        Ok(Self { delay_ms: next()?, rate_mbit: next()?, loss_bp: next()? })
    }
}

/// What happened to the packets of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub delivered: u64,
    pub lost: u64,
    /// Dropped because the queue was full.
    pub dropped: u64,
}

/// One direction. All times are since any common start.
pub struct Lane<P> {
    link: Link,
    /// When the wire is free.
    free: Duration,
    /// Packets under way, with their times of arrival.
    under_way: VecDeque<(Duration, P)>,
    chance: fastrand::Rng,
    pub counts: Counts,
}

impl<P: AsRef<[u8]>> Lane<P> {
    pub fn new(link: Link, seed: u64) -> Self {
        Self {
            link,
            free: Duration::ZERO,
            under_way: VecDeque::new(),
            chance: fastrand::Rng::with_seed(seed),
            counts: Counts::default(),
        }
    }

    /// Changes the link for the packets to come.
    pub fn set(&mut self, link: Link) {
        self.link = link;
    }

    /// Takes a packet from the sender.
    pub fn offer(&mut self, now: Duration, packet: P) {
        let turn = self.free.max(now);
        if turn - now > self.link.queue() {
            self.counts.dropped += 1;
            return;
        }
        self.free = turn + self.link.transmission(packet.as_ref().len());
        if self.chance.u32(0..10_000) < self.link.loss_bp {
            self.counts.lost += 1;
            return;
        }
        let mut due = self.free + self.link.delay();
        // A link that becomes shorter does not reorder.
        due = due.max(self.under_way.back().map_or(Duration::ZERO, |(last, _)| *last));
        self.under_way.push_back((due, packet));
    }

    /// When the next packet arrives.
    pub fn next(&self) -> Option<Duration> {
        self.under_way.front().map(|(due, _)| *due)
    }

    /// The next packet that has arrived by now.
    pub fn take(&mut self, now: Duration) -> Option<P> {
        if self.next()? > now {
            return None;
        }
        self.counts.delivered += 1;
        self.under_way.pop_front().map(|(_, packet)| packet)
    }
}
