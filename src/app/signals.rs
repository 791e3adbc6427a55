//! The signals that the gate receives, and what each asks for.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SignalEvent {
    /// SIGHUP: the configuration, and the audit as well.
    Reload,
    /// SIGUSR1, which nginx and Squid take for it, too.
    ReopenAudit,
    /// SIGTERM or SIGINT.
    End,
}

/// The signals that the gate receives.
pub(super) struct Signals {
    hangup: Signal,
    user: Signal,
    /// Sent when a file would outgrow RLIMIT_FSIZE. It would end the process; received, the write
    /// fails instead, and `on-full` decides.
    _file_size: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Receives them from here on.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined1())?,
            _file_size: signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) -> SignalEvent {
        tokio::select! {
            _ = self.hangup.recv() => SignalEvent::Reload,
            _ = self.user.recv() => SignalEvent::ReopenAudit,
            _ = self.terminate.recv() => SignalEvent::End,
            _ = self.interrupt.recv() => SignalEvent::End,
        }
    }
}
