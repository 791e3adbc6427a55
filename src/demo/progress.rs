//! How far a pull has come: a bar on a terminal, plain lines elsewhere, on standard error.

use super::mebibytes;
use std::future::Future;
use std::io::{IsTerminal, Write, stderr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often the bar is drawn.
const REDRAW: Duration = Duration::from_millis(100);
/// The bar's width, in columns.
const BAR: u64 = 32;

/// Bytes that came, of bytes that are expected.
#[derive(Debug)]
pub struct Progress {
    done: AtomicU64,
    total: u64,
}

impl Progress {
    /// Nothing yet, of `total` bytes.
    #[must_use]
    pub fn of(total: u64) -> Arc<Self> {
        Arc::new(Self { done: AtomicU64::new(0), total })
    }

    /// So many bytes more.
    pub fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The bytes that came.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    fn bar(&self) -> String {
        let filled = (self.done() * BAR).checked_div(self.total).unwrap_or(BAR).min(BAR);
        (0..BAR).map(|column| if column < filled { '=' } else { ' ' }).collect()
    }
}

/// Says that something is being done.
pub fn tell(what: &str) {
    // Nobody to tell it to is no reason to stop.
    let _ = writeln!(stderr(), "{what}");
}

/// Does `work` and shows how far it has come.
pub async fn showing<T>(what: &str, progress: &Progress, work: impl Future<Output = T>) -> T {
    if !stderr().is_terminal() {
        tell(&format!("{what} ..."));
        return work.await;
    }
    let begun = Instant::now();
    let draw = || {
        let seconds = begun.elapsed().as_secs_f64().max(0.001);
        let done = mebibytes(progress.done());
        let (total, rate) = (mebibytes(progress.total), done / seconds);
        let _ = write!(
            stderr(),
            "\r{what:<36} [{}] {done:4.0} of {total:.0} MiB  {rate:5.0} MiB/s ",
            progress.bar()
        );
    };
    let mut redraw = tokio::time::interval(REDRAW);
    let mut work = std::pin::pin!(work);
    let result = loop {
        tokio::select! {
            result = &mut work => break result,
            _ = redraw.tick() => draw(),
        }
    };
    draw();
    let _ = writeln!(stderr());
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bar_fills_and_never_overflows() {
        for (done, total, filled) in
            [(0, 10, 0), (5, 10, 16), (10, 10, 32), (11, 10, 32), (0, 0, 32)]
        {
            let progress = Progress::of(total);
            progress.add(done);
            let bar = progress.bar();
            assert_eq!(bar.matches('=').count(), filled, "{done} of {total}");
            assert_eq!(bar.len(), 32);
        }
    }
}
