//! Limits download rates that the tunnels of a client or registry share. A tunnel pays after it has
//! moved bytes, and waits while the shared bucket is overdrawn. This paces the splice; the TCP
//! window slows the server down.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::token_bucket::TokenBucket;

/// Maximum time for which a bucket accumulates.
const BURST: Duration = Duration::from_millis(100);

/// Number of moves for one second of traffic, so that tunnels alternate; and minimum and maximum
/// size of a move, in bytes.
const MOVES: u64 = 32;
const MOVE: (u64, u64) = (4 * 1024, 1024 * 1024);

/// No rate limit.
const UNLIMITED: u64 = u64::MAX;

/// A rate that tunnels share. It survives reloads, which can change it.
#[derive(Debug)]
pub struct Throttle {
    bytes_per_second: AtomicU64,
    began: Instant,
    bucket: Mutex<TokenBucket>,
}

impl Throttle {
    /// Creates a rate in bytes per second, shared by all its tunnels.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        let bytes_per_second = AtomicU64::new(bytes_per_second.max(1));
        Self { bytes_per_second, began: Instant::now(), bucket: Mutex::default() }
    }

    /// Changes the rate; `None` removes it.
    pub fn limit_to(&self, bytes_per_second: Option<u64>) {
        let rate = bytes_per_second.unwrap_or(UNLIMITED).max(1);
        self.bytes_per_second.store(rate, Ordering::Relaxed);
    }

    fn wait(&self) -> Option<Duration> {
        let bucket = *self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.wait(self.began.elapsed(), BURST)
    }

    fn charge(&self, bytes: u64) {
        let rate = self.bytes_per_second.load(Ordering::Relaxed);
        if rate == UNLIMITED {
            return;
        }
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.charge(self.began.elapsed(), cost);
    }

    fn most(&self) -> u64 {
        let (least, most) = MOVE;
        (self.bytes_per_second.load(Ordering::Relaxed) / MOVES).clamp(least, most)
    }
}

/// The rates of the download of one tunnel, and its timer.
#[derive(Debug)]
pub struct Paced {
    throttles: Vec<Arc<Throttle>>,
    hold: Mutex<Option<Pin<Box<Sleep>>>>,
}

impl Paced {
    /// Creates the rates; `None` if there is none.
    #[must_use]
    pub fn by(throttles: Vec<Arc<Throttle>>) -> Option<Box<Self>> {
        if throttles.is_empty() {
            return None;
        }
        Some(Box::new(Self { throttles, hold: Mutex::default() }))
    }

    /// Ready when more bytes can be moved.
    pub fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut hold = self.hold.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let wait = self.throttles.iter().filter_map(|throttle| throttle.wait()).max();
            let Some(wait) = wait else {
                *hold = None;
                return Poll::Ready(());
            };
            let at = Instant::now() + wait;
            let sleep = hold.get_or_insert_with(|| Box::pin(sleep_until(at)));
            sleep.as_mut().reset(at);
            if sleep.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Returns the maximum size of the next move, in bytes.
    #[must_use]
    pub fn most(&self) -> usize {
        let most = self.throttles.iter().map(|throttle| throttle.most()).min();
        most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX)
    }

    /// Counts moved bytes.
    pub fn moved(&self, bytes: usize) {
        for throttle in self.throttles.iter().filter(|_| bytes > 0) {
            throttle.charge(bytes as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// Returns how long the tunnels that share the rates take for a number of bytes.
    async fn moving(throttles: &[Arc<Throttle>], tunnels: usize, bytes: u64) -> Duration {
        let began = Instant::now();
        let moves = (0..tunnels).map(|_| {
            let paced = Paced::by(throttles.to_vec()).unwrap();
            tokio::spawn(async move {
                let mut left = bytes;
                while left > 0 {
                    poll_fn(|context| paced.poll(context)).await;
                    let most = left.min(paced.most() as u64);
                    paced.moved(most as usize);
                    left -= most;
                }
            })
        });
        for one in moves.collect::<Vec<_>>() {
            one.await.unwrap();
        }
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_by_all_who_share_it() {
        for (rate, tunnels, bytes) in
            [(1 << 20, 1, 10 << 20), (1 << 20, 10, 1 << 20), (1 << 30, 100, 100 << 20)]
        {
            let throttle = Arc::new(Throttle::new(rate));
            let took = moving(&[throttle], tunnels, bytes).await.as_secs_f64();
            let expected = (tunnels as u64 * bytes) as f64 / rate as f64;
            // A burst, and a move of each, go ahead of it.
            assert!(took <= expected + 0.01 && took >= expected * 0.9 - 0.2, "{took} {expected}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_lower_of_two_rates_holds_and_a_lifted_one_does_not() {
        let (slow, fast) = (Arc::new(Throttle::new(1 << 20)), Arc::new(Throttle::new(8 << 20)));
        let both = [slow.clone(), fast];
        let took = moving(&both, 2, 8 << 20).await.as_secs_f64();
        assert!((15.0..17.0).contains(&took), "{took}");
        slow.limit_to(None);
        let took = moving(&both, 2, 8 << 20).await.as_secs_f64();
        assert!((1.5..2.1).contains(&took), "{took}");
    }
}
