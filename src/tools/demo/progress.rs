//! The progress of a pull. It counts and formats; the command displays it.

use super::mebibytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Width of the bar, in columns.
const BAR: u64 = 32;

/// Received and expected bytes.
#[derive(Debug)]
pub struct PullProgress {
    done: AtomicU64,
    total: u64,
}

impl PullProgress {
    /// Creates a counter at zero, of `total` bytes.
    #[must_use]
    pub fn of(total: u64) -> Arc<Self> {
        Arc::new(Self { done: AtomicU64::new(0), total })
    }

    /// Adds `bytes`.
    pub fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns the received bytes.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Returns one line: a bar, received and total MiB, and the average rate.
    #[must_use]
    pub fn draw(&self, elapsed: Duration) -> String {
        let (done, total) = (mebibytes(self.done()), mebibytes(self.total));
        let rate = done / elapsed.as_secs_f64().max(0.001);
        format!("[{}] {done:4.0} of {total:.0} MiB  {rate:5.0} MiB/s", self.bar())
    }

    fn bar(&self) -> String {
        let filled = (self.done() * BAR).checked_div(self.total).unwrap_or(BAR).min(BAR);
        (0..BAR).map(|column| if column < filled { '=' } else { ' ' }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bar_fills_and_never_overflows() {
        for (done, total, filled) in
            [(0, 10, 0), (5, 10, 16), (10, 10, 32), (11, 10, 32), (0, 0, 32)]
        {
            let progress = PullProgress::of(total);
            progress.add(done);
            let bar = progress.bar();
            assert_eq!(bar.matches('=').count(), filled, "{done} of {total}");
            assert_eq!(bar.len(), 32);
        }
    }
}
