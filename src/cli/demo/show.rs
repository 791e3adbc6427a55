//! Shows progress on standard error: bars on a terminal, plain lines elsewhere. Write errors are
//! ignored, because the demonstration does not depend on them.

use crate::tools::demo::progress::PullProgress;
use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

/// Interval between two updates of a bar.
const REDRAW: Duration = Duration::from_millis(100);

/// Prints a line.
pub(super) fn tell(what: &str) {
    let _ = writeln!(stderr(), "{what}");
}

/// Runs `work` and shows its progress.
pub(super) async fn showing<T>(
    what: &str,
    progress: &PullProgress,
    work: impl Future<Output = T>,
) -> T {
    let begun = Instant::now();
    let draw = || format!("{what:<36} {}", progress.draw(begun.elapsed()));
    if !stderr().is_terminal() {
        let result = work.await;
        tell(&draw());
        return result;
    }
    let mut redraw = tokio::time::interval(REDRAW);
    let mut work = std::pin::pin!(work);
    let result = loop {
        tokio::select! {
            result = &mut work => break result,
            _ = redraw.tick() => {
                let _ = write!(stderr(), "\r{}", draw());
            }
        }
    };
    tell(&format!("\r{}", draw()));
    result
}
