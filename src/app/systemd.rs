//! Notifies the service manager: sd_notify(3). Without one, it does nothing.
//!
//! A separate thread sends the messages, because a manager that does not read would block the
//! sender.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};
use sd_notify::NotifyState;
use tracing::warn;

use super::workers::Workers;

/// Interval of messages about a shutdown in progress, and the time by which each extends the
/// timeout.
pub(super) const ENDING: Duration = Duration::from_secs(20);
const ENDING_EXTENDED: Duration = Duration::from_secs(60);

/// Maximum number of queued messages. Further ones are dropped, because the manager does not read.
const WAITING: usize = 16;

#[derive(Debug)]
enum Message {
    Ready(String),
    Reloading,
    Stopping(String),
    Alive,
}

/// The connection to the service manager.
#[derive(Debug, Clone)]
pub(super) struct Systemd {
    messages: SyncSender<Message>,
}

impl Systemd {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system cannot create a thread.
    pub(super) fn new() -> io::Result<Self> {
        let (messages, receiver) = sync_channel(WAITING);
        std::thread::Builder::new().name("manager".into()).spawn(move || tell_all(&receiver))?;
        Ok(Self { messages })
    }

    /// Reports that the gate is ready.
    pub(super) fn ready(&self, status: String) {
        self.send(Message::Ready(status));
    }

    /// Reports that the gate reloads. [`Systemd::ready`] ends it.
    pub(super) fn reloading(&self) {
        self.send(Message::Reloading);
    }

    /// Reports that the gate is stopping. Repeated every [`ENDING`], so that the manager does not
    /// time out.
    pub(super) fn stopping(&self, status: String) {
        self.send(Message::Stopping(status));
    }

    /// Sends watchdog messages (`WatchdogSec=`) while every thread runs tasks, until the runtime
    /// ends.
    pub(super) async fn stay_alive(self, workers: Workers) {
        let Some(patience) = sd_notify::watchdog_enabled() else { return };
        let mut due = tokio::time::interval(patience / 3);
        loop {
            due.tick().await;
            workers.has_answered().await;
            self.send(Message::Alive);
        }
    }

    fn send(&self, message: Message) {
        let _ = self.messages.try_send(message);
    }
}

fn tell_all(messages: &Receiver<Message>) {
    for message in messages {
        let sent = match &message {
            Message::Ready(status) => {
                sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(status)])
            }
            Message::Reloading => {
                let now = microseconds(clock_gettime(ClockId::Monotonic));
                sd_notify::notify(&[NotifyState::Reloading, NotifyState::MonotonicUsec(now)])
            }
            Message::Stopping(status) => {
                let extended = u32::try_from(ENDING_EXTENDED.as_micros()).unwrap_or(u32::MAX);
                let extended = NotifyState::ExtendTimeoutUsec(extended);
                sd_notify::notify(&[NotifyState::Stopping, NotifyState::Status(status), extended])
            }
            Message::Alive => sd_notify::notify(&[NotifyState::Watchdog]),
        };
        if let Err(error) = sent {
            warn!(%error, "cannot notify the service manager");
        }
    }
}

/// Returns the monotonic clock in microseconds. The one of sd-notify overflows on 32-bit machines
/// after 35 minutes of uptime.
fn microseconds(time: Timespec) -> i128 {
    i128::from(time.tv_sec) * 1_000_000 + i128::from(time.tv_nsec) / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uptime_of_more_than_35_minutes_does_not_overflow() {
        let time = Timespec { tv_sec: 36 * 60, tv_nsec: 1_999 };
        assert_eq!(microseconds(time), 2_160_000_001);
        let century = Timespec { tv_sec: 100 * 365 * 86_400, tv_nsec: 0 };
        assert_eq!(microseconds(century), 3_153_600_000_000_000);
    }
}
