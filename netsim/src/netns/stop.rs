//! Ctrl-C as a value: long runs ask [`Stop`] whether they should end, and end by returning, so that
//! every namespace, process and device is dropped in order.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::sys;

/// Whether someone asked the laboratory to end.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Never asked by a signal; for tests and inner runs.
    pub fn never() -> Self {
        Self::default()
    }

    /// Takes SIGINT, SIGTERM and SIGHUP over. To be called before any thread is started. A second
    /// signal does not hurry anything: cleaning takes well under a second.
    pub fn on_signals() -> io::Result<Self> {
        let stop = Self::default();
        let signals = sys::signals()?;
        let seen = stop.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            let mut info = [0u8; 128];
            while sys::read(signals.as_raw_fd(), &mut info).is_ok() {
                seen.0.store(true, Ordering::Relaxed);
            }
        })?;
        Ok(stop)
    }

    /// Whether it is time to end.
    pub fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Waits for `span`, less if asked to end; returns whether it was.
    pub fn wait(&self, span: Duration) -> bool {
        let until = sys::monotonic_ns() + span.as_nanos() as u64;
        loop {
            let now = sys::monotonic_ns();
            if self.asked() || now >= until {
                return self.asked();
            }
            sys::sleep_until_ns(until.min(now + 50_000_000));
        }
    }
}
