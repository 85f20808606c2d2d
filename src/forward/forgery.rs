//! How many seals that do not fit are tried on a link: a limit before the cipher.
//!
//! Whoever has seen a receiver index can send frames to it. Each costs a table look-up and an AEAD
//! that fails. Beyond [`TRIES`] of these in a [`WINDOW`], frames from sources that have not proved
//! themselves are dropped unopened until the window ends. Proved are the link's endpoint and where
//! its last authentic frame came from: a flood never costs a peer its own frames, even under a forged
//! source address, for then all of them are tried, at a tenth of a microsecond each.
//!
//! Nothing is kept per source, so a flood of forged sources fills no memory.

use std::net::SocketAddr;
use std::time::Duration;

use crate::time::Instant;

/// Seals that may fail in a window: a peer that comes from a new place has that many frames under
/// another's flood to prove itself. Together 0.2 ms of a core per link.
const TRIES: u32 = 1000;
/// For how long they are counted together.
const WINDOW: Duration = Duration::from_secs(1);

/// What forgers did on one link of late.
#[derive(Debug, Default)]
pub(super) struct Forgeries {
    since: Instant,
    failed: u32,
    proved: Option<SocketAddr>,
}

impl Forgeries {
    /// Whether a frame from this source is to be dropped unopened. `endpoint`: the link's.
    pub(super) fn refuses(&mut self, now: Instant, from: SocketAddr, endpoint: SocketAddr) -> bool {
        // The good path ends here.
        if self.failed < TRIES {
            return false;
        }
        if now.since(self.since) >= WINDOW {
            self.failed = 0;
            return false;
        }
        from != endpoint && Some(from) != self.proved
    }

    /// A seal did not fit.
    pub(super) fn on_bad_tag(&mut self, now: Instant) {
        if now.since(self.since) >= WINDOW {
            (self.since, self.failed) = (now, 0);
        }
        self.failed = self.failed.saturating_add(1);
    }

    /// A seal did fit.
    pub(super) fn on_authentic(&mut self, from: SocketAddr) {
        if self.proved != Some(from) {
            self.proved = Some(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_shuts_out_strangers_for_a_window_and_nobody_who_is_proved() {
        let at = |ms: u64| Instant::from_micros(ms * 1000);
        let source = |port: u16| SocketAddr::from(([192, 0, 2, 1], port));
        let (endpoint, roamer, forger) = (source(1), source(2), source(3));
        let mut link = Forgeries::default();
        link.on_authentic(roamer);
        for _ in 0..TRIES {
            assert!(!link.refuses(at(5000), forger, endpoint));
            link.on_bad_tag(at(5000));
        }
        assert!(link.refuses(at(5500), forger, endpoint));
        assert!(link.refuses(at(5500), source(9), endpoint), "nor under another name");
        assert!(!link.refuses(at(5500), endpoint, endpoint));
        assert!(!link.refuses(at(5500), roamer, endpoint));
        assert!(!link.refuses(at(6000), forger, endpoint), "tried anew in the next window");
        link.on_bad_tag(at(6000));
        assert!(!link.refuses(at(6000), forger, endpoint));
    }
}
