//! What happened, as one number: two runs that differ anywhere differ here.
//!
//! Every datagram that is sent or arrives, every control message, every event and every packet that
//! leaves the overlay is folded in with its time. FNV-1a with 64 bits: stable over builds and
//! machines, and quick; it guards against chance, not against an adversary.

use thalweg::time::Instant;

/// Lines kept for people; later ones are only folded in.
const LINES: usize = 20_000;

/// The trace of one run.
#[derive(Clone, Debug)]
pub struct Trace {
    hash: u64,
    lines: Vec<String>,
}

impl Default for Trace {
    fn default() -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: Vec::new() }
    }
}

impl Trace {
    /// Something happened at `site`: `what` names its kind, `bytes` its content.
    pub fn note(&mut self, now: Instant, what: u8, site: usize, bytes: &[u8]) {
        self.fold(&now.as_micros().to_be_bytes());
        self.fold(&[what]);
        self.fold(&(site as u64).to_be_bytes());
        self.fold(bytes);
    }

    /// A transition worth reading.
    pub fn say(&mut self, now: Instant, site: &str, line: &str) {
        self.fold(&now.as_micros().to_be_bytes());
        self.fold(site.as_bytes());
        self.fold(line.as_bytes());
        if self.lines.len() < LINES {
            self.lines.push(format!("{now} {site}: {line}"));
        }
    }

    /// The number.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The transitions in their order.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    fn fold(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_differs_shows() {
        let hash = |us, what, site, bytes: &[u8]| {
            let mut trace = Trace::default();
            trace.note(Instant::from_micros(us), what, site, bytes);
            trace.hash()
        };
        let base = hash(1, 1, 1, b"a");
        assert_eq!(base, hash(1, 1, 1, b"a"));
        for other in [hash(2, 1, 1, b"a"), hash(1, 2, 1, b"a"), hash(1, 1, 2, b"a")] {
            assert_ne!(base, other);
        }
        assert_ne!(base, hash(1, 1, 1, b"b"));
    }
}
