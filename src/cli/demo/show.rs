//! Tells on standard error what is being done: bars on a terminal, plain lines elsewhere. Nobody to
//! tell it to is no reason to stop, so errors of writing are ignored.

use crate::tools::demo::progress::Progress;
use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

/// How often a bar is drawn.
const REDRAW: Duration = Duration::from_millis(100);

/// Says that something is being done.
pub(super) fn tell(what: &str) {
    let _ = writeln!(stderr(), "{what}");
}

/// Does `work` and shows how far it has come.
pub(super) async fn showing<T>(
    what: &str,
    progress: &Progress,
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
