//! The signals that end the daemon, or have it read its configuration again.

use tokio::signal::unix::{SignalKind, signal};

/// SIGTERM, SIGINT and SIGHUP, waited for. From its making on they no longer kill the process.
#[derive(Debug)]
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To end; the signal's name.
    End(&'static str),
    /// To read the configuration again.
    Reload,
}

impl Signals {
    /// Takes the signals over.
    ///
    /// # Errors
    /// As the system reports.
    pub fn take() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The next of them.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End("SIGTERM"),
            _ = self.interrupt.recv() => Asked::End("SIGINT"),
            _ = self.hang_up.recv() => Asked::Reload,
        }
    }
}
