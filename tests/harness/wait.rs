//! Waiting for a fact instead of for a time.

use std::thread;
use std::time::{Duration, Instant};

use super::PATIENCE;

/// Asks again and again until the answer is something, and fails the test after [`PATIENCE`].
///
/// # Panics
/// When the time is over; `what` names the fact that did not come true.
#[track_caller]
pub fn wait_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
