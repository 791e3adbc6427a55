//! Waits for a condition instead of a fixed time.

use std::thread;
use std::time::{Duration, Instant};

use super::PATIENCE;

/// Polls until the closure returns a value. Fails the test after [`PATIENCE`].
///
/// # Panics
/// On timeout; `what` names the condition that was not met.
#[track_caller]
pub fn wait_until<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    wait_until_within(PATIENCE, what, ask)
}

/// Like [`wait_until`], for what takes the gate longer.
///
/// # Panics
/// On timeout; `what` names the condition that was not met.
#[track_caller]
pub fn wait_until_within<T>(
    patience: Duration,
    what: &str,
    mut ask: impl FnMut() -> Option<T>,
) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < patience, "waited {patience:?} in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
