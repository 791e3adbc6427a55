//! The signals of the gate and their effects.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The effect of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SignalEvent {
    /// SIGHUP: reload the configuration and reopen the audit.
    Reload,
    /// SIGUSR1: reopen the audit, as in nginx and Squid.
    ReopenAudit,
    /// SIGTERM or SIGINT.
    End,
}

/// The signals that the gate handles.
pub(super) struct Signals {
    hangup: Signal,
    user: Signal,
    /// SIGXFSZ, sent if a file would exceed RLIMIT_FSIZE. Its default action ends the process; if
    /// it is handled, the write fails and `on-full` decides.
    _file_size: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Starts to handle the signals.
    ///
    /// # Errors
    /// If the system call fails.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined1())?,
            _file_size: signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal.
    pub(super) async fn next(&mut self) -> SignalEvent {
        tokio::select! {
            _ = self.hangup.recv() => SignalEvent::Reload,
            _ = self.user.recv() => SignalEvent::ReopenAudit,
            _ = self.terminate.recv() => SignalEvent::End,
            _ = self.interrupt.recv() => SignalEvent::End,
        }
    }
}
